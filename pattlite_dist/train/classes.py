"""How often an epoch sees each class, and how much the loss weighs it."""

import numpy as np

from pattlite_dist.config import Config
from pattlite_dist.data.balance import class_places
from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import Manifest


def class_weights(config: Config, manifest: Manifest) -> list[float] | None:
    """What the loss multiplies each class's term by; None if all are 1.

    As `weight` of `torch.nn.CrossEntropyLoss`, but such that their mean over the samples of an
    epoch is 1, by their labels: the loss can then be the plain mean over a global batch. That is
    the same however a batch is shared between ranks, where a mean over each rank's weights is not.
    A class without samples has weight 1.

    Raises:
        UserError: a list of weights is not as long as that of the classes.
    """
    chosen = config.optim.class_weights
    if chosen == "none":
        return None
    places = class_places(np.array(manifest.class_counts("train")), config.data.balance)
    if isinstance(chosen, tuple):
        if len(chosen) != len(places):
            raise UserError(
                f"optim.class_weights lists {len(chosen)} weights, but {config.data.shards} has "
                f"{len(places)} classes; give one for each of {', '.join(manifest.labels)}"
            )
        weights = np.array(chosen)
    else:
        weights = np.maximum(places, 1) ** (-1.0 if chosen == "inverse" else -0.5)
    weights = weights * (places.sum() / (weights * places).sum())
    return [float(weight) for weight in np.where(places > 0, weights, 1.0)]


def said(config: Config, manifest: Manifest) -> list[str]:
    """A line each for an order and a loss that do not treat all samples alike."""
    lines = []
    labels = manifest.labels
    if config.data.balance:
        counts = np.array(manifest.class_counts("train"))
        places = class_places(counts, config.data.balance)
        parts = [
            f"{label} {place:,} for {count:,}"
            for label, place, count in zip(labels, places.tolist(), counts.tolist(), strict=True)
        ]
        lines.append(
            f"balanced order (data.balance={config.data.balance:g}), samples are not seen once an "
            f"epoch each: {', '.join(parts)}"
        )
    weights = class_weights(config, manifest)
    if weights is not None:
        parts = [f"{label} {weight:.3g}" for label, weight in zip(labels, weights, strict=True)]
        lines.append(f"the loss weighs classes (optim.class_weights): {', '.join(parts)}")
    return lines
