"""An order in which rare classes come more often than they are: pure functions, no torch, no I/O.

It is the exception to "each sample once an epoch". Which samples an epoch takes is a function of
(seed, epoch, labels, balance) alone; `plan` orders them and cuts them into global batches.
"""

import numpy as np

from pattlite_dist.data.plan import BALANCE, Ids, raw_stream


def class_places(counts: Ids, balance: float) -> Ids:
    """How many places of an epoch each class takes; all classes together take as many as ever.

    They are in proportion to the class's samples to the power of 1 - `balance`, and right to
    within one: what rounding down leaves goes to the largest remainders, earlier classes first.

    Args:
        counts: int64 [classes], samples of each.
        balance: 0, each sample once, to 1, every class equally often (that has samples at all).
    """
    shares = np.where(counts > 0, np.maximum(counts, 1) ** (1.0 - balance), 0.0)
    # Rounded, so that no library's last bit decides between two remainders.
    exact = np.round(counts.sum() * shares / max(shares.sum(), 1.0), 9)
    places: Ids = np.floor(exact).astype(np.int64)
    places[np.argsort(places - exact, kind="stable")[: counts.sum() - places.sum()]] += 1
    return places


class Balance:
    """Which samples each epoch takes, and how often.

    A class's samples are in an order of their own, drawn once for the run, and each epoch takes as
    many as the class has places, from where the one before ended, around and around. So at any
    time, in an epoch or since the run began, no sample of a class has been taken twice more often
    than another of it.

    Args:
        labels: int64 [samples], in the manifest's natural order.
        classes: their number.
        balance: see `class_places`.
        seed: of the run.
    """

    def __init__(self, labels: Ids, classes: int, balance: float, seed: int) -> None:
        self.places = class_places(np.bincount(labels, minlength=classes), balance)
        self._orders = []
        for label in range(classes):
            (ids,) = np.nonzero(labels == label)
            words = raw_stream(seed, 0, BALANCE, label, len(ids))
            self._orders.append(ids[np.argsort(words, kind="stable")])

    def epoch(self, epoch: int) -> Ids:
        """The ids of an epoch's samples, ascending, each as often as the epoch takes it."""
        taken = [
            order[(epoch * places + np.arange(places)) % len(order)]
            for order, places in zip(self._orders, self.places.tolist(), strict=True)
            if places
        ]
        return np.sort(np.concatenate(taken))
