from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pattlite_dist.shards.survey import (
    NEAR_BLANK,
    SEEN_BLANK,
    SEEN_NEAR_BLANK,
    contrast,
    digest,
    find_copies,
)


def exact_variance(image: np.ndarray) -> Fraction:
    pixels = [int(value) for value in image.reshape(-1)]
    mean = Fraction(sum(pixels), len(pixels))
    return sum((value - mean) ** 2 for value in pixels) / Fraction(len(pixels))


@given(
    st.sampled_from([255, 20, 12, 3]).flatmap(
        lambda most: arrays(np.uint8, (4, 1, 3, 4), elements=st.integers(0, most))
    )
)
def test_contrast_is_the_exact_variance_of_the_pixels(images: np.ndarray) -> None:
    for image, seen in zip(images, contrast(images), strict=True):
        variance = exact_variance(image)
        if variance == 0:
            assert seen == SEEN_BLANK
        else:
            assert seen == (SEEN_NEAR_BLANK if variance < NEAR_BLANK**2 else 0)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_an_image_is_blank_only_if_all_pixels_are_the_same(value: int) -> None:
    image = np.full((1, 48, 48), value, np.uint8)
    others = [image.copy() for _ in range(3)]
    for other, place in zip(others, (0, 1, -1), strict=True):
        other.flat[place] = value ^ 1
    found = contrast(np.stack([image, *others]))
    assert found.tolist() == [SEEN_BLANK] + 3 * [SEEN_NEAR_BLANK]


def test_a_deviation_of_just_the_limit_is_no_near_blank() -> None:
    image = np.full((1, 48, 48), 100, np.uint8)
    image[:, ::2] += 2 * NEAR_BLANK  # half of the pixels: deviation NEAR_BLANK
    less = image.copy()
    less[0, 0, 0] -= 1
    assert contrast(np.stack([image, less])).tolist() == [0, SEEN_NEAR_BLANK]


def test_the_largest_images_do_not_overflow() -> None:
    image = np.zeros((1, 3, 1024, 1024), np.uint8)
    image[:, :, ::2] = 255
    assert contrast(image).tolist() == [0]


def test_digests_differ_where_one_pixel_does() -> None:
    images = np.zeros((49, 1, 7, 7), np.uint8)
    for index in range(48):
        images[index].flat[index] = 1
    assert len({digest(image) for image in images}) == 49
    assert digest(images[0]) == digest(images[0].copy())
    assert len(digest(images[0])) == 16


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=30))
def test_copies_are_those_of_a_search_through_all_pairs(samples: list[tuple[int, int]]) -> None:
    # Digests that share one half must not be treated as equal.
    digests = np.array([(image // 2, image % 2) for image, _ in samples], np.uint64)
    labels = np.array([label for _, label in samples], np.int64)
    found = find_copies(digests.reshape(-1, 2), labels)
    for index, (image, _) in enumerate(samples):
        same = [other for other, (another, _) in enumerate(samples) if another == image]
        assert np.flatnonzero(found.group == found.group[index]).tolist() == same
        assert found.counts[index] == len(same)
        assert found.conflict[index] == (len({samples[other][1] for other in same}) > 1)
    assert set(found.group.tolist()) == set(range(len({image for image, _ in samples})))
