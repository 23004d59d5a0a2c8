"""Fewer points of a curve, so that it looks the same: no peak is lost."""

import itertools
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

MOST = 500  # points of a curve; each is a node of the page, and a screen is not much wider


def thin(points: Sequence[T], values: Sequence[float], most: int = MOST) -> list[T]:
    """At most `most` points, in order: the first, the last, and the extremes between them.

    What lies between the first and the last is divided into buckets of nearly equal size, of each
    of which the smallest and the largest are kept.

    Args:
        points: in order.
        values: of the points, by which they are compared.
        most: to keep, at least 2.
    """
    if len(points) <= most:
        return list(points)
    inner, buckets = len(points) - 2, (most - 2) // 2
    kept = {0, len(points) - 1}
    for number in range(buckets):
        bucket = range(1 + inner * number // buckets, 1 + inner * (number + 1) // buckets)
        kept |= {min(bucket, key=values.__getitem__), max(bucket, key=values.__getitem__)}
    return [points[place] for place in sorted(kept)]


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and of those beside it, fewer at both ends.

    Args:
        values: in order.
        window: how many to each side.
    """
    sums = [0.0, *itertools.accumulate(values)]
    found = []
    for place in range(len(values)):
        reach = min(window, place, len(values) - 1 - place)  # the same to both sides
        low, high = place - reach, place + reach + 1
        found.append((sums[high] - sums[low]) / (high - low))
    return found


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the places 0 to `count` - 1, evenly spread, with both ends."""
    if count <= most:
        return list(range(count))
    return [place * (count - 1) // (most - 1) for place in range(most)]
