"""A rank that fails alone ends the others within seconds, and its own error is read last."""

from pathlib import Path

import pytest

from pattlite_dist.tracking import history
from tests.conftest import environment, tiny
from tests.starts import Start, Zygote
from tests.train.harness import nothing_left_over

SECONDS = 60.0  # on a busy machine; the ranks' own time limit is ten minutes


def alone(zygote: Zygote, options: list[str], place: str, rank: int) -> Start:
    env = environment(PLACE=place, RAISES=str(rank))
    start = zygote.with_small_networks().start(
        options, 3, module="tests.train.alone", env=env, together=True
    )
    assert start.statuses == [1, 1, 1], start.log
    assert start.seconds < SECONDS
    with nothing_left_over(zygote, start.sessions):
        pass
    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "rank"), [("step", 1), ("validation", 2), ("save", 0), ("setup", 1)]
)
def test_its_error_is_the_last_line_and_the_reason_in_the_history(
    place: str, rank: int, zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    options = tiny(face_shards, tmp_path, trainer__epochs=1, trainer__global_batch=9)
    start = alone(zygote, options, place, rank)
    cause = f"rank {rank} failed: ArithmeticError: seven is"
    lines = start.stderr.splitlines()
    assert lines[-1] == f"pattlite: error: {cause}"
    assert lines.count(lines[-1]) == 2
    assert lines[-3].endswith("not eight")  # its traceback, which comes before
    assert start.stderr.count("Traceback") == 1
    failed = [item for item in history.read(tmp_path / "tiny") if item["event"] == "failed"]
    assert [item["error"] for item in failed] == ["not eight" if rank == 0 else cause]
