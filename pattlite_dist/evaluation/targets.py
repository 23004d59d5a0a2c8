"""Make targets for training: each sample's mean probabilities over runs and views."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pattlite_dist import __version__
from pattlite_dist.compat.torch import check
from pattlite_dist.console import Progress
from pattlite_dist.data.folds import folds_of
from pattlite_dist.data.targets import SUFFIX, Facts, SourceRun, Targets, save_targets
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.collect import collect
from pattlite_dist.evaluation.predictions import Predictions
from pattlite_dist.evaluation.schema import View
from pattlite_dist.evaluation.subject import Subject, read_subject
from pattlite_dist.files import sha256_file
from pattlite_dist.logins import without_secrets
from pattlite_dist.model.build import refuse_batch_dependent
from pattlite_dist.runtime import world as worlds
from pattlite_dist.runtime.world import World
from pattlite_dist.shards.manifest import Manifest, SplitName
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train.trainer import quiet_libraries


class Softened(torch.nn.Module):
    """A network whose logits are divided by a temperature."""

    def __init__(self, model: torch.nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images to logits [n, classes]."""
        logits: torch.Tensor = self.model(images)
        return logits / self.temperature


def make_targets(
    runs: Sequence[Path],
    out: Path,
    shards: str | None = None,
    split: SplitName = "train",
    view: View = "flip",
    temperature: float = 1.0,
    accelerator: str = "auto",
    progress: Progress = lambda what, done, total: None,
) -> tuple[Targets, float]:
    """Write the targets of a split, the mean of several runs. Collective.

    Args:
        runs: run folders, of which the best checkpoint on val counts, or checkpoints.
        out: file to write.
        shards: to use instead of the runs' own.
        split: whose samples get targets.
        view: of each image: itself, the mean with its mirror, or of ten crops.
        temperature: that logits are divided by before they become probabilities.
        accelerator: auto, cpu or gpu.
        progress: called on rank 0.

    Returns:
        The targets, and the share of samples whose most probable class is their label.

    Raises:
        UserError: a run cannot be read or has other classes, the runs are of different shards, or
            of folds that do not cover the samples.
    """
    if out.suffix != SUFFIX or out.is_dir():
        raise UserError(
            f"{out}: the last argument is the file to write, with a name that ends in {SUFFIX}"
        )
    quiet_libraries()
    check()
    subjects = [_of_all_samples(read_subject(run, shards)) for run in runs]
    sources = [_source(subject) for subject in subjects]
    if len({source.sha256 for source in sources}) < len(sources):
        raise UserError("a checkpoint is given twice, and would count twice; leave one out")
    world = worlds.detect()
    with worlds.group(world, accelerator, subjects[0].config.trainer.timeout_minutes):
        manifest = _common_manifest(subjects)
        samples = manifest.samples(split)
        if not samples:
            where = without_secrets(subjects[0].config.data.shards)
            raise UserError(f"{where} has no samples of {split}; choose another --split")
        device = worlds.device(world, accelerator)
        outside = _outside(subjects, manifest, split, world)
        total = np.zeros((samples, len(manifest.labels)))
        counts = np.zeros(samples, np.uint8)
        labels = np.zeros(samples, np.int64)
        for number, subject in enumerate(subjects, 1):
            what = f"{subject.run.name} ({number} of {len(subjects)})"

            def tell(done: int, what: str = what) -> None:
                if world.main:
                    progress(what, done, samples)

            found = _predict(subject, manifest, split, view, temperature, device, world, tell)
            table = _columns(found.probabilities[view], subject.labels, manifest.labels)
            held = outside[number - 1]
            total[held] += table[held]
            counts += held.astype(np.uint8)
            labels = found.labels
        shares = total / counts[:, None]
        facts = Facts(
            created_by=f"pattlite_dist {__version__}",
            manifest=manifest.fingerprint(),
            split=split,
            labels=manifest.labels,
            view=view,
            temperature=temperature,
            runs=sources,
        )
        targets = Targets(facts, shares, counts)
        if world.main:
            save_targets(out, targets)
        return targets, float((shares.argmax(1) == labels).mean())


def _source(subject: Subject) -> SourceRun:
    return SourceRun(
        run=subject.run.resolve().name,
        checkpoint=subject.path.name,
        sha256=sha256_file(subject.path),
    )


def _of_all_samples(subject: Subject) -> Subject:
    """The same, but a bad shard of train stops it: every sample has to have a target."""
    data = subject.config.data.model_copy(update={"bad_shards": "stop"})
    return replace(subject, config=subject.config.model_copy(update={"data": data}))


def _common_manifest(subjects: Sequence[Subject]) -> Manifest:
    """The manifest of the shards that all runs are of.

    Raises:
        UserError: there is none, or a run has other classes.
    """
    manifest = subjects[0].find_manifest()
    for subject in subjects:
        if subject.find_manifest().fingerprint() != manifest.fingerprint():
            raise UserError(
                f"{subject.run} and {subjects[0].run} were trained on different shards; give those "
                "that targets are for with --shards"
            )
        if sorted(subject.labels) != sorted(manifest.labels):
            raise UserError(
                f"{subject.path} has the classes {', '.join(subject.labels)}, but the shards have "
                f"{', '.join(manifest.labels)}; give runs with the same classes"
            )
    return manifest


def _outside(
    subjects: Sequence[Subject], manifest: Manifest, split: SplitName, world: World
) -> list[NDArray[np.bool_]]:
    """Of which samples each run's predictions are used, bool [samples].

    If runs left out a fold of these samples, each is asked about that alone. Otherwise all are
    asked about all.

    Raises:
        UserError: some left out a fold and others none, or a sample is in no fold that was.
    """
    every = np.ones(manifest.samples(split), bool)
    parted = [subject for subject in subjects if _left_out(subject, manifest)]
    if split != "train" or not parted:
        return [every for _ in subjects]
    if len(parted) < len(subjects):
        whole = next(subject for subject in subjects if not _left_out(subject, manifest))
        raise UserError(
            f"{whole.run} was trained on all samples, but {parted[0].run} left out a fold "
            "(data.folds), which only such runs may be asked about; leave one of them out"
        )
    folds: dict[int, NDArray[np.int64]] = {}
    found = []
    for subject in parted:
        data = subject.config.data
        if data.folds not in folds:
            stream = subject.stream(subject.build(), manifest, world)
            folds[data.folds] = folds_of(stream.reader("train"), data.folds)
        found.append(folds[data.folds] == data.fold)
    missing = every & ~np.any(found, axis=0)
    if missing.any():
        given = ", ".join(f"{one.config.data.fold} of {one.config.data.folds}" for one in parted)
        raise UserError(
            f"{missing.sum():,} of {len(every):,} samples are in no fold that a run left out "
            f"(given: {given}); give a run of every fold"
        )
    return found


def _left_out(subject: Subject, manifest: Manifest) -> bool:
    """Whether a run left out a fold of these shards."""
    same = checkpoints.shards_of(subject.content) == manifest.fingerprint()
    return same and subject.config.data.folds > 1


def _predict(
    subject: Subject,
    manifest: Manifest,
    split: SplitName,
    view: View,
    temperature: float,
    device: torch.device,
    world: World,
    tell: Callable[[int], None],
) -> Predictions:
    model = subject.build()
    refuse_batch_dependent(model, "make targets")
    data = subject.stream(model, manifest, world)
    softened = Softened(subject.load(model, device), temperature).eval()
    try:
        return collect(softened, data, split, device, tuple({"one": 0, view: 0}), tell=tell)
    finally:
        data.close()


def _columns(
    table: NDArray[np.float64], theirs: Sequence[str], ours: Sequence[str]
) -> NDArray[np.float64]:
    """The columns of a table, [n, classes], in the order of other class names."""
    found: NDArray[np.float64] = table[:, [list(theirs).index(name) for name in ours]]
    return found
