"""Score a run on val, test and the clean test: each sample once, however many processes."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pattlite_dist import __version__
from pattlite_dist import world as worlds
from pattlite_dist.config import Config, parse_config
from pattlite_dist.data.fetch import fetch_manifest
from pattlite_dist.data.module import FERData, origin
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.bootstrap import LEVEL, RESAMPLES, SEED
from pattlite_dist.evaluation.collect import collect
from pattlite_dist.evaluation.predictions import Predictions, pack_predictions
from pattlite_dist.evaluation.schema import (
    PREDICTIONS_NAME,
    Bootstrap,
    Evaluation,
    Part,
    PartScores,
    PredictionsFile,
    View,
)
from pattlite_dist.evaluation.scores import score, worst_mistakes
from pattlite_dist.files import atomic_write
from pattlite_dist.model.build import build_model, refuse_batch_dependent
from pattlite_dist.shards.manifest import Manifest, SplitName
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train.folder import load_config
from pattlite_dist.train.trainer import build_preprocess, quiet_libraries


def run_of(target: Path) -> Path:
    """The folder that an evaluation of `target` writes into: a run, or where a checkpoint lies.

    Raises:
        UserError: there is no such folder or checkpoint.
    """
    if target.is_dir():
        return target
    if not target.is_file():
        raise UserError(f"{target} does not exist; give a run folder or one of its checkpoints")
    return target.parent.parent if target.parent.name == "checkpoints" else target.parent


def choose(target: Path, run: Path) -> Path:
    """The checkpoint to score: the one given, or a run's best on val."""
    return target if target.is_file() else checkpoints.best(run / "checkpoints")


def evaluate(
    target: Path,
    shards: str | None = None,
    accelerator: str = "auto",
    views: Sequence[View] = ("one",),
    pictures: bool = True,
) -> tuple[Path, Evaluation]:
    """Evaluate a run folder (its best checkpoint on val) or one of its checkpoint files.

    Writes `evaluation.json`, `predictions.npz` and pictures into the run folder, once all of it is
    known.

    Args:
        target: run folder or checkpoint.
        shards: score on these shards instead of the run's own.
        accelerator: auto, cpu or gpu.
        views: that are scored, each for itself; the first is `one`.
        pictures: whether to draw them.

    Raises:
        UserError: there is no checkpoint, or it does not fit its configuration or the shards.
    """
    quiet_libraries()
    run = run_of(target)
    path = choose(target, run)
    content = checkpoints.load(path)
    config = _config(content, path, run, shards)
    world = worlds.detect()
    worlds.connect(world, accelerator, config.trainer.timeout_minutes)
    try:
        device = worlds.device(world, accelerator)
        manifest = fetch_manifest(origin(config.data))
        labels = content["pattlite"]["labels"]
        if labels != manifest.labels:
            raise UserError(
                f"{path} knows the classes {labels}, the shards have {manifest.labels}; "
                "give shards with the same labels"
            )
        model = build_model(config.model, config.data.image_size, len(labels), pretrained=False)
        refuse_batch_dependent(model, "evaluate")
        checkpoints.load_weights(model, content, path)
        data = FERData(config, world, build_preprocess(config, model), manifest)
        model = model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        splits: dict[SplitName, Predictions] = {}
        try:
            for split in ("val", "test"):
                if manifest.samples(split):
                    splits[split] = collect(model, data, split, device, views)
            if not splits:
                raise UserError(f"{config.data.shards} has neither val nor test to score; add one")
            found = parts(splits, manifest)
            packed = pack_predictions(labels, splits)
            evaluation = _evaluation(path, content, manifest, found, views, packed)
            if world.main:
                with atomic_write(run / PREDICTIONS_NAME) as stream:
                    stream.write(packed)
                if pictures:
                    _draw(run, evaluation, splits, found, data)
                evaluation.save(run)  # last: what it names is there
        finally:
            data.close()
        return run, evaluation
    finally:
        worlds.disconnect()


def parts(splits: Mapping[SplitName, Predictions], manifest: Manifest) -> dict[Part, Predictions]:
    """What is scored: the splits, and of test the samples that have no copy in train.

    The latter only where the set marks copies, and where any sample is left.

    Raises:
        UserError: the marks are not those that the manifest counts.
    """
    found: dict[Part, Predictions] = {
        split: predictions for split, predictions in splits.items() if split != "train"
    }
    if "test" in splits and manifest.options.leaks != "keep":
        clean, leaks = splits["test"].clean(), manifest.findings["test"].leaks
        if len(splits["test"]) - len(clean) != leaks:
            raise UserError(
                f"the manifest counts {leaks} samples of test with a copy in train, "
                f"{len(splits['test']) - len(clean)} are marked so; create the shards again"
            )
        if len(clean):
            found["test_clean"] = clean
    return found


def _config(content: dict[str, Any], path: Path, run: Path, shards: str | None) -> Config:
    # A run's own file says where its shards are now; the checkpoint's what the network is.
    config = parse_config(content["pattlite"]["config"], str(path))
    here = load_config(run).data if (run / "config.yaml").exists() else config.data
    # The size is part of what the network is.
    data = here.model_copy(
        update={"image_size": config.data.image_size, **({"shards": shards} if shards else {})}
    )
    return config.model_copy(update={"data": data})


def _evaluation(
    path: Path,
    content: dict[str, Any],
    manifest: Manifest,
    found: Mapping[Part, Predictions],
    views: Sequence[View],
    packed: bytes,
) -> Evaluation:
    scores: dict[View, dict[Part, PartScores]] = {
        view: {part: score(one, manifest.labels, view) for part, one in found.items()}
        for view in views
    }
    return Evaluation(
        created_by=f"pattlite_dist {__version__}",
        checkpoint=path.name,
        epoch=content["epoch"],
        step=content["global_step"],
        manifest=manifest.fingerprint(),
        labels=manifest.labels,
        views=list(views),
        splits=scores["one"],
        more_views={view: scores[view] for view in views[1:]},
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
) -> None:
    from pattlite_dist.evaluation import pictures

    pictures.draw_scores(run, found, evaluation.splits, evaluation.labels)
    split: SplitName = "test" if "test" in splits else "val"
    worst = worst_mistakes(splits[split], pictures.MISTAKES)
    images = data.reader(split).gather(worst.ids).block.images
    wrong = int((splits[split].guesses() != splits[split].labels).sum())
    title = f"{split}: the {len(worst)} most confident of {wrong:,} mistakes (true → predicted)"
    pictures.draw_mistakes(run, images, worst, evaluation.labels, title)
