"""The classes over which a network is scored on shards that may have others: those of both."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Classes:
    """The classes of a network and of shards.

    Attributes:
        network: names, in the order of the network's outputs.
        shards: names, in the order of the labels.
    """

    network: Sequence[str]
    shards: Sequence[str]

    @property
    def both(self) -> list[str]:
        """Those that both have, in the network's order: what is scored."""
        return [name for name in self.network if name in self.shards]

    @property
    def only_network(self) -> list[str]:
        """Those without samples."""
        return [name for name in self.network if name not in self.shards]

    @property
    def only_shards(self) -> list[str]:
        """Those without an output."""
        return [name for name in self.shards if name not in self.network]

    def check(self, where: str) -> None:
        """Check that there is anything to score; `where` names the shards.

        Raises:
            UserError: fewer than two classes are in both.
        """
        if len(self.both) < 2:
            raise UserError(
                f"the network has the classes {', '.join(self.network)} and {where} has "
                f"{', '.join(self.shards)}: a score requires two in common; give other shards"
            )

    def scored(self, found: Predictions) -> Predictions:
        """The predictions over the classes of both.

        Samples of other classes are left out, and a network's probabilities are those given that
        the class is one of these. Votes are left out unless all classes are the same.

        Args:
            found: labels are the shards', tables have a column for each class of the network.
        """
        if list(self.network) == list(self.shards):
            return found
        both = self.both
        columns = [list(self.network).index(name) for name in both]
        # Of a label in the shards, the place among those of both; -1 for none.
        places = np.array([both.index(name) if name in both else -1 for name in self.shards])
        labels = places[found.labels]
        kept = found.where(labels >= 0)
        tables = {view: table[:, columns] for view, table in kept.probabilities.items()}
        return Predictions(
            kept.ids,
            labels[labels >= 0].astype(np.int64),
            kept.flags,
            {view: _shares(table) for view, table in tables.items()},
            None,
        )


def _shares(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows that sum to 1; even ones where all is 0."""
    total = table.sum(1, keepdims=True)
    even = np.full_like(table, 1 / table.shape[1])
    shares: NDArray[np.float64] = np.divide(table, total, out=even, where=total > 0)
    return shares
