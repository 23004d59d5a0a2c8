from pathlib import Path

import pytest

from tests.conftest import tiny
from tests.starts import Zygote
from tests.train.faults import Fault
from tests.train.harness import assert_same_training


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_gradients_are_averaged_to_the_same_bits_in_every_step_and_on_every_rank(
    zygote: Zygote, ranks: int
) -> None:
    start = zygote.start([], ranks, module="tests.train.mean_gradients")
    assert start.ended, start.log
    assert start.stdout.count(": right") == ranks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (3, {}),
        (4, {"optim__name": "sgd", "model__freeze": 2, "model__weights": "none"}),
        pytest.param(8, {}, id="8 ranks with a small network"),
    ],
)
def test_a_run_that_is_killed_and_continued_ends_bit_for_bit(
    zygote: Zygote, face_shards: Path, tmp_path: Path, ranks: int, changes: dict[str, object]
) -> None:
    """With as many ranks; DDP's buckets made this false from three ranks on."""
    if ranks == 8:
        zygote = zygote.with_small_networks()

    def arguments(name: str) -> list[str]:
        # Saved at the step, since the kill may come before what is written beside steps is whole.
        save = {"trainer__checkpoint_every_steps": 3, "trainer__async_save": False}
        return tiny(face_shards, tmp_path, name, trainer__global_batch=24, **save, **changes)

    whole = zygote.start(arguments("whole"), ranks)
    assert whole.ended, whole.log
    fault = Fault("on_before_optimizer_step", 4, rank=ranks - 1)
    killed = zygote.start(arguments("killed"), ranks, fault)
    assert killed.killed_by(fault), killed.log
    continued = zygote.start(arguments("killed"), ranks)
    assert continued.ended, continued.log
    assert "continues from epoch=0000-step=00000003.ckpt" in continued.stdout
    assert_same_training(tmp_path / "whole", tmp_path / "killed")
