"""Attention over the patches of one sample, never over the samples of a batch.

The reference code of PAtt-Lite hands its attention a [batch, 32] tensor, so that a prediction
depends on its companions. Here tokens are always [batch, patches, width].
"""

import torch
from einops import rearrange, reduce
from torch import nn
from torch.nn import functional as F


class AttentionClassifier(nn.Module):
    """PAtt-Lite's classifier (arXiv:2306.09626, section III-C), on patches.

    A dense layer of width 32 with ReLU and BatchNorm for each patch; dot-product attention with
    one learned scale and no projections, as Keras' `Attention(use_scale=True)`; the mean over
    patches; a linear layer.
    """

    def __init__(self, inputs: int, classes: int, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(inputs, width)
        self.norm = nn.BatchNorm1d(width, eps=1e-3, momentum=0.01)
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(width, classes)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Map patches [n, p, inputs] to logits [n, classes]."""
        tokens = F.relu(self.dense(self.dropout(patches)))
        tokens = rearrange(
            self.norm(rearrange(tokens, "n p c -> (n p) c")), "(n p) c -> n p c", n=len(patches)
        )
        weights = (self.scale * tokens @ tokens.transpose(1, 2)).softmax(-1)
        return self.head(reduce(weights @ tokens, "n p c -> n c", "mean"))  # type: ignore[no-any-return]


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
