"""What is examined: a checkpoint, the configuration its network was trained with, and shards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pattlite_dist.config import Config, parse_written
from pattlite_dist.data.fetch import fetch_manifest
from pattlite_dist.data.module import FERData, origin
from pattlite_dist.errors import UserError
from pattlite_dist.model.build import MobileNetV2ViT, PattLite, build_model
from pattlite_dist.runtime.world import World
from pattlite_dist.shards.manifest import Manifest
from pattlite_dist.tracking.folder import load_config
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train.trainer import build_preprocess


@dataclass(frozen=True)
class Subject:
    """A checkpoint that has been read.

    Attributes:
        run: folder that results are written into: the run's, or the checkpoint's.
        path: of the checkpoint.
        content: of the checkpoint.
        config: that the network was trained with; `data.shards` are those to use now.
    """

    run: Path
    path: Path
    content: dict[str, Any]
    config: Config

    @property
    def labels(self) -> list[str]:
        """Class names, in the order of the network's outputs."""
        return list(self.content["pattlite"]["labels"])

    def find_manifest(self) -> Manifest:
        """The manifest of the shards.

        Raises:
            UserError: they cannot be read, or have other classes.
        """
        manifest = fetch_manifest(origin(self.config.data))
        if self.labels != manifest.labels:
            raise UserError(
                f"{self.path} has the classes {self.labels}, but the shards have "
                f"{manifest.labels}; give shards with the same labels"
            )
        return manifest

    def build(self) -> PattLite | MobileNetV2ViT:
        """The network of the configuration, its weights not yet loaded."""
        config = self.config
        return build_model(config.model, config.data.image_size, len(self.labels), pretrained=False)

    def load(
        self, model: PattLite | MobileNetV2ViT, device: torch.device
    ) -> PattLite | MobileNetV2ViT:
        """The network with the checkpoint's weights, in evaluation mode, on a device.

        Raises:
            UserError: they are those of another network.
        """
        checkpoints.load_weights(model, self.content, self.path)
        return model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]

    def stream(self, model: PattLite | MobileNetV2ViT, manifest: Manifest, world: World) -> FERData:
        """The shards, with the preprocessing that turns their images into the network's input."""
        return FERData(self.config, world, build_preprocess(self.config, model), manifest)


def read_subject(target: Path, shards: str | None = None) -> Subject:
    """Read a run's best checkpoint on val, or the given checkpoint.

    Args:
        target: run folder or checkpoint.
        shards: to use instead of the run's own.

    Raises:
        UserError: there is no such folder or checkpoint, or it is not one of ours.
    """
    run = _run_of(target)
    path = target if target.is_file() else checkpoints.best(run / "checkpoints")
    content = checkpoints.load(path)
    # The run's own file says where its shards are now; the checkpoint's, what the network is.
    config = parse_written(content["pattlite"]["config"], str(path))
    here = load_config(run).data if (run / "config.yaml").exists() else config.data
    # The size is part of what the network is.
    changes = {"image_size": config.data.image_size, **({"shards": shards} if shards else {})}
    data = here.model_copy(update=changes)
    return Subject(run, path, content, config.model_copy(update={"data": data}))


def _run_of(target: Path) -> Path:
    if target.is_dir():
        return target
    if not target.is_file():
        raise UserError(f"{target} does not exist; give a run folder or one of its checkpoints")
    return target.parent.parent if target.parent.name == "checkpoints" else target.parent
