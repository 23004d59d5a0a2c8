"""What the nodes of a run are asked before it trains, and what their answers mean."""

import errno
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.errors import BadNode, Unreachable
from pattlite_dist.runtime import checkup
from pattlite_dist.runtime.checkup import (
    ROOM,
    check_device,
    check_folder,
    check_room,
    check_temporary,
    write_token,
)
from pattlite_dist.runtime.network import node_name
from pattlite_dist.runtime.probe import APART, LOCAL, Answer, Verdict, answer, judge, probe, refuse
from pattlite_dist.runtime.world import World

FAILED = st.dictionaries(st.sampled_from(["device", "run folder", "room"]), st.just("bad"))
ANSWERS = st.lists(
    st.builds(lambda node, failed: Answer(node, failed), st.sampled_from("abc"), FAILED),
    min_size=1,
    max_size=6,
)


@given(ANSWERS, st.lists(st.sampled_from("abc")), st.booleans())
def test_a_node_fails_by_what_it_needs_or_by_what_the_others_have(
    answers: list[Answer], tolerated: list[str], strict: bool
) -> None:
    verdict = judge(answers, None, tolerated, strict)
    nodes = {one.node for one in answers}
    for node in nodes:
        failed = {check for one in answers if one.node == node for check in one.failed}
        others = [
            any("room" in one.failed for one in answers if one.node == name) for name in nodes
        ]
        local = "room" in failed and strict and node not in tolerated and not all(others)
        assert (node in verdict.bad) == bool(failed - LOCAL or local)
        assert len(verdict.bad.get(node, [])) == len(failed - LOCAL) + local
        assert (f"{node}: bad" in verdict.notes) == ("room" in failed and not local)


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(APART + 11, 1e6), st.booleans()
)
def test_the_clock_that_is_not_that_of_most_is_wrong(
    clocks: list[float], off: float, ahead: bool
) -> None:
    good = [Answer(f"n{i}", clock=1e9 + clock) for i, clock in enumerate(clocks)]
    assert judge(good, 1e9) == Verdict({}, [])
    wrong = Answer("x", clock=1e9 + (off if ahead else -off))
    for answers in ([wrong, *good], [*good, wrong]):
        verdict = judge(answers, 1e9)
        assert list(verdict.bad) == ["x"]
        assert verdict.bad["x"][0].endswith("fast" if ahead else "slow")
    assert list(judge([wrong, good[0]], 1e9).bad) == ["x"], "of two, the server decides"
    assert judge([wrong], 1e9) == Verdict({}, []), "one node has nobody to agree with"


def test_a_check_that_crashes_fails_no_node_and_one_that_hangs_is_waited_for_so_long() -> None:
    over = threading.Event()

    def crash() -> str | None:
        raise ZeroDivisionError("ours")

    def hang() -> str | None:
        over.wait(60)
        return None

    found = answer("n1", {"device": crash, "room": lambda: "full"}, 5.0)
    assert found == Answer("n1", {"room": "full"}, 5.0, "device: ZeroDivisionError: ours")
    assert judge([found]).notes == [
        "n1: full", "n1: the probe itself failed: device: ZeroDivisionError: ours",
    ]  # fmt: skip
    began = time.monotonic()
    found = answer("n1", {"room": lambda: None, "run folder": hang}, None, 0.05)
    over.set()
    assert time.monotonic() - began < 30
    assert found.failed == {"run folder": "no answer in 0 s to the check of its run folder"}
    with pytest.raises(BadNode, match=r"^node n1 failed its probe: no answer"):
        refuse(judge([found]))
    assert issubclass(BadNode, Unreachable), "which a launcher starts again"
    refuse(judge([Answer("n1")]))


def test_a_device_that_computes_wrongly_or_not_at_all_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_rng_state()
    assert check_device(torch.device("cpu")) is None
    assert torch.equal(torch.get_rng_state(), before)
    assert "does not compute" in str(check_device(torch.device("meta")))
    right = torch.Tensor.sum

    def wrong(self: torch.Tensor, *args: Any) -> torch.Tensor:
        found = right(self, *args)
        if found.dim() == 2:
            found[3, 4] += 1
        return found

    monkeypatch.setattr(torch.Tensor, "sum", wrong)
    assert check_device("cpu") == "cpu computes wrongly: 1 of 16384 products"


def test_a_folder_that_is_another_or_cannot_be_written_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "_LATE", 0.0)
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.mkdir()
    token, ahead = write_token(run)
    assert token is not None
    assert ahead is not None
    assert abs(ahead) < 30
    assert check_folder(run, token, "n1") is None
    assert "is not the folder that rank 0 writes to" in str(check_folder(other, token, "n2"))
    assert check_folder(tmp_path / "none", None, "n2") == (
        f"cannot write {tmp_path / 'none'}: No such file or directory"
    )
    assert write_token(tmp_path / "none") == (None, None)

    def full(**options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", full)
        assert check_folder(run, token, "n1") is None, "no node is to blame for a full disk"
    write_token(run)
    assert len(list(run.iterdir())) == 1, "the last start's is gone"


def test_a_local_folder_without_room_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"data.cache": tmp_path / "not" / "yet", "TMPDIR": None}
    assert check_room(folders) is None
    usage = shutil.disk_usage(tmp_path)._replace(free=ROOM - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    assert check_room(folders) == f"data.cache={tmp_path / 'not' / 'yet'} has 15 MB left"
    assert check_temporary({}) is None
    assert check_temporary({"TMPDIR": str(tmp_path)}) is None
    text = f"TMPDIR={tmp_path / 'none'} cannot be written: No such file or directory"
    assert check_temporary({"TMPDIR": str(tmp_path / "none")}) == text


def test_a_node_in_order_passes_and_nothing_of_the_probe_is_left(tmp_path: Path) -> None:
    verdict = probe(World("slurm"), tmp_path, "cpu", tmp_path / "cache", 1, list)
    assert verdict == Verdict({}, [])
    assert list(tmp_path.iterdir()) == []
    assert probe(World("slurm"), None, "cpu", None, 1, list) == verdict


def test_a_node_has_slurms_name_where_there_is_one() -> None:
    assert node_name({"SLURMD_NODENAME": "n7"}) == "n7"
    assert node_name({})
