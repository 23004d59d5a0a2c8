"""From a configuration to a network."""

import torch
from einops import reduce
from torch import nn

from pattlite_dist.config import ModelConfig
from pattlite_dist.model.attention import AttentionClassifier, ViTBlock
from pattlite_dist.model.backbones import MobileNetV1, MobileNetV2, load_weights, probe
from pattlite_dist.model.patches import PatchEmbedding, PatchExtraction


class PattLite(nn.Module):
    """The paper's network: MobileNetV1, patch extraction, attention classifier."""

    def __init__(self, image_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone = MobileNetV1()
        self.patches = PatchExtraction(*probe(self.backbone, image_size))
        self.classifier = AttentionClassifier(256, classes, dropout=dropout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images [n, 3, S, S] to logits [n, classes]."""
        return self.classifier(self.patches(self.backbone(images)))  # type: ignore[no-any-return]


class SeedNet(nn.Module):
    """The seed's network: MobileNetV2, patch embedding, one ViT block, a linear classifier."""

    def __init__(self, config: ModelConfig, image_size: int, classes: int) -> None:
        super().__init__()
        self.backbone = MobileNetV2(config.cut)
        self.patches = PatchEmbedding(*probe(self.backbone, image_size), config.width)
        self.block = ViTBlock(config.width, config.heads, config.dropout)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images [n, 3, S, S] to logits [n, classes]."""
        tokens = self.norm(self.block(self.patches(self.backbone(images))))
        return self.head(self.dropout(reduce(tokens, "n p c -> n c", "mean")))  # type: ignore[no-any-return]


def build_model(
    config: ModelConfig, image_size: int, classes: int, pretrained: bool = True
) -> PattLite | SeedNet:
    """Build the network and, unless a checkpoint will follow, load the backbone's weights.

    Raises:
        UserError: the weights do not fit.
    """
    model: PattLite | SeedNet
    if config.name == "pattlite":
        model = PattLite(image_size, classes, config.dropout)
    else:
        model = SeedNet(config, image_size, classes)
    if pretrained and config.weights is not None:
        load_weights(model.backbone, config.weights)
    return model
