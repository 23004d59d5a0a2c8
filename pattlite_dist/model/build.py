"""From a configuration to a network."""

import logging

import torch
from einops import reduce
from torch import nn

from pattlite_dist.data.settings import AugmentConfig
from pattlite_dist.errors import UserError
from pattlite_dist.model.attention import Attention, AttentionClassifier, ViTBlock
from pattlite_dist.model.backbones import MobileNetV1, MobileNetV2, probe
from pattlite_dist.model.patches import PatchEmbedding, PatchExtraction
from pattlite_dist.model.settings import ModelConfig
from pattlite_dist.runtime.world import detect

log = logging.getLogger(__name__)

Normalised = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of channels, 0-1


class PattLite(nn.Module):
    """The paper's network: MobileNetV1, patch extraction, attention classifier.

    Attributes:
        batch_dependent: whether a prediction depends on the other samples of its batch.
    """

    def __init__(
        self,
        image_size: int,
        classes: int,
        dropout: float,
        attention: Attention = "patches",
        width_mult: float = 1.0,
    ) -> None:
        super().__init__()
        self.batch_dependent = attention == "batch"
        self.backbone = MobileNetV1(width_mult)
        self.patches = PatchExtraction(probe(self.backbone, image_size)[0])
        self.classifier = AttentionClassifier(256, classes, dropout=dropout, attention=attention)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images [n, 3, S, S] to logits [n, classes]."""
        return self.classifier(self.patches(self.backbone(images)))  # type: ignore[no-any-return]


class MobileNetV2ViT(nn.Module):
    """This package's own: MobileNetV2, patch embedding, one ViT block, a linear classifier."""

    batch_dependent = False

    def __init__(self, config: ModelConfig, image_size: int, classes: int) -> None:
        super().__init__()
        self.backbone = MobileNetV2(config.cut, config.width_mult)
        self.patches = PatchEmbedding(*probe(self.backbone, image_size), config.width)
        self.block = ViTBlock(config.width, config.heads, config.dropout)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images [n, 3, S, S] to logits [n, classes]."""
        tokens = self.norm(self.block(self.patches(self.backbone(images))))
        return self.head(self.dropout(reduce(tokens, "n p c -> n c", "mean")))  # type: ignore[no-any-return]


def network(config: ModelConfig, image_size: int, classes: int) -> PattLite | MobileNetV2ViT:
    """The network with randomly initialised weights."""
    if config.name == "pattlite":
        return PattLite(image_size, classes, config.dropout, config.attention, config.width_mult)
    return MobileNetV2ViT(config, image_size, classes)


def build_model(config: ModelConfig, image_size: int, classes: int) -> PattLite | MobileNetV2ViT:
    """Build the network, with random weights.

    Warns, once per job, if predictions will depend on the batch.
    """
    model = network(config, image_size, classes)
    if model.batch_dependent and detect().main:
        log.warning(
            "model.attention=batch is the published error, for study only: every prediction "
            "depends on the other images of its batch; it cannot be exported or used to predict"
        )
    return model


def normalisation(augment: AugmentConfig, model: PattLite | MobileNetV2ViT) -> Normalised:
    """By what a network's input is normalised: what is configured, or else its backbone's."""
    return augment.mean or model.backbone.mean, augment.std or model.backbone.std


def synchronise(model: nn.Module, ranks: int, gpu: bool) -> None:
    """Make BatchNorm compute its statistics over all ranks; names in a checkpoint stay the same.

    In pattlite's classifier the running variance is then the unbiased one.

    Args:
        model: any network that is not itself a BatchNorm layer; changed in place.
        ranks: how many train it; there is nothing to do for one.
        gpu: whether they train on GPUs.

    Raises:
        UserError: there are several ranks without GPUs, for which torch has no such layer.
    """
    if ranks == 1:
        return
    if not gpu:
        raise UserError(
            "model.sync_batchnorm=true requires GPUs, and this run has none; leave it out, or "
            "train in one process"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]


def refuse_batch_dependent(model: nn.Module, purpose: str) -> None:
    """Refuse what requires a prediction to be a function of its image alone.

    Args:
        model: any network; only those with a true `batch_dependent` are refused.
        purpose: what was requested; follows "refusing to".

    Raises:
        UserError: the model's predictions depend on the batch.
    """
    if getattr(model, "batch_dependent", False):
        raise UserError(
            f"refusing to {purpose}: this network was trained with model.attention=batch, so its "
            "predictions depend on the other images of the batch; train with "
            "model.attention=patches"
        )
