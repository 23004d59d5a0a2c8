"""Checkpoint file names, which contain all that is needed to choose among checkpoints.

`epoch=0003-step=00000896-top1=0.6412.ckpt`, without `top1` if val was not scored at that step.
Only this module decides which checkpoint is the newest and which are the best.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(r"^epoch=(\d+)-step=(\d+)(?:-top1=(\d\.\d+))?\.ckpt$")


class Found(NamedTuple):
    """A checkpoint as described by its file name; `top1` is -1 if val was not scored."""

    step: int
    top1: float
    epoch: int
    name: str


def parse_name(name: str) -> Found | None:
    """Parse a file name; None if it is not that of a checkpoint."""
    match = _NAME.match(name)
    if match is None:
        return None
    return Found(int(match[2]), float(match[3] or -1), int(match[1]), name)


def make_name(epoch: int, step: int, top1: float | None) -> str:
    """The file name of a checkpoint."""
    score = "" if top1 is None else f"-top1={top1:.4f}"
    return f"epoch={epoch:04d}-step={step:08d}{score}.ckpt"


def superfluous(names: Iterable[str], keep_best: int) -> list[str]:
    """Names to remove: all but the two newest and the `keep_best` best (earliest if tied).

    The newest but one is for a run whose newest is damaged; the best may be of long ago.
    """
    found = sorted(item for item in map(parse_name, names) if item is not None)
    kept = {item.name for item in [*found[-2:], *ranked(found)[:keep_best]]}
    return sorted(item.name for item in found if item.name not in kept)


def ranked(found: Iterable[Found]) -> list[Found]:
    """Checkpoints scored on val, best first; ties are in order of step."""
    scored = [item for item in found if item.top1 >= 0]
    return sorted(scored, key=lambda item: (-item.top1, item.step))


def chosen(found: Iterable[Found]) -> Found | None:
    """The checkpoint to use: the best on val; without scores, the newest; None without any."""
    found = list(found)
    best = ranked(found)
    return best[0] if best else max(found, default=None)


def run_of(target: Path) -> Path:
    """The run that a path means: of its folder, its folder of checkpoints, or one of these.

    A checkpoint that lies elsewhere means the folder that it is in.
    """
    folder = target.parent if target.suffix == ".ckpt" else target
    if folder.absolute().name != "checkpoints":
        return folder
    return folder.parent if folder.name else folder.absolute().parent


def listed(folder: Path) -> list[Found]:
    """The checkpoints in a folder, unordered."""
    return [item for path in folder.glob("*.ckpt") if (item := parse_name(path.name)) is not None]
