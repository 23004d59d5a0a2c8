"""Score a run on val, test and the clean test: each sample once, however many processes."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from pattlite_dist import __version__
from pattlite_dist.compat.torch import check
from pattlite_dist.data.module import FERData, origin
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.bootstrap import LEVEL, RESAMPLES, SEED
from pattlite_dist.evaluation.calibration import calibrate, calibrated_scores
from pattlite_dist.evaluation.classes import Classes
from pattlite_dist.evaluation.collect import collect
from pattlite_dist.evaluation.independence import measure_split
from pattlite_dist.evaluation.origins import Origins, read_origins
from pattlite_dist.evaluation.predictions import Predictions, pack_predictions
from pattlite_dist.evaluation.schema import (
    PREDICTIONS_NAME,
    Bootstrap,
    Evaluation,
    Independence,
    Part,
    PartScores,
    PredictionsFile,
    View,
)
from pattlite_dist.evaluation.scores import score, worst_mistakes
from pattlite_dist.evaluation.subject import Subject, read_subject
from pattlite_dist.evaluation.views import predictor
from pattlite_dist.files import atomic_write
from pattlite_dist.logins import without_secrets
from pattlite_dist.model.build import refuse_batch_dependent
from pattlite_dist.runtime import world as worlds
from pattlite_dist.shards.manifest import Manifest, SplitName
from pattlite_dist.tracking.history import append
from pattlite_dist.tracking.wandb_run import add_to_summary
from pattlite_dist.train.temperature import save_calibration
from pattlite_dist.train.trainer import quiet_libraries


def evaluate(
    target: Path,
    shards: str | None = None,
    accelerator: str = "auto",
    views: Sequence[View] = ("one",),
    pictures: bool = True,
) -> tuple[Path, Evaluation]:
    """Evaluate a run folder (its best checkpoint on val), a checkpoint, or an exported file.

    Writes `evaluation.json`, `predictions.npz` and pictures, after everything has been computed:
    into the run folder or, of other shards than those that it was trained on, into a folder in it.
    A file has a folder of its own for them, NAME-evaluation.

    Args:
        target: run folder, checkpoint, exported .safetensors file, or `pretrained[:NAME]`.
        shards: to use instead of the run's own; scored are the classes that they share.
        accelerator: auto, cpu or gpu.
        views: to score, each separately; the first is `one`.
        pictures: whether to draw them.

    Raises:
        UserError: there is no checkpoint, or it does not match its configuration or the shards.
    """
    quiet_libraries()
    check()
    subject = read_subject(target, shards)
    config = subject.config
    world = worlds.detect()
    with worlds.group(world, accelerator, config.trainer.timeout_minutes):
        device = worlds.device(world, accelerator)
        manifest = subject.find_manifest()
        classes, run = Classes(subject.labels, manifest.labels), subject.folder(manifest)
        classes.check(without_secrets(config.data.shards))
        model = subject.build()
        refuse_batch_dependent(model, "evaluate")
        data = subject.stream(model, manifest, world)
        model = subject.load(model, device)
        splits: dict[SplitName, Predictions] = {}
        try:
            for split in ("val", "test"):
                if manifest.samples(split):
                    splits[split] = collect(model, data, split, device, views, len(subject.labels))
            found = {part: classes.scored(one) for part, one in parts(splits, manifest).items()}
            found = {part: one for part, one in found.items() if len(one)}
            splits = {split: found[split] for split in splits if split in found}
            if not splits:
                raise UserError(f"{config.data.shards} has neither val nor test to score; add one")
            origins = {
                split: read_origins(origin(config.data), manifest, split).where(one.ids)
                for split, one in splits.items()
            }
            packed = pack_predictions(classes.both, splits, origins)
            independence = _independence(subject.path, model, data, list(splits)[-1], device)
            evaluation = _evaluation(subject, manifest, classes, found, views, packed, independence)
            if "val" in splits and run == subject.run and subject.labels == manifest.labels:
                fitted = calibrate(subject, splits["val"], evaluation.manifest)
                calibrated = calibrated_scores(fitted.temperature, found)
                evaluation = evaluation.model_copy(update={"calibration": calibrated})
                if world.main and not subject.exported:
                    save_calibration(run, fitted)
            if world.main:
                with atomic_write(run / PREDICTIONS_NAME) as stream:
                    stream.write(packed)
                if pictures:
                    _draw(run, evaluation, splits, found, data, origins)
                evaluation.save(run)  # last, once the files it names exist
                if run == subject.run and not subject.exported:
                    append(run, "evaluated", kind="evaluate", checkpoint=subject.path.name,
                           splits=list(splits))  # fmt: skip
                    if subject.is_best:
                        add_to_summary(config, run, _summary(evaluation))
        finally:
            data.close()
        return run, evaluation


def _summary(evaluation: Evaluation) -> dict[str, float]:
    """What W&B is told of the best checkpoint; it knows of val already."""
    return {
        f"best/{part}_{name}": getattr(scores, name)
        for part, scores in evaluation.splits.items()
        if part != "val"
        for name in ("top1", "macro_f1")
    }


def parts(splits: Mapping[SplitName, Predictions], manifest: Manifest) -> dict[Part, Predictions]:
    """What is scored: the splits, and the samples of test without a copy in train.

    The latter only if the set marks copies and any samples are left.

    Raises:
        UserError: the marks do not match the manifest's count.
    """
    found: dict[Part, Predictions] = {
        split: predictions for split, predictions in splits.items() if split != "train"
    }
    if "test" in splits and manifest.options.leaks != "keep":
        clean, leaks = splits["test"].clean(), manifest.findings["test"].leaks
        if len(splits["test"]) - len(clean) != leaks:
            raise UserError(
                f"the manifest counts {leaks} samples of test with a copy in train, "
                f"but {len(splits['test']) - len(clean)} are marked; create the shards again"
            )
        if len(clean):
            found["test_clean"] = clean
    return found


def _independence(
    path: Path, model: torch.nn.Module, data: FERData, split: SplitName, device: torch.device
) -> Independence:
    """Measured by each rank itself: it takes a second and gives the same result on all of them."""
    found = measure_split(predictor(model, data.preprocess), data.reader(split), device)
    if not found.holds:
        raise UserError(
            f"{path}: a prediction depends on the other images of its batch (a probability moves "
            f"by {found.largest:.2g}), so it has no accuracy; see `pattlite audit`, fix the network"
        )
    return found


def _evaluation(
    subject: Subject,
    manifest: Manifest,
    classes: Classes,
    found: Mapping[Part, Predictions],
    views: Sequence[View],
    packed: bytes,
    independence: Independence,
) -> Evaluation:
    scores: dict[View, dict[Part, PartScores]] = {
        view: {part: score(one, classes.both, view) for part, one in found.items()}
        for view in views
    }
    return Evaluation(
        created_by=f"pattlite_dist {__version__}",
        checkpoint=subject.path.name,
        epoch=subject.content["epoch"],
        step=subject.content["global_step"],
        manifest=manifest.fingerprint(),
        labels=classes.both,
        only_network=classes.only_network,
        only_shards=classes.only_shards,
        views=list(views),
        splits=scores["one"],
        more_views={view: scores[view] for view in views[1:]},
        independence=independence,
        bootstrap=Bootstrap(resamples=RESAMPLES, seed=SEED, level=LEVEL),
        predictions=PredictionsFile(
            name=PREDICTIONS_NAME, sha256=hashlib.sha256(packed).hexdigest()
        ),
    )


def _draw(
    run: Path,
    evaluation: Evaluation,
    splits: Mapping[SplitName, Predictions],
    found: Mapping[Part, Predictions],
    data: FERData,
    origins: Mapping[SplitName, Origins],
) -> None:
    from pattlite_dist.evaluation import pictures
    from pattlite_dist.shards.glyphs import unformatted

    where = f"{run.resolve().name} on {data.manifest.source.name}: {evaluation.checkpoint}"
    pictures.draw_scores(run, found, evaluation.splits, evaluation.labels, where)
    split: SplitName = "test" if "test" in splits else "val"
    worst = worst_mistakes(splits[split], pictures.MISTAKES)
    images = data.reader(split).gather(worst.ids).block.images
    wrong = int((splits[split].guesses() != splits[split].labels).sum())
    title = f"{split}: the {len(worst)} most confident of {wrong:,} mistakes (true → predicted)"
    title = unformatted([f"{where}\n{title}"])[0]
    names = origins[split].where(np.searchsorted(splits[split].ids, worst.ids)).names()
    pictures.draw_mistakes(run, images, worst, evaluation.labels, title, names)
