import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist import __version__
from pattlite_dist.config import Config
from pattlite_dist.runtime.world import World
from pattlite_dist.tracking.history import append, read
from pattlite_dist.train.description import Description, announce, describe, differences
from tests.gpus import NAME, see

ONE = Description(
    "NVIDIA H100", "bf16", True, False, {"torch": "2.14.1", "CUDA": "13.0"}, ranks=4
)  # fmt: skip


def config(tmp_path: Path, **trainer: object) -> Config:
    tree = {"data": {"shards": "shards"}, "runs": str(tmp_path), "name": "tiny"}
    return Config.model_validate({**tree, "trainer": trainer})


def test_the_first_line_names_ranks_device_precision_and_versions() -> None:
    words = "4 rank(s) on NVIDIA H100 in bf16, 62 steps per epoch; torch 2.14.1, CUDA 13.0"
    assert ONE.line(62) == words
    more = dataclasses.replace(ONE, precision="32", remarks=("the XPU here is not supported",))
    assert "in 32 bit, 62" in more.line(62)
    assert more.line(62).endswith("CUDA 13.0; the XPU here is not supported")


def test_a_process_alone_among_several_gpus_tells_how_to_use_all() -> None:
    assert ONE.hint() is None
    assert dataclasses.replace(ONE, visible=1).hint() is None
    hint = dataclasses.replace(ONE, visible=4).hint()
    assert hint is not None
    for words in ("one of 4 GPUs", "launch/torchrun.sh train", "NPROC"):
        assert words in hint


def test_two_equal_starts_do_not_differ() -> None:
    assert differences(ONE.facts(), ONE.facts()) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"device": "CPU"}, "device NVIDIA H100, now CPU"),
        ({"precision": "32"}, "precision bf16, now 32"),
        ({"channels_last": False}, "channels_last true, now false"),
        ({"compile": True}, "compile false, now true"),
        ({"versions": {"torch": "2.15.0", "CUDA": "13.0"}}, "torch 2.14.1, now 2.15.0"),
        ({"ranks": 2}, "ranks 4, now 2"),
    ],
)
def test_what_a_new_start_changed_is_told(change: dict[str, Any], told: str) -> None:
    assert differences(ONE.facts(), dataclasses.replace(ONE, **change).facts()) == [told]


def test_what_only_one_start_knows_is_not_compared() -> None:
    event = {"event": "started", "time": 1.0, "step": 0, "ranks": 1, "epochs": 3}
    assert differences(event, ONE.facts()) == ["ranks 1, now 4"]
    assert differences({}, ONE.facts()) == []
    cpu = dataclasses.replace(ONE, versions={"torch": "2.14.1"})
    assert differences(cpu.facts(), ONE.facts()) == []


@given(
    st.dictionaries(
        st.sampled_from(["device", "precision", "versions", "ranks", "compile"]),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.none())
        | st.dictionaries(st.text(), st.none() | st.text()),
    )
)  # fmt: skip
def test_any_history_can_be_compared(before: dict[str, Any]) -> None:
    assert all(", now " in line for line in differences(before, ONE.facts()))


def test_a_start_on_the_cpu_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, 4)  # not used
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    found = describe(config(tmp_path, accelerator="cpu", compile=True), World())
    assert (found.device, found.precision, found.compile) == ("CPU", "32", True)
    assert (found.ranks, found.remarks, found.hint()) == (1, (), None)
    assert found.versions["torch"] == str(torch.__version__)
    assert found.versions["pattlite_dist"] == __version__
    assert {"torch", "Lightning", "pattlite_dist"} <= found.versions.keys()
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    other = describe(config(tmp_path, accelerator="cpu"), World())
    assert other.remarks == ("the XPU here is not supported",)


def test_a_start_on_a_gpu_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, 4)
    found = describe(config(tmp_path), World())
    assert (found.device, found.precision, found.visible) == (NAME, "bf16", 4)
    launched = describe(config(tmp_path), World("torchrun", 0, 4, 0, 4))
    assert (launched.ranks, launched.hint()) == (4, None)
    assert found.remarks == launched.remarks == ()


def test_emulated_bf16_is_said_and_only_used_if_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, 1, bf16=False)
    assert (found := describe(config(tmp_path), World())).precision == "32"
    assert found.remarks == ()
    found = describe(config(tmp_path, precision="bf16"), World())
    assert found.precision == "bf16"
    assert found.remarks == ("this GPU only emulates bf16, precision=32 may be faster",)


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """Announce one start of a run; returns the lines."""
    (tmp_path / "tiny").mkdir()

    def begin(gpus: int, found: str | None, world: World | None = None) -> list[str]:
        see(monkeypatch, gpus)
        accelerator = "gpu" if gpus else "cpu"
        path = None if found is None else Path(found)
        announce(config(tmp_path, accelerator=accelerator), world or World(), path, 5, 13)
        lines = capsys.readouterr().out.splitlines()
        assert all(line.startswith(f"{tmp_path}/tiny: ") for line in lines)
        return [line.removeprefix(f"{tmp_path}/tiny: ") for line in lines]

    return begin


def test_a_continued_run_tells_what_changed(
    start: Callable[..., list[str]], tmp_path: Path
) -> None:
    (first,) = start(0, None)
    assert first.startswith("starts; 1 rank(s) on CPU in 32 bit, 13 steps per epoch; torch ")
    (same,) = start(0, "a.ckpt")
    assert same.startswith("continues from a.ckpt; 1 rank(s) on CPU")
    append(tmp_path / "tiny", "first_step")
    append(tmp_path / "tiny", "started", kind="evaluate", device="none of its business")
    first, changed = start(1, "b.ckpt", World("torchrun", 0, 2, 0, 1))
    assert first.startswith(f"continues from b.ckpt; 2 rank(s) on {NAME} in bf16")
    assert changed == (
        f"changed since the previous start: device CPU, now {NAME}; precision 32, now bf16; "
        "ranks 1, now 2"
    )
    # From scratch there is nothing to compare with.
    again, hint = start(4, None)
    assert again.startswith("starts; 1 rank(s) on ")
    assert hint.startswith("uses one of 4 GPUs; ")


def test_the_history_keeps_what_a_run_was_started_on(
    start: Callable[..., list[str]], tmp_path: Path
) -> None:
    start(1, None)
    (event,) = read(tmp_path / "tiny")
    assert {key: event[key] for key in ("event", "step", "steps_per_epoch", "epochs")} == {
        "event": "started", "step": 5, "steps_per_epoch": 13, "epochs": 15,
    }  # fmt: skip
    kept = {key: event[key] for key in ("device", "precision", "channels_last", "compile")}
    assert kept == {"device": NAME, "precision": "bf16", "channels_last": True, "compile": False}
    assert (event["ranks"], event["shards"]) == (1, None)
    assert event["versions"]["torch"] == str(torch.__version__)
