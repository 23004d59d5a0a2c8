"""Score a run on val, test and the clean test: each sample once, however many processes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pattlite_dist import __version__
from pattlite_dist import world as worlds
from pattlite_dist.config import Config, parse_config
from pattlite_dist.data.fetch import fetch_manifest
from pattlite_dist.data.module import FERData, origin
from pattlite_dist.errors import UserError
from pattlite_dist.files import write_text
from pattlite_dist.metrics import Census, Result, Scores
from pattlite_dist.model.build import build_model
from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.tario import LEAK
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train.folder import load_config
from pattlite_dist.train.trainer import build_preprocess, quiet_libraries

SCHEMA_VERSION = 1


def score(
    model: torch.nn.Module, data: FERData, split: SplitName, device: torch.device
) -> dict[str, Result]:
    """Score a split; for test also `test_clean`, the samples without a copy in train.

    Collective. One view of each image, no test-time augmentation.
    """
    classes = len(data.manifest.labels)
    samples = data.manifest.samples(split)
    whole, clean = Scores(classes).to(device), Scores(classes).to(device)
    census = Census(samples).to(device)
    with torch.inference_mode():
        for batch in data.eval_dataloader(split):
            images = data.preprocess(batch["image"].to(device))
            logits = model(images.contiguous(memory_format=torch.channels_last))
            labels, counts = batch["label"].to(device), batch["counts"].to(device)
            whole.update(logits, labels, counts)
            census.update(batch["id"].to(device), counts)
            leaked = (batch["flags"].to(device) & LEAK) > 0
            clean.update(logits, labels, counts & ~leaked)
    census.compute()
    results: dict[str, Result] = {split: whole.compute(samples)}
    if split == "test":
        leaks = data.manifest.findings["test"].leaks
        results["test_clean"] = clean.compute(samples - leaks)
    return results


def choose(target: Path, run: Path) -> Path:
    """The checkpoint to score: the one given, or a run's best on val."""
    return target if target.is_file() else checkpoints.best(run / "checkpoints")


def evaluate(
    target: Path, shards: str | None = None, accelerator: str = "auto"
) -> tuple[Path, dict[str, Result]]:
    """Evaluate a run folder (its best checkpoint on val) or one of its checkpoint files.

    Writes `evaluation.json` and `confusion.png` into the run folder.

    Args:
        target: run folder or checkpoint.
        shards: score on these shards instead of the run's own.
        accelerator: auto, cpu or gpu.

    Raises:
        UserError: there is no checkpoint, or it does not fit its configuration or the shards.
    """
    quiet_libraries()
    run = target if target.is_dir() else target.parent.parent
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
        _load_state(model, content, path)
        data = FERData(config, world, build_preprocess(config, model), manifest)
        model = model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        results: dict[str, Result] = {}
        try:
            for split in ("val", "test"):
                if manifest.samples(split):
                    results.update(score(model, data, split, device))
        finally:
            data.close()
        if world.main:
            _write(run, path, content, manifest.fingerprint(), labels, results)
        return run, results
    finally:
        worlds.disconnect()


def _config(content: dict[str, Any], path: Path, run: Path, shards: str | None) -> Config:
    # A run's own file says where its shards are now; the checkpoint's what the network is.
    config = parse_config(content["pattlite"]["config"], str(path))
    here = load_config(run).data if (run / "config.yaml").exists() else config.data
    data = here.model_copy(update={"shards": shards} if shards else {})
    return config.model_copy(update={"data": data})


def _load_state(model: torch.nn.Module, content: dict[str, Any], path: Path) -> None:
    prefix = "model."
    state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} does not fit the network of its configuration ({reason}); use another one"
        ) from error


def _write(
    run: Path,
    path: Path,
    content: dict[str, Any],
    fingerprint: str,
    labels: list[str],
    results: dict[str, Result],
) -> None:
    from pattlite_dist.report import draw_confusion

    report = {
        "version": SCHEMA_VERSION,
        "created_by": f"pattlite_dist {__version__}",
        "checkpoint": path.name,
        "epoch": content["epoch"],
        "step": content["global_step"],
        "manifest": fingerprint,
        "labels": labels,
        "views": "one",
        "splits": {
            name: {**asdict(result), "recall": dict(zip(labels, result.recall, strict=True))}
            for name, result in results.items()
        },
    }
    write_text(run / "evaluation.json", json.dumps(report, indent=1) + "\n")
    draw_confusion(results, labels, run / "confusion.png")
