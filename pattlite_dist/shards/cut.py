"""Seeded, stratified split of samples without one; tied samples stay together."""

import numpy as np
from numpy.typing import NDArray


def cut(
    labels: NDArray[np.int64],
    ties: list[NDArray[np.int64]],
    fractions: list[float],
    seed: int,
) -> NDArray[np.int64]:
    """Assign samples to parts of given sizes, each with the same class proportions as the whole.

    Samples tied to each other, directly or through others, are assigned as one bundle. Bundles
    are assigned from the largest to the smallest, those of equal size in an order drawn with the
    seed, each to the part whose class counts it brings closest to their targets: iterative
    stratification (Sechidis et al., ECML PKDD 2011) of bundles, as in scikit-learn's
    StratifiedGroupKFold.

    Args:
        labels: int64 [n], 0 or more.
        ties: arrays int64 [n]; samples with the same number (0 or more) in one of them are tied.
        fractions: the parts' shares of each class; they sum to 1.
        seed: 0 or more.

    Returns:
        int64 [n], each sample's part.
    """
    if not len(labels):
        return np.zeros(0, np.int64)
    bundle = bundles(ties, len(labels))
    number, classes = int(bundle.max()) + 1, int(labels.max()) + 1
    content = np.zeros((number, classes))
    np.add.at(content, (bundle, labels), 1)
    # Only `random` is used: the generator's stream least likely to change between NumPy versions.
    chance = np.random.Generator(np.random.Philox(key=[seed, 0])).random(number)
    order = np.lexsort((chance, -content.sum(axis=1)))
    total = content.sum(axis=0)
    wanted = np.array(fractions)[:, None] * total
    missing = wanted.copy()  # [parts, classes]
    part = np.zeros(number, np.int64)
    weight = 1 / np.maximum(total, 1)
    for index in order:
        counts = content[index]
        # How much the squared distance to the target shrinks with this bundle in each part.
        gain = (counts * (2 * missing - counts)) @ weight
        part[index] = best = int(gain.argmax())
        missing[best] -= counts
    return part[bundle]


def bundles(ties: list[NDArray[np.int64]], samples: int) -> NDArray[np.int64]:
    """Number the bundles of tied samples from 0; see `cut`."""
    parent = list(range(samples))

    def root(sample: int) -> int:
        while parent[sample] != sample:
            parent[sample] = parent[parent[sample]]
            sample = parent[sample]
        return sample

    for tie in ties:
        first: dict[int, int] = {}
        for sample, number in enumerate(tie.tolist()):
            if number >= 0:
                parent[root(sample)] = root(first.setdefault(number, sample))
    roots = np.array([root(sample) for sample in range(samples)], np.int64)
    return np.unique(roots, return_inverse=True)[1].reshape(-1).astype(np.int64)
