"""A training as an indexed Job of Kubernetes, which needs no operator.

Each machine is a pod. A headless Service gives the first one a name, at which all meet; the
configuration is a ConfigMap. What becomes of a pod that ends follows from its exit status, by
podFailurePolicy and, for several machines, successPolicy (Kubernetes 1.31 or later).
"""

from dataclasses import dataclass
from typing import Any

from pattlite_dist.errors import UserError
from pattlite_dist.location import is_local
from pattlite_dist.render.work import CURED, LAUNCH, Work, folder_of, memory_mib
from pattlite_dist.runtime.elastic import MISTAKE
from pattlite_dist.runtime.launch import FIRST, NODES

Tree = dict[str, Any]
CONTAINER = "node"  # the name that Kubeflow requires
_CONFIG, _FILE = "/etc/pattlite", "config.yaml"


@dataclass(frozen=True)
class Access:
    """What the pods of a namespace may use.

    Attributes:
        secret: name of the Secret with keys for buckets and for Weights & Biases.
        volume: name of a PersistentVolumeClaim, to be mounted at the folder of runs.
    """

    secret: str = "pattlite"
    volume: str | None = None


def job(work: Work, access: Access) -> list[Tree]:
    """The ConfigMap, the Service and the Job.

    Raises:
        UserError: the run would be lost with its pod.
    """
    meeting: Tree = {}
    if work.nodes > 1:
        meeting = {NODES: str(work.nodes), FIRST: f"{work.name}-0.{work.name}"}
    template = pod(work, access, meeting)
    if work.nodes > 1:
        template["spec"]["subdomain"] = work.name
    spec = {
        "completionMode": "Indexed",
        "completions": work.nodes,
        "parallelism": work.nodes,
        # The first machine ends last. One that was lost just then would be replaced by one that
        # finds nobody.
        **({"successPolicy": {"rules": [{"succeededIndexes": "0"}]}} if work.nodes > 1 else {}),
        **ending(work),
        "template": template,
    }
    whole = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(work), "spec": spec,
    }  # fmt: skip
    return [config_map(work), *([_service(work)] if work.nodes > 1 else []), whole]


def metadata(work: Work) -> Tree:
    """The name and the label by which all that belongs to a run is found."""
    return {"name": work.name, "labels": {"app.kubernetes.io/name": work.name}}


def config_map(work: Work) -> Tree:
    """The configuration."""
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(work),
        "data": {_FILE: work.text},
    }  # fmt: skip


def _service(work: Work) -> Tree:
    spec = {
        "clusterIP": "None",
        # The pods look for the first one before all of them are ready.
        "publishNotReadyAddresses": True,
        "selector": {"app.kubernetes.io/name": work.name},
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(work), "spec": spec}


def ending(work: Work) -> Tree:
    """What a Job does when a pod ends.

    A mistake fails the Job at once. What another start cures does not use up the tries: SIGTERM,
    lost machines, and DisruptionTarget, which Kubernetes notes at a preemption or a drain. The
    first rule that fits decides.
    """

    def exits(action: str, *statuses: int) -> Tree:
        codes = {"containerName": CONTAINER, "operator": "In", "values": list(statuses)}
        return {"action": action, "onExitCodes": codes}

    preempted = {"type": "DisruptionTarget", "status": "True"}
    return {
        "backoffLimit": work.profile.max_requeues,
        # Two pods of one index would be two owners of one run.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [preempted]},
                exits("FailJob", MISTAKE),
                exits("Ignore", *CURED),
            ]
        },
    }


def pod(work: Work, access: Access, more: dict[str, str]) -> Tree:
    """The template of the pods.

    Args:
        work: that they do.
        access: what they may use.
        more: variables beside those of the work.

    Raises:
        UserError: the run would be lost with its pod.
    """
    mounts = [
        {"name": "config", "mountPath": _CONFIG, "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    volumes: list[Tree] = [
        {"name": "config", "configMap": {"name": work.name}},
        # 64 MB by default, too few for loader processes.
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    if access.volume is not None:
        if work.in_bucket:
            raise UserError(
                f"--volume {access.volume} is for runs in a folder, but runs={work.config.runs} is "
                "in a bucket; leave one of them out"
            )
        mounts.append({"name": "runs", "mountPath": folder_of(work)})
        volumes.append({"name": "runs", "persistentVolumeClaim": {"claimName": access.volume}})
    elif not work.in_bucket:
        raise UserError(
            f"runs={work.config.runs} is a folder, which is lost with its pod; give --runs "
            "s3://BUCKET/runs, or --volume CLAIM to mount a PersistentVolumeClaim there"
        )
    container: Tree = {
        "name": CONTAINER,
        "image": work.image,
        "command": ["python", "-m", LAUNCH, "train", "-c", f"{_CONFIG}/{_FILE}"],
        "env": [*_variables({**work.environment(), **more}), *_keys(work, access)],
    }
    if work.in_bucket or not is_local(work.config.data.shards):
        container["envFrom"] = [{"secretRef": {"name": access.secret, "optional": True}}]
    container.update(
        resources=_resources(work),
        volumeMounts=mounts,
        # The line that says what is wrong is the last of the log, and so shown by `describe`.
        terminationMessagePolicy="FallbackToLogsOnError",
    )
    spec = {
        "restartPolicy": "Never",  # podFailurePolicy requires it: the Job makes a new pod
        "terminationGracePeriodSeconds": work.profile.signal_seconds,
        "containers": [container],
        "volumes": volumes,
    }
    return {"metadata": {"labels": metadata(work)["labels"]}, "spec": spec}


def _variables(values: dict[str, str]) -> list[Tree]:
    # Kubernetes would replace $(NAME), and takes $$ for $.
    return [{"name": name, "value": value.replace("$", "$$")} for name, value in values.items()]


def _keys(work: Work, access: Access) -> list[Tree]:
    if work.wandb_key is None:
        return []
    source = {"name": access.secret, "key": work.wandb_key, "optional": True}
    return [{"name": work.wandb_key, "valueFrom": {"secretKeyRef": source}}]


def _resources(work: Work) -> Tree:
    """The same as requests and as limits, so that a pod is among the last to be evicted."""
    amounts: Tree = {"cpu": str(work.cores)}
    memory = memory_mib(work.profile)
    if memory is not None:
        amounts["memory"] = f"{memory}Mi"
    if work.profile.gpus_per_node:
        amounts["nvidia.com/gpu"] = str(work.profile.gpus_per_node)
    return {"requests": amounts, "limits": dict(amounts)}
