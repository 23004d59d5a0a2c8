import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.data.batch import pieces
from pattlite_dist.train.pieces import few_images, pieces_of
from pattlite_dist.train.settings import TrainerConfig


@pytest.mark.parametrize(
    ("batch", "ranks", "pieces", "images"),
    [
        (64, 8, 1, None),
        (64, 1, 8, None),
        (63, 8, 1, None),
        (64, 8, 2, 4),
        (64, 16, 1, 4),
        (7, 1, 1, 7),
    ],
)
def test_few_images_a_rank_are_told(
    batch: int, ranks: int, pieces: int, images: int | None
) -> None:
    config = TrainerConfig(global_batch=batch, accumulate=pieces)
    told = few_images(config, ranks)
    assert (told is None) == (images is None)
    assert told is None or f"over {images} images at a time" in told
    if ranks > 1:
        together = few_images(config, ranks, synchronised=True)
        assert together is None  # 32 images at least
        assert told is None or told.endswith("on GPUs model.sync_batchnorm=true")


@given(st.integers(1, 300), st.integers(1, 12), st.integers(1, 40), st.none() | st.integers(1, 300))
def test_a_share_is_computed_in_as_few_pieces_as_were_asked_for_and_hold_no_more_than_they_may(
    batch: int, ranks: int, least: int, most: int | None
) -> None:
    config = TrainerConfig(global_batch=batch, accumulate=least, max_batch_per_rank=most)
    share = -(-batch // ranks)
    parts = pieces({"label": torch.zeros(share)}, pieces_of(config, ranks))
    assert len(parts) == pieces_of(config, ranks), "none is empty"
    largest = max(len(part["label"]) for part in parts)
    bound = min(most or share, -(-share // least))
    assert largest <= bound
    fewer = [-(-share // number) for number in range(1, len(parts))]
    assert all(size > bound for size in fewer)
