from pathlib import Path

import pytest
import torch

from tests.conftest import tiny
from tests.starts import Zygote
from tests.train.harness import final, logged


@pytest.mark.slow
def test_a_global_batch_in_pieces_is_the_same_step_on_any_number_of_ranks(
    zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    """BatchNorm sees one piece at a time, so it is frozen; the pieces are of unequal size.

    Images are mixed with those of other pieces and ranks.
    """

    def gradients(name: str, ranks: int, pieces: dict[str, object]) -> torch.Tensor:
        changes: dict[str, object] = {
            "trainer.epochs": 1, "trainer.global_batch": 60, **pieces,
            "model.dropout": 0, "optim.ema": 0, "optim.schedule": "constant", "optim.lr": 1e-9,
            "augment.mixup": 0.4, "augment.cutmix": 1.0,
        }  # fmt: skip
        arguments = tiny(face_shards, tmp_path, name, **changes)
        start = zygote.start(arguments, ranks, record=tmp_path / f"{name}.record", freeze=True)
        assert start.ended, start.log
        (state,) = final(tmp_path / name)["optimizer_states"]
        return torch.cat([part["exp_avg"].flatten() for part in state["state"].values()])

    whole = gradients("whole", 1, {})
    assert whole.norm() > 1e-3
    several: dict[str, tuple[int, dict[str, object]]] = {
        "one": (1, {"trainer.accumulate": 7}),
        "two": (2, {"trainer.max_batch_per_rank": 8}),
    }
    for name, (ranks, pieces) in several.items():
        difference = (gradients(name, ranks, pieces) - whole).norm() / whole.norm()
        assert difference < 1e-5
        # The loss that is logged is that of the global batch, and not of the first rank's share.
        for (step, loss), (same, other) in zip(
            logged(tmp_path / name, "train/loss"),
            logged(tmp_path / "whole", "train/loss"),
            strict=True,
        ):
            assert step == same
            assert loss == pytest.approx(other, rel=1e-5)
    assert logged(tmp_path / "one", "train/top1") == logged(tmp_path / "whole", "train/top1")
