"""A run, a checkpoint or a .safetensors file, computed by PyTorch exactly as `evaluate` does."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pattlite_dist import __version__
from pattlite_dist.config import given_away, to_tree
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.calibration import known_temperature
from pattlite_dist.evaluation.subject import Subject, read_subject
from pattlite_dist.evaluation.views import Prepare, predictor
from pattlite_dist.model.build import MobileNetV2ViT, PattLite, refuse_batch_dependent
from pattlite_dist.model.description import Description
from pattlite_dist.runtime.devices import use_gpu
from pattlite_dist.shards.manifest import ImageInfo
from pattlite_dist.shards.sources.base import Pixels
from pattlite_dist.train.checkpoint import shards_of
from pattlite_dist.train.temperature import tempered
from pattlite_dist.train.trainer import build_preprocess


class TorchNetwork:
    """See `network.Network`.

    Args:
        model: its weights loaded, in evaluation mode, on `device`.
        prepare: converts uint8 images to its input.
        device: to compute on.
        description: of both.
    """

    def __init__(
        self,
        model: PattLite | MobileNetV2ViT,
        prepare: Prepare,
        device: torch.device,
        description: Description,
    ) -> None:
        self.model, self.prepare, self.description = model, prepare, description
        self._device, self._predict = device, predictor(model, prepare)

    def probabilities(self, images: Pixels) -> NDArray[np.float64]:
        """Map uint8 [n, C, H, W], of the description's form, to probabilities [n, classes]."""
        with torch.inference_mode():
            table = self._predict(torch.from_numpy(images).to(self._device)).cpu().numpy()
        return tempered(table, self.description.temperature or 1.0)


def read_network(path: Path, accelerator: str) -> TorchNetwork:
    """Open a run folder, a checkpoint, or an exported .safetensors file.

    Raises:
        UserError: it cannot be used, or the form of its images is not known.
    """
    subject = read_subject(path)
    return network_of(subject, image_form(subject), _device(accelerator))


def network_of(subject: Subject, image: ImageInfo, device: torch.device) -> TorchNetwork:
    """The network of a checkpoint, calibrated if the run has been.

    Raises:
        UserError: the weights do not fit, or its predictions depend on the batch.
    """
    model = subject.build()
    refuse_batch_dependent(model, "predict")
    model = subject.load(model, device)
    description = subject.exported or _describe(subject, image)
    return TorchNetwork(model, build_preprocess(subject.config, model), device, description)


def _describe(subject: Subject, image: ImageInfo) -> Description:
    found = known_temperature(subject)
    return Description(
        created_by=f"pattlite_dist {__version__}",
        labels=subject.labels,
        image=image,
        temperature=None if found is None else found.temperature,
        checkpoint=subject.path.name,
        epoch=subject.content["epoch"],
        step=subject.content["global_step"],
        shards=shards_of(subject.content),
        manifest=None if found is None else found.manifest,
        config=to_tree(given_away(subject.config)),
    )


def image_form(subject: Subject) -> ImageInfo:
    """The form of the images that a network was trained on.

    Raises:
        UserError: its checkpoint is of an earlier version and its shards are gone.
    """
    stored = subject.content["pattlite"].get("image")
    if stored is not None:
        return ImageInfo(**dict(zip(("channels", "height", "width"), stored, strict=True)))
    try:
        return subject.find_manifest().image
    except UserError as error:
        raise UserError(
            f"{subject.path} is of an earlier version and does not say what its images were like, "
            f"and its shards do not either ({error}); copy them back, or set data.shards in the "
            "run's config.yaml"
        ) from error


def _device(accelerator: str) -> torch.device:
    return torch.device("cuda" if use_gpu(accelerator) else "cpu")
