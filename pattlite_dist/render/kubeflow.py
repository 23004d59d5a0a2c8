"""A training as a TrainJob of Kubeflow Trainer 2, with a runtime of its own.

A TrainJob refers to a runtime. One of Kubeflow's would not know our exit statuses, the grace period
or /dev/shm, and so ours goes with it. Kubeflow adds the variables of torchrun (PET_…).
"""

from pattlite_dist.render.kubernetes import (
    CONTAINER,
    Access,
    Tree,
    config_map,
    ending,
    metadata,
    pod,
)
from pattlite_dist.render.work import Work

_API = "trainer.kubeflow.org/v1alpha1"


def train_job(work: Work, access: Access) -> list[Tree]:
    """The ConfigMap, the TrainingRuntime and the TrainJob.

    Raises:
        UserError: the run would be lost with its pod.
    """
    inner = {
        "name": CONTAINER,
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {**ending(work), "template": pod(work, access, {})},
        },
    }
    runtime = {
        "apiVersion": _API,
        "kind": "TrainingRuntime",
        "metadata": metadata(work),
        "spec": {
            "mlPolicy": {"numNodes": work.nodes, "torch": {}},
            # Without maxRestarts, a Job that has failed for good fails the whole.
            "template": {"spec": {"replicatedJobs": [inner]}},
        },
    }
    job = {
        "apiVersion": _API,
        "kind": "TrainJob",
        "metadata": metadata(work),
        "spec": {"runtimeRef": {"kind": "TrainingRuntime", "name": work.name}},
    }
    return [config_map(work), runtime, job]
