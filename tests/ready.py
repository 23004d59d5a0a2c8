"""A run that is ready to use, made in a second: it has not been trained."""

import tarfile
from pathlib import Path

import torch

from pattlite_dist.config import parse_config, to_tree, to_yaml
from pattlite_dist.files import write_text
from pattlite_dist.model.build import build_model
from pattlite_dist.shards.manifest import SplitName, load_manifest
from pattlite_dist.shards.sources.base import EMOTIONS
from tests.conftest import ROOT
from tests.evaluation.samples import settle

PHOTOGRAPH = ROOT / "tests" / "parity" / "photograph.png"  # one face: see tests/parity/material.py
NAME = "epoch=0002-step=00000039-top1=0.5000.ckpt"


def write_run(run: Path, shards: Path, image: bool = True, **model: object) -> Path:
    """Write a run folder with one checkpoint, whose predictions differ from image to image.

    Args:
        run: the folder.
        shards: of the run.
        image: whether the checkpoint says what its images were like.
        model: settings of the network.
    """
    network = {"cut": 7, "width": 32, "heads": 4, **model}
    config = parse_config(
        {
            "name": run.name,
            "runs": str(run.parent),
            "data": {"shards": str(shards), "image_size": 64},
            "model": network,
            "trainer": {"accelerator": "cpu"},
            "wandb": {"mode": "disabled"},
        },
        "test",
    )
    torch.manual_seed(0)
    net = build_model(config.model, config.data.image_size, len(EMOTIONS))
    settle(net, config.data.image_size)
    head = net.head if hasattr(net, "head") else net.classifier.head
    with torch.no_grad():
        head.weight *= 12
    content = {
        "epoch": 2,
        "global_step": 39,
        "state_dict": {f"model.{name}": value for name, value in net.state_dict().items()},
        "pattlite": {
            "config": to_tree(config),
            "labels": list(EMOTIONS),
            **({"image": [1, 48, 48]} if image else {}),
        },
    }
    (run / "checkpoints").mkdir(parents=True)
    torch.save(content, run / "checkpoints" / NAME)
    write_text(run / "config.yaml", to_yaml(config))
    return run


def unpack(shards: Path, split: SplitName, folder: Path) -> list[Path]:
    """Write the images of a split as files; in the order of its samples."""
    folder.mkdir(parents=True)
    paths = []
    for shard in load_manifest(shards).shards[split]:
        with tarfile.open(shards / shard.name) as archive:
            for member in archive:
                if member.name.endswith(".png"):
                    path = folder / f"{len(paths):03d}.png"
                    path.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
                    paths.append(path)
    return paths
