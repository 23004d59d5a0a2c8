"""Audit a checkpoint: what its accuracy depends on besides the images and the weights."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pattlite_dist import __version__
from pattlite_dist.compat.torch import check
from pattlite_dist.console import Progress
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.findings import (
    Audit,
    Ids,
    Marked,
    Order,
    Scored,
    Selection,
    facts,
    flaws,
    guesses,
    marked,
    orders,
    select,
)
from pattlite_dist.evaluation.independence import measure_split
from pattlite_dist.evaluation.subject import Subject, read_subject
from pattlite_dist.evaluation.views import predictor
from pattlite_dist.model.build import MobileNetV2ViT, PattLite
from pattlite_dist.runtime import world as worlds
from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.tario import BLANK, LEAK
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train.names import listed
from pattlite_dist.train.trainer import quiet_libraries


def audit(
    target: Path,
    shards: str | None = None,
    split: SplitName | None = None,
    batch: int = 32,
    accelerator: str = "auto",
    progress: Progress = lambda what, done, total: None,
) -> tuple[Path, Audit]:
    """Audit a run folder (its best checkpoint on val), a checkpoint, or an exported file.

    Networks whose predictions depend on their batch are audited too, although nothing else scores
    them. Writes `audit.json` into the run folder or, of other shards than those that it was trained
    on, into a folder in it. A file has a folder of its own for it, NAME-evaluation.

    Args:
        target: run folder, checkpoint, exported .safetensors file, or `pretrained[:NAME]`.
        shards: to use instead of the run's own.
        split: to audit; None is test, or val if there is no test.
        batch: samples per batch; 32 is the default of Keras' `evaluate`, and so of the reference
            code.
        accelerator: auto, cpu or gpu.
        progress: called with the number of samples predicted.

    Raises:
        UserError: there is no checkpoint, or it does not match its configuration or the shards, or
            this is one of several processes.
    """
    quiet_libraries()
    check()
    world = worlds.detect()
    if world.size > 1:
        raise UserError(
            f"`pattlite audit` runs in one process, but this is one of {world.size}; start it alone"
        )
    subject = read_subject(target, shards)
    manifest = subject.find_manifest()
    folder = subject.folder(manifest)
    if subject.labels != manifest.labels:
        raise UserError(
            f"{subject.path} has the classes {', '.join(subject.labels)}, but the shards have "
            f"{', '.join(manifest.labels)}; audit on shards with the same, or score those of both "
            "with `pattlite evaluate --shards`"
        )
    split = split or ("test" if manifest.samples("test") else "val")
    if not manifest.samples(split):
        raise UserError(f"{subject.config.data.shards} has no {split} to audit; use another split")
    device = worlds.device(world, accelerator)
    model = subject.build()
    data = subject.stream(model, manifest, world)
    model = subject.load(model, device)
    reader, predict = data.reader(split), predictor(model, data.preprocess)

    def right(what: str, ids: Ids, size: int) -> NDArray[np.bool_]:
        told = guesses(predict, reader, ids, size, device, lambda n: progress(what, n, len(ids)))
        same: NDArray[np.bool_] = told == labels
        return same

    labels, flags = facts(reader)
    independence = measure_split(predict, reader, device)
    alone = right("one by one", np.arange(len(reader)), 1)
    top1: dict[Order, float] = {"one_by_one": float(alone.mean())}
    ordered = orders(labels)
    for order, ids in ordered.items():
        top1[order] = float(right(order.replace("_", " "), ids, batch).mean())
    selection = None
    if split == "test":  # last, because it loads other checkpoints into the network
        shuffled = partial(right, ids=ordered["shuffled"], size=batch)
        selection = _selection(subject, model, shuffled, top1["shuffled"])
    found = Audit(
        created_by=f"pattlite_dist {__version__}",
        checkpoint=subject.path.name,
        manifest=manifest.fingerprint(),
        split=split,
        samples=len(reader),
        batch=batch,
        batch_dependent=model.batch_dependent,
        independence=independence,
        top1=top1,
        flaws={name: flaws(manifest, name) for name in manifest.shards if manifest.samples(name)},
        leaks=_marked(alone, flags, LEAK, manifest.options.leaks),
        blank=_marked(alone, flags, BLANK, manifest.options.blanks),
        selection=selection,
    )
    return found.save(folder), found


def _marked(
    right: NDArray[np.bool_], flags: NDArray[np.uint8], flag: int, how: str
) -> Marked | None:
    return None if how == "keep" else marked(right, (flags & flag) > 0)


def _selection(
    subject: Subject,
    model: PattLite | MobileNetV2ViT,
    right: Callable[[str], NDArray[np.bool_]],
    known: float,
) -> Selection | None:
    """Score every checkpoint of the run that was scored on val; leaves another one loaded.

    Args:
        subject: the audited checkpoint.
        model: the network that `right` uses.
        right: given a name for the progress, which samples the network gets right.
        known: the subject's top-1, 0-1.
    """
    kept = sorted(item for item in listed(subject.path.parent) if item.top1 >= 0)
    if len(kept) < 2 or subject.exported:
        return None
    scored = []
    for item in kept:
        path, top1 = subject.path.with_name(item.name), known
        if path != subject.path:
            checkpoints.load_weights(model, checkpoints.load(path), path)
            top1 = float(right(f"epoch {item.epoch}").mean())
        scored.append(Scored(name=item.name, epoch=item.epoch, val=item.top1, top1=top1))
    return select(scored)
