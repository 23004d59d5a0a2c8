"""What can be wrong with a score: its batches, leaks, blank images, and choice of epoch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from pattlite_dist.data.reader import ShardReader
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.independence import Predict
from pattlite_dist.evaluation.schema import AUDIT_NAME, Independence
from pattlite_dist.files import parse_json, write_text
from pattlite_dist.settings import Strict
from pattlite_dist.shards.manifest import Manifest, SplitName

Order = Literal["one_by_one", "shuffled", "class_order"]
Ids = NDArray[np.int64]


class Group(Strict):
    """Some samples of a split; `top1` is for predictions one by one, None without samples."""

    samples: int = Field(ge=0)
    top1: float | None = Field(ge=0, le=1)


class Flaws(Strict):
    """Known flaws of a split; None if the set does not mark them.

    Attributes:
        samples: of the split.
        leaks: samples with an identical image in train.
        blank: samples without any contrast.
    """

    samples: int = Field(gt=0)
    leaks: int | None
    blank: int | None


class Marked(Strict):
    """Samples with a mark, and those without."""

    marked: Group
    others: Group


class Scored(Strict):
    """A checkpoint of the run: its top-1 on val, from its name, and on the audited split."""

    name: str
    epoch: int
    val: float
    top1: float


class Selection(Strict):
    """What choosing the checkpoint on the audited split would have gained.

    Attributes:
        checkpoints: all that the run has kept, in the order of training.
        chosen: the best on val.
        best: the best on the audited split.
        gain: its top-1 minus that of the chosen one.
    """

    checkpoints: list[Scored]
    chosen: str
    best: str
    gain: float = Field(ge=0, le=1)


class Audit(Strict):
    """`audit.json`.

    Attributes:
        split: the audited split; `samples` is its size.
        batch: samples per batch; the last batch of a pass is short.
        batch_dependent: whether the network is of a kind whose predictions depend on their batch.
        independence: whether they do, as measured.
        top1: by the way the split was divided into batches.
        flaws: of every split.
        leaks: the audited split's samples with an identical image in train, and the others.
        blank: those without contrast, and the others.
        selection: None if there is only one checkpoint, or val was audited.
    """

    format: Literal["pattlite-audit"] = "pattlite-audit"
    version: Literal[1] = 1
    created_by: str
    checkpoint: str
    manifest: str
    split: SplitName
    samples: int = Field(gt=0)
    batch: int = Field(gt=0)
    batch_dependent: bool
    independence: Independence
    top1: dict[Order, float]
    flaws: dict[SplitName, Flaws]
    leaks: Marked | None
    blank: Marked | None
    selection: Selection | None

    def save(self, run: Path) -> Path:
        """Write `audit.json` into `run`, whole or not at all; returns its path."""
        write_text(run / AUDIT_NAME, self.model_dump_json(indent=1) + "\n")
        return run / AUDIT_NAME


def read_audit(run: Path) -> Audit:
    """Read a run's `audit.json`.

    Raises:
        UserError: it is missing, not JSON, or not an audit.
    """
    path, again = run / AUDIT_NAME, f"run `pattlite audit {run}`"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {again}") from error
    return parse_json(data, Audit, str(path), again)


def flaws(manifest: Manifest, split: SplitName) -> Flaws:
    """What the manifest records about a split."""
    found, marks = manifest.findings[split], manifest.options
    return Flaws(
        samples=manifest.samples(split),
        leaks=None if marks.leaks == "keep" else found.leaks,
        blank=None if marks.blanks == "keep" else found.in_the_set(found.blank_rows),
    )


def facts(reader: ShardReader) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Labels and flags of a split, by id; its images are read a part at a time."""
    parts = np.array_split(np.arange(len(reader)), -(-len(reader) // 4096))
    found = [(block.labels, block.flags) for block in (reader.gather(p).block for p in parts)]
    labels, flags = zip(*found, strict=True)
    return np.concatenate(labels), np.concatenate(flags)


def orders(labels: NDArray[np.int64], seed: int = 0) -> dict[Order, Ids]:
    """The samples shuffled, and class by class as in the published test arrays.

    Args:
        labels: int64 [n].
        seed: of the shuffling.
    """
    return {
        "shuffled": np.random.default_rng(seed).permutation(len(labels)),
        "class_order": np.argsort(labels, kind="stable"),
    }


def guesses(
    predict: Predict,
    reader: ShardReader,
    ids: Ids,
    batch: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> NDArray[np.int64]:
    """The predicted classes of a split's samples, batched in the order of `ids`.

    Returns:
        int64 [n], by id.
    """
    found = np.empty(len(ids), np.int64)
    with torch.inference_mode():
        for start in range(0, len(ids), batch):
            part = ids[start : start + batch]
            images = torch.from_numpy(reader.gather(part).block.images).to(device)
            found[part] = predict(images).argmax(1).cpu().numpy()
            progress(start + len(part))
    return found


def marked(right: NDArray[np.bool_], mark: NDArray[np.bool_]) -> Marked:
    """The samples with a mark and those without; both bool [n]."""
    return Marked(marked=_group(right[mark]), others=_group(right[~mark]))


def _group(right: NDArray[np.bool_]) -> Group:
    return Group(samples=len(right), top1=float(right.mean()) if len(right) else None)


def select(scored: Sequence[Scored]) -> Selection:
    """Compare choosing on val with choosing on the audited split; the earlier wins a tie."""
    ordered = sorted(scored, key=lambda item: item.epoch)
    chosen = max(ordered, key=lambda item: item.val)
    best = max(ordered, key=lambda item: item.top1)
    return Selection(
        checkpoints=ordered, chosen=chosen.name, best=best.name, gain=best.top1 - chosen.top1
    )
