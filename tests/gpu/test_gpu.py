"""Training, evaluation and audit on the pretended GPU, and what a step of it costs the host."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pattlite_dist.config import Config
from pattlite_dist.evaluation.audit import audit
from pattlite_dist.evaluation.evaluate import evaluate
from pattlite_dist.train.module import FERModule
from pattlite_dist.train.run import train
from tests.conftest import ROOT
from tests.gpu.pretended import CUDA, machine
from tests.train.harness import assert_same_training, logged

# Of one network and optimiser each; those of `fer2013-` combine what these have.
CONFIGS = sorted(
    path.stem for path in (ROOT / "configs").glob("*.yaml") if not path.stem.startswith("fer2013-")
)
# Where a network does not matter it is small.
SMALL = {"data.image_size": 48, "trainer.global_batch": 52, "trainer.eval_batch": 41}


def configured(shipped: str, shards: Path, runs: Path, **changes: Any) -> Config:
    """A configuration as it is shipped, with these keys changed."""
    tree = yaml.safe_load((ROOT / "configs" / f"{shipped}.yaml").read_text())
    places = {"data.shards": str(shards), "runs": str(runs), "wandb.mode": "disabled"}
    for key, value in {**places, **changes}.items():
        part, _, last = key.rpartition(".")
        (tree.setdefault(part, {}) if part else tree)[last] = value
    return Config.model_validate(tree)


@pytest.mark.slow
@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("name", CONFIGS)
def test_each_configuration_trains_continues_and_is_scored(
    name: str, face_shards: Path, tmp_path: Path
) -> None:
    """Optimiser, clipping, average, stages and precision as shipped."""
    changes: dict[str, Any] = {
        **SMALL, "data.bad_shards": "skip", "trainer.epochs": 2, "optim.warmup_epochs": 0.5,
        "model.weights": "none",
    }  # fmt: skip
    if name != "pattlite":
        changes |= {"model.cut": 7, "model.width": 32, "model.heads": 4}
    else:
        changes["finetune.start_epoch"] = 1
    with machine():
        train(configured(name, face_shards, tmp_path, **{**changes, "trainer.epochs": 1}))
        run = train(configured(name, face_shards, tmp_path, **changes))
        _, scored = evaluate(run, views=("one", "flip", "ten-crop"), pictures=False)
        audit(run)
    assert [step for step, _ in logged(run, "val/top1")] == [1, 3]
    best = max(value for _, value in logged(run, "val/top1"))
    assert scored.splits["val"].top1 == pytest.approx(best)


@pytest.mark.slow
@pytest.mark.usefixtures("small_network")
def test_a_run_continues_bit_for_bit_and_is_scored_as_on_the_cpu(
    face_shards: Path, tmp_path: Path
) -> None:
    same = {
        **SMALL, "optim.schedule": "constant", "trainer.epochs": 2, "trainer.precision": "bf16",
        "trainer.log_every_steps": 1,
    }  # fmt: skip
    with machine():
        whole = train(configured("demo", face_shards, tmp_path, **same, name="whole"))
        part = {**same, "trainer.epochs": 1}
        train(configured("demo", face_shards, tmp_path, **part, name="twice"))
        twice = train(configured("demo", face_shards, tmp_path, **same, name="twice"))
        _, there = evaluate(whole, pictures=False)
    assert_same_training(whole, twice)
    _, here = evaluate(whole, pictures=False)
    assert there.splits == here.splits


def test_a_steady_step_is_450_launches_at_most_and_nothing_waits(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of configs/fer2013.yaml, between two logged steps, once the average has begun."""
    changes = {
        "trainer.epochs": 1, "trainer.global_batch": 8, "optim.warmup_epochs": 0.1,
        "trainer.log_every_steps": 100,
    }  # fmt: skip
    steps: list[tuple[Counter[str], Counter[str]]] = []
    begin = FERModule.on_train_batch_start
    with machine() as gpu:

        def note(self: FERModule, batch: Any, batch_idx: int) -> None:
            steps.append((gpu.launches.copy(), gpu.waits + gpu.copies))
            gpu.reset()
            begin(self, batch, batch_idx)

        monkeypatch.setattr(FERModule, "on_train_batch_start", note)
        train(configured("fer2013", face_shards, tmp_path, **changes))
    launches, blocked = steps[6]
    assert not blocked, "\n".join(f"{n} x {line}" for line, n in blocked.most_common())
    total = sum(launches.values())
    assert total <= 450, "\n".join(f"{n} x {line}" for line, n in launches.most_common())
    print(f"{total} launches")


def test_two_devices_in_one_operation_are_refused() -> None:
    with machine(), pytest.raises(RuntimeError, match=r"cuda:0 and cpu! \(aten\.add\)"):
        torch.zeros(3).to(CUDA) + torch.zeros(3)
