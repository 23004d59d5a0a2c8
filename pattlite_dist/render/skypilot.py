"""A training as a managed job of SkyPilot, which finds machines and replaces preempted ones."""

import dataclasses
from typing import Any

from pattlite_dist.errors import UserError
from pattlite_dist.render.work import CURED, LAUNCH, Work, memory_mib

_END = "CONFIGURATION"


def task(work: Work, gpu: str | None, spot: bool) -> dict[str, Any]:
    """What `sky jobs launch` takes.

    Args:
        work: to do.
        gpu: SkyPilot's name of the GPUs.
        spot: whether to take machines that may be preempted.

    Raises:
        UserError: the run would be lost with its machine, or the kind of GPU is unknown.
    """
    profile = work.profile
    if not work.in_bucket:
        raise UserError(
            f"runs={work.config.runs} is a folder, which is lost with its machine; give --runs "
            "s3://BUCKET/runs"
        )
    resources: dict[str, Any] = {"image_id": f"docker:{work.image}", "cpus": f"{work.cores}+"}
    memory = memory_mib(profile)
    if memory is not None:
        resources["memory"] = f"{-(-memory // 1024)}+"
    if profile.gpus_per_node:
        if gpu is None:
            raise UserError(
                f"profile.gpus_per_node is {profile.gpus_per_node}, but SkyPilot asks for which "
                "GPUs; give --gpu A100, say (`sky gpus list` lists them)"
            )
        resources["accelerators"] = f"{gpu}:{profile.gpus_per_node}"
    elif gpu is not None:
        raise UserError(
            f"--gpu {gpu} is given, but profile.gpus_per_node is 0; leave it out, or set that"
        )
    resources["use_spot"] = spot
    if spot:
        work = _with_notice(work)
    # Other failures than these end the job: the agent has started its workers again by then.
    resources["job_recovery"] = {"recover_on_exit_codes": list(CURED)}
    whole: dict[str, Any] = {
        "name": work.name,
        "num_nodes": work.nodes,
        "resources": resources,
        "envs": work.environment(),
    }
    if work.wandb_key is not None:
        whole["secrets"] = {work.wandb_key: None}
    return {**whole, "run": _script(work.text)}


def _with_notice(work: Work) -> Work:
    """The same, but saved when a cloud takes a machine back: SkyPilot hears of that too late."""
    trainer = work.config.trainer.model_copy(update={"spot_notice": "auto"})
    config = work.config.model_copy(update={"trainer": trainer})
    return dataclasses.replace(work, config=config)


def _script(text: str) -> str:
    """The shell's part: the configuration, and what trains with it."""
    end = _END
    while end in text.splitlines():
        end += "_"
    return (
        f"config=$(mktemp)\ncat > \"$config\" <<'{end}'\n{text}{end}\n"
        f'exec python -m {LAUNCH} train -c "$config"\n'
    )
