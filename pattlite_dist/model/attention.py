"""Attention over the patches of one sample.

The reference code of PAtt-Lite passes a [batch, 32] tensor to its attention, so a prediction
depends on the rest of the batch. That variant is kept for study; no other looks beyond a sample.
"""

from typing import Literal

import torch
from einops import rearrange, reduce
from torch import nn
from torch.nn import functional as F

from pattlite_dist.errors import UserError

Attention = Literal["patches", "none", "batch"]


class KerasBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm of [n, c] as in Keras: epsilon 1e-3, momentum 0.99, and a biased running variance.

    PyTorch keeps the unbiased variance, which is n / (n - 1) times as large: a seventh more at the
    published batch of 8. (For images, Keras keeps the unbiased one too.)
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, c] to [n, c], normalised by channel.

        Raises:
            UserError: in training, n is 1.
        """
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        if len(x) == 1:
            raise UserError(
                "the classifier's BatchNorm cannot normalise one image per rank; "
                "raise trainer.global_batch, train on fewer ranks, or use model.attention=patches"
            )
        with torch.no_grad():
            var, mean = torch.var_mean(x.to(self.running_var.dtype), 0, correction=0)
            self.running_mean.lerp_(mean, self.momentum or 0)
            self.running_var.lerp_(var, self.momentum or 0)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


class AttentionClassifier(nn.Module):
    """PAtt-Lite's classifier (arXiv:2306.09626, section III-C).

    A dense layer of width 32 with ReLU and BatchNorm; dot-product attention with one learned scale
    and no projections, like Keras' `Attention(use_scale=True)`; a linear layer.

    Args:
        inputs: channels of a patch.
        classes: logits.
        width: of the dense layer.
        dropout: before the dense layer.
        attention: what attends to what. patches: a sample's patches attend to each other, and
            their mean goes to the linear layer. none: the patches' mean is classified. batch: as
            in the reference code, the means of all samples in the batch attend to each other; a
            sample alone gets the same result as with `none`.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        width: int = 32,
        dropout: float = 0.1,
        attention: Attention = "patches",
    ) -> None:
        super().__init__()
        self.attention = attention
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(inputs, width)
        self.norm = KerasBatchNorm1d(width)
        if attention != "none":
            self.scale = nn.Parameter(torch.ones(()))
        self.head_dropout = nn.Dropout(0.0)  # for fine-tuning only
        self.head = nn.Linear(width, classes)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Map patches [n, p, inputs] to logits [n, classes]."""
        if self.attention != "patches":
            patches = reduce(patches, "n p c -> n 1 c", "mean")
        tokens = F.relu(self.dense(self.dropout(patches)))
        n = patches.shape[0]  # `len` would fix the batch of an exported network
        flat = self.norm(rearrange(tokens, "n p c -> (n p) c"))
        tokens = rearrange(flat, "(n p) c -> n p c", n=n)
        if self.attention == "patches":
            tokens = self._attend(tokens)
        elif self.attention == "batch":
            tokens = self._attend(tokens.transpose(0, 1)).transpose(0, 1)
        return self.head(self.head_dropout(reduce(tokens, "n p c -> n c", "mean")))  # type: ignore[no-any-return]

    def _attend(self, tokens: torch.Tensor) -> torch.Tensor:
        weights = (self.scale * tokens @ tokens.transpose(1, 2)).softmax(-1)
        return weights @ tokens


class ViTBlock(nn.Module):
    """A pre-norm transformer block (Dosovitskiy et al., arXiv:2010.11929)."""

    def __init__(self, width: int, heads: int, dropout: float, mlp_ratio: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_ratio * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map [n, p, width] to [n, p, width]."""
        q, k, v = rearrange(
            self.qkv(self.norm1(tokens)), "n p (three h d) -> three n h p d", three=3, h=self.heads
        ).unbind(0)
        mixed = rearrange(F.scaled_dot_product_attention(q, k, v), "n h p d -> n p (h d)")
        tokens = tokens + self.dropout(self.out(mixed))
        return tokens + self.dropout(self.mlp(self.norm2(tokens)))  # type: ignore[no-any-return]
