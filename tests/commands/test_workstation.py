"""`pattlite doctor` without a profile: a line for each thing that a run needs of a machine."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pattlite_dist.cli import main
from pattlite_dist.commands import workstation
from pattlite_dist.commands.workstation import (
    batch,
    cache,
    devices_here,
    home,
    host_name,
    shared_memory,
)  # fmt: skip
from pattlite_dist.config import Config, parse_config
from pattlite_dist.data.fetch import Origin, fetch_manifest
from pattlite_dist.runtime import devices
from tests.gpus import see


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without GPUs and without a login, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    see(monkeypatch, 0)


def config(**tree: Any) -> Config:
    return parse_config(tree, "test")


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """State and text of each thing."""
    said = capsys.readouterr()
    assert said.err == ""
    return {line[9:20].strip(): (line[:9].strip(), line[20:]) for line in said.out.splitlines()}


def test_a_machine_on_which_runs_can_start_is_told_in_a_line_for_each_thing(
    face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor"]) == 0
    bare = lines(capsys)
    assert list(bare) == ["host name", "GPUs", "disk", "cache", "/dev/shm", "W&B"]
    assert "failed" not in {state for state, _ in bare.values()}
    assert bare["GPUs"][0] == "warning" and "CPU cores" in bare["GPUs"][1]
    assert bare["W&B"] == (
        "warning",
        "not logged in: runs are kept offline, and `pattlite sync` uploads them; run "
        "`wandb login` to follow them online",
    )
    assert main(["doctor", "-c", "demo", "--data.shards", str(face_shards)]) == 0
    named = lines(capsys)
    assert named["shards"] == ("ok", f"{face_shards}: 182 samples")
    assert named["W&B"] == ("ok", "offline")
    assert list(tmp_path.iterdir()) == []


def test_all_that_would_stop_a_run_is_told_at_once_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("a file")
    words = ["-c", "demo", "wandb.mode=online", "trainer.accelerator=gpu", "model.weights=w.pt"]
    assert main(["doctor", *words, "data.cache=runs/x"]) == 2
    found = lines(capsys)
    failed = {what: text for what, (state, text) in found.items() if state == "failed"}
    for what, text in {
        "GPUs": "torch sees no GPU here; use cpu or auto",
        "shards": "demo/shards is not a finished shard set",
        "weights": "w.pt does not exist; give",
        "disk": "cannot write into",
        "cache": "set data.cache",
        "W&B": "run `wandb login`",
    }.items():
        assert text in failed.pop(what)
    assert failed == {}


def test_what_is_asked_of_a_profile_requires_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "profile.nodes=3"]) == 2
    assert "profile.nodes=3 requires --profile" in capsys.readouterr().err
    assert main(["doctor", "--profile", "cpu"]) == 2
    assert "no configuration is given" in capsys.readouterr().err


def test_a_name_without_an_address_is_told_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_name().state == "ok"
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-17.invalid")
    found = host_name()
    assert found.state == "warning"
    assert found.text.endswith("add `127.0.1.1 gpu-17.invalid` to /etc/hosts")


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "H100")
    assert devices_here("auto")[::2] == ("ok", "2: H100")
    assert devices_here("cpu").text.startswith("not used, as trainer.accelerator is cpu")


def test_gpus_that_torch_cannot_use_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "given", lambda: "/dev/nvidia0")
    found = devices_here("auto")
    assert found.state == "failed" and "there are GPUs (/dev/nvidia0)" in found.text


def test_a_batch_that_the_gpus_cannot_share_is_told() -> None:
    assert batch(config(trainer={"global_batch": 64}), 4).state == "ok"
    found = batch(config(trainer={"global_batch": 64}), 3)
    assert found[::2] == (
        "failed",
        "trainer.global_batch 64 cannot be shared by 3 GPUs; set it to a multiple of 3, or NPROC=2",
    )


def test_a_cache_that_is_too_small_is_told(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = fetch_manifest(Origin(str(face_shards)))
    size = 182 * 48 * 48
    for free, state in ((size, "ok"), (size - 1, "failed")):
        disk = SimpleNamespace(total=size, free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, disk=disk: disk)
        found = cache(config(data={"cache": str(tmp_path / "c" / "d")}), manifest)
        assert found.state == state
    assert "0 MB free, and 0 MB of decoded shards; free some space" in found.text


def test_a_user_without_a_home_is_told_where_libraries_keep_their_files() -> None:
    assert list(home(None)) == []
    [found] = home(Path("/tmp/pattlite-home-7"))
    assert found.state == "warning" and "keep their files in /tmp/pattlite-home-7" in found.text


def test_a_container_with_little_shared_memory_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "does not exist" in shared_memory(tmp_path / "no").text
    for total, state in ((64_000_000, "warning"), (2_000_000_000, "ok")):
        disk = SimpleNamespace(total=total)
        monkeypatch.setattr(workstation.shutil, "disk_usage", lambda path, disk=disk: disk)
        assert shared_memory(tmp_path).state == state
