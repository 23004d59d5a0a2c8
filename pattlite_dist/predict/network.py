"""What turns pixels into probabilities, whatever it is computed with."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.model.description import Description
from pattlite_dist.shards.sources.base import Pixels


class Network(Protocol):
    """A trained network, with its preprocessing and its temperature."""

    description: Description

    def probabilities(self, images: Pixels) -> NDArray[np.float64]:
        """Map uint8 [n, C, H, W], of the description's form, to probabilities [n, classes]."""
        ...
