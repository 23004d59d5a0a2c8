"""Synthetic predictions for tests."""

import numpy as np
import torch
from torch import nn

from pattlite_dist.evaluation.predictions import Predictions
from pattlite_dist.evaluation.schema import Independence
from pattlite_dist.shards.tario import BLANK, LEAK

CLASSES = ["angry", "happy", "sad", "neutral"]
INDEPENDENT = Independence(samples=2, tolerance=1e-5, together=1e-7, reordered=2e-7, companions=0)


def predictions(
    n: int, seed: int = 0, views: tuple[str, ...] = ("one",), soft: bool = False
) -> Predictions:
    """Right more often than not; every fifth sample is a leak, every seventh blank."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, len(CLASSES), n)
    tables = {}
    for view in views:
        logits = draw.normal(size=(n, len(CLASSES))) + 1.5 * np.eye(len(CLASSES))[labels]
        tables[view] = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ids = np.arange(n)
    flags = LEAK * (ids % 5 == 0) + BLANK * (ids % 7 == 0)
    target = draw.dirichlet(np.ones(len(CLASSES)), n) if soft else None
    return Predictions(ids, labels, flags.astype(np.uint8), tables, target)  # type: ignore[arg-type]


def settle(net: nn.Module, size: int = 48) -> None:
    """Give BatchNorm the statistics of images, without which all images are nearly the same."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(16, 3, size, size, generator=draw) * torch.rand(16, 1, 1, 1, generator=draw)
    with torch.no_grad():
        for _ in range(2):
            net.train()(images * 2 - 1)
    net.eval()
