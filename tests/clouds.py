"""What SkyPilot and Kubeflow themselves read of the manifests in `tests/render/golden`.

    python tests/clouds.py

`make test-cloud` makes an environment for it, as SkyPilot is half a gigabyte. Nothing is started,
and no login is needed.
"""

import sys
from pathlib import Path
from typing import Any

import sky
import yaml
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from kubeflow_trainer_api.models.trainer_v1alpha1_training_runtime import (
    TrainerV1alpha1TrainingRuntime,
)

GOLDEN = Path(__file__).resolve().parent / "render" / "golden"


def without_none(tree: Any) -> Any:
    """The models write what is not set as None."""
    if isinstance(tree, dict):
        return {key: without_none(value) for key, value in tree.items() if value is not None}
    return [without_none(value) for value in tree] if isinstance(tree, list) else tree


def main() -> int:
    """Read each; 0 if nothing was refused or lost."""
    for path in sorted(GOLDEN.glob("skypilot*.yaml")):
        tree = yaml.safe_load(path.read_text())
        task = sky.Task.from_yaml_config(tree, secrets_overrides=[("WANDB_API_KEY", "x")])
        assert task.num_nodes == 2 and task.run is not None, path
        print(f"{path.name}: {task.resources}")
    _, runtime, job = yaml.safe_load_all((GOLDEN / "trainjob.yaml").read_text())
    for model, tree in (
        (TrainerV1alpha1TrainingRuntime, runtime),
        (TrainerV1alpha1TrainJob, job),
    ):
        read = model.from_dict(tree)
        assert read is not None and without_none(read.to_dict()) == tree, model.__name__
        print(f"trainjob.yaml: {model.__name__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
