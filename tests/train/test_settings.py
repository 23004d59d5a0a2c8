import pytest

from pattlite_dist.train.settings import TrainerConfig, few_images


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
