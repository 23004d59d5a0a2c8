"""What is examined: a network, the configuration that it was trained with, and shards."""

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pattlite_dist.config import Config, parse_written
from pattlite_dist.data.fetch import fetch_manifest
from pattlite_dist.data.module import FERData, origin
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.schema import AUDIT_NAME, EVALUATION_NAME, OTHERS
from pattlite_dist.location import is_local, is_pretrained
from pattlite_dist.logins import without_secrets
from pattlite_dist.model.build import MobileNetV2ViT, PattLite, build_model
from pattlite_dist.model.description import Description
from pattlite_dist.model.exported import SUFFIX, as_checkpoint, read_exported
from pattlite_dist.model.weights import find
from pattlite_dist.runtime.world import World
from pattlite_dist.shards.manifest import Manifest
from pattlite_dist.tracking.folder import load_config
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train.names import chosen, listed, run_of
from pattlite_dist.train.temperature import Mark
from pattlite_dist.train.trainer import build_preprocess


@dataclass(frozen=True)
class Subject:
    """A checkpoint, or an exported file, that has been read.

    Attributes:
        run: folder of results: the run's or the checkpoint's; for an exported file, one of its own.
        path: of the file.
        content: of the checkpoint.
        config: that the network was trained with; `data.shards` are those to use now.
        given: whether these were given, and need not be those that it was trained on.
        exported: what an exported file says of itself; None for a checkpoint.
    """

    run: Path
    path: Path
    content: dict[str, Any]
    config: Config
    given: bool = False
    exported: Description | None = None

    @property
    def labels(self) -> list[str]:
        """Class names, in the order of the network's outputs."""
        return list(self.content["pattlite"]["labels"])

    @property
    def is_best(self) -> bool:
        """Whether it is the run's best checkpoint on val."""
        folder = self.run / "checkpoints"
        best = chosen(listed(folder))
        return best is not None and self.path == folder / best.name

    @property
    def mark(self) -> Mark:
        """Which file it is."""
        return Mark(self.path.name, self.content["epoch"], self.content["global_step"])

    def find_manifest(self) -> Manifest:
        """The manifest of the shards.

        Raises:
            UserError: they cannot be read, or are not those that the checkpoint was trained on,
                and were not given.
        """
        shards = self.config.data.shards
        try:
            manifest = fetch_manifest(origin(self.config.data))
        except UserError as error:
            if is_local(shards) and not Path(shards).is_absolute() and not Path(shards).exists():
                if self.exported:
                    raise UserError(
                        f"{self.path} does not say where the shards {shards} are; give their "
                        "place, or that of others, with --shards"
                    ) from error
                raise UserError(
                    f"{self.run} names its shards {shards}, which is not in this folder; start in "
                    "the folder where it was trained, or give their place with --shards"
                ) from error
            raise
        if not self.given:
            fix = (
                "give the place of those with --shards, or score on these nonetheless, in a folder "
                f"of their own, with `--shards {without_secrets(shards)}`"
            )
            where = without_secrets(shards)
            checkpoints.check_shards(self.content, self.path, manifest.fingerprint(), where, fix)
        return manifest

    def folder(self, manifest: Manifest) -> Path:
        """Where results on shards are written: the run's folder if it was trained on them.

        Those on other shards are in `evaluation/NAME` in it, with the name of their folder. A
        further set of that name has the beginning of its fingerprint added.
        """
        now = manifest.fingerprint()
        if not self.given or checkpoints.shards_of(self.content) in (None, now):
            return self.run
        folder = self.run / OTHERS / set_name(self.config.data.shards)
        return folder if known_shards(folder) in (None, now) else Path(f"{folder}-{now[:8]}")

    def build(self) -> PattLite | MobileNetV2ViT:
        """The network of the configuration, its weights not yet loaded."""
        config = self.config
        return build_model(config.model, config.data.image_size, len(self.labels))

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
    """Read a run's best checkpoint on val, or the given checkpoint or exported file.

    Args:
        target: run folder, checkpoint, exported .safetensors file, or `pretrained[:NAME]`.
        shards: to use instead of the run's own.

    Raises:
        UserError: there is no such folder or file, or it is not one of ours.
    """
    if is_pretrained(str(target)) or target.suffix == SUFFIX:
        return _read_exported(target, shards)
    run = _run_of(target)
    path = target if target.is_file() else checkpoints.best(run / "checkpoints")
    content = checkpoints.load(path)
    # The run's own file says where its shards are now; the checkpoint's, what the network is.
    config = parse_written(content["pattlite"]["config"], str(path))
    here = load_config(run).data if (run / "config.yaml").exists() else config.data
    # The size is part of what the network is, and the fold of what it was trained on.
    of_run = ("image_size", "folds", "fold")
    changes: dict[str, Any] = {name: getattr(config.data, name) for name in of_run}
    changes.update({"shards": shards} if shards else {})
    data = here.model_copy(update=changes)
    return Subject(run, path, content, config.model_copy(update={"data": data}), bool(shards))


def _read_exported(target: Path, shards: str | None) -> Subject:
    installed = is_pretrained(str(target))
    path = find(str(target)) if installed else target
    description, state = read_exported(path)
    content = checkpoints.checked(as_checkpoint(description, state), path)
    config = parse_written(description.config, str(path))
    if shards:
        data = config.data.model_copy(update={"shards": shards})
        config = config.model_copy(update={"data": data})
    # Not beside an installed file, whose folder is not the user's.
    run = (Path() if installed else path.parent) / f"{path.stem}-evaluation"
    return Subject(run, path, content, config, bool(shards), description)


def _run_of(target: Path) -> Path:
    if target.is_dir():
        folder = run_of(target)
        if (folder / "checkpoints").is_dir():
            return folder
        runs = sorted(path.parent.name for path in target.glob("*/checkpoints"))
        others = f"; {target} contains {', '.join(runs[:5])}" if runs else ""
        raise UserError(
            f"{target} is not a run folder: it has no folder `checkpoints`; give a run folder or "
            f"one of its checkpoints{others}"
        )
    if not target.is_file():
        raise UserError(f"{target} does not exist; give a run folder or one of its checkpoints")
    return run_of(target.parent)


def set_name(shards: str) -> str:
    """The name of a set in a run's folder: the last part of its place."""
    last = without_secrets(shards).rstrip("/").rpartition("/")[2]
    if is_local(shards):
        last = Path(shards).absolute().name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-") or "shards"


def known_shards(folder: Path) -> str | None:
    """The fingerprint of the shards that the results in a folder are of; None without results."""
    for name in (EVALUATION_NAME, AUDIT_NAME):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            return str(json.loads((folder / name).read_text(encoding="utf-8"))["manifest"])
    return None
