"""Made-up predictions, for tests that need some."""

import numpy as np

from pattlite_dist.evaluation.predictions import Predictions
from pattlite_dist.shards.tario import BLANK, LEAK

CLASSES = ["angry", "happy", "sad", "neutral"]


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
