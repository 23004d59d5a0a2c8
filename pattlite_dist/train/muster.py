"""The nodes that a start of training has, each of which is probed before it begins."""

import functools
from pathlib import Path

from pattlite_dist.config import Config
from pattlite_dist.runtime.notes import note
from pattlite_dist.runtime.probe import meet, probe, refuse
from pattlite_dist.runtime.world import World
from pattlite_dist.tracking.history import append, read
from pattlite_dist.tracking.nodes import kept


def muster(config: Config, world: World, run: Path, step: int, shared: bool = True) -> list[str]:
    """The names of the nodes, in the order of their ranks. Collective.

    A machine alone, which nobody could replace, is not probed outside SLURM.

    Args:
        config: of the run.
        world: which rank this is.
        run: folder; its lock is held by rank 0.
        step: that the run continues from.
        shared: whether the nodes have that folder in common.

    Raises:
        BadNode: a node cannot train; the history says which and why.
    """
    nodes = meet(world)
    settings = config.trainer
    if not settings.probe or (world.launcher != "slurm" and len(nodes) == 1):
        return nodes
    verdict = probe(
        world,
        run if shared else None,
        settings.accelerator,
        Path(config.data.cache) if config.data.cache else None,
        settings.timeout_minutes,
        functools.partial(_kept, run),
    )
    if world.main:
        for text in verdict.notes:
            note(text)
        if verdict.bad:
            append(run, "probed", step=step, bad=verdict.bad)
    refuse(verdict)
    return nodes


def _kept(run: Path) -> list[str]:
    return kept(read(run))
