"""Network settings."""

from typing import Literal

from pydantic import model_validator

from pattlite_dist.location import Weights
from pattlite_dist.settings import Strict, setting

V1_BLOCKS = 10  # in pattlite's MobileNetV1, as counted by `finetune.unfreeze`


class ModelConfig(Strict):
    """Network architecture."""

    name: Literal["mobilenetv2-vit", "pattlite"] = setting(
        "mobilenetv2-vit",
        free=False,
        description="mobilenetv2-vit: MobileNetV2, patches, ViT block. pattlite: the paper's, on "
        "MobileNetV1.",
    )
    attention: Literal["patches", "none", "batch"] = setting(
        "patches",
        free=False,
        description="pattlite: over a sample's patches; none; or, as published and for study only, "
        "over the batch: predictions then depend on the rest of the batch.",
    )
    cut: int = setting(
        14,
        free=False,
        ge=7,
        le=19,
        description="mobilenetv2-vit: keep MobileNetV2 features[:cut]; 14 ends at stride 16, 19 "
        "keeps all.",
    )
    width_mult: float = setting(
        1.0,
        free=False,
        gt=0,
        le=4,
        description="Factor of the backbone's channels, as Keras' alpha. `imagenet` is of 1.",
    )
    weights: Weights | None = setting(
        None,
        free=True,
        description="What a new run begins with: `imagenet` (the backbone's, downloaded from "
        "torchvision), a local file of a backbone's weights, a checkpoint, a run folder or an "
        "exported file of yours, or `pretrained[:NAME]`, which is installed (the whole network, "
        "but not the head of other classes), or `none`.",
    )
    freeze: int = setting(
        0,
        free=False,
        ge=0,
        description="Number of first backbone blocks that stay as loaded, BatchNorm's statistics "
        "included, and take no part in the backward pass.",
    )
    width: int = setting(128, free=False, ge=8, description="mobilenetv2-vit: token width.")
    heads: int = setting(8, free=False, ge=1, description="mobilenetv2-vit: attention heads.")
    dropout: float = setting(
        0.1, free=False, ge=0, lt=1, description="Dropout before the classifier."
    )
    sync_batchnorm: bool = setting(
        False,
        free=False,
        description="On several GPUs, compute BatchNorm's statistics over all of them.",
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    @property
    def blocks(self) -> int:
        """The backbone's number of blocks."""
        return V1_BLOCKS if self.name == "pattlite" else self.cut

    @model_validator(mode="after")
    def _backbone_has_what_is_frozen(self) -> "ModelConfig":
        if self.freeze > self.blocks:
            raise ValueError(f"freeze {self.freeze} is above the backbone's {self.blocks} blocks")
        return self

    @model_validator(mode="after")
    def _imagenet_has_this_width(self) -> "ModelConfig":
        if self.weights == "imagenet" and self.width_mult != 1:
            raise ValueError(
                f"weights imagenet are those of width_mult 1, not {self.width_mult:g}; give a file"
            )
        return self

    @model_validator(mode="after")
    def _variants_are_pattlites(self) -> "ModelConfig":
        if self.name != "pattlite" and self.attention != "patches":
            raise ValueError(f"attention {self.attention} requires name pattlite, not {self.name}")
        return self
