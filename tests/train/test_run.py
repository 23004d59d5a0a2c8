"""Complete training runs, really killed and continued."""

import functools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import yaml

from pattlite_dist.cli import main
from pattlite_dist.errors import UserError
from pattlite_dist.model import build
from pattlite_dist.tracking.folder import load_config
from pattlite_dist.tracking.record import read_metrics
from pattlite_dist.train.names import parse_name
from tests.conftest import Run, environment, tiny, with_labels
from tests.starts import Zygote
from tests.train.harness import assert_same_training, final
from tests.train.small_network import SmallBackbone

STEPS = 13  # per epoch: 104 samples in global batches of 8


@pytest.fixture(scope="module")
def reference(zygote: Zygote, face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of three epochs."""
    runs = tmp_path_factory.mktemp("runs")
    start = zygote.start(tiny(face_shards, runs, trainer__epochs=3))
    assert start.ended, start.log
    return runs / "tiny"


def test_a_run_folder_holds_what_it_should(reference: Path) -> None:
    assert load_config(reference).name == "tiny"
    assert (reference / "curves.png").exists()
    names = [path.name for path in (reference / "checkpoints").iterdir()]
    assert 2 <= len(names) <= 3
    assert all(parse_name(name) for name in names)
    lines = read_metrics(reference / "metrics.jsonl")
    assert sum("val/top1" in line for line in lines) == 3
    assert final(reference)["global_step"] == 3 * STEPS


def killed_at(
    zygote: Zygote, steps: Iterable[int], arguments: list[str], run: Path, ranks: int
) -> int:
    """Start the run repeatedly, killing it from outside at these steps; then let it finish."""

    def reached(step: int) -> bool:
        lines = read_metrics(run / "metrics.jsonl")
        return bool(lines) and lines[-1]["step"] >= step

    kills = 0
    for step in steps:
        start = zygote.start(arguments, ranks, kill=functools.partial(reached, step))
        assert start.ended or start.statuses == [-9] * ranks, start.log
        kills += not start.ended
    start = zygote.start(arguments, ranks)
    assert start.ended, start.log
    return kills


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_ends_with_the_same_weights(
    workers: int, zygote: Zygote, reference: Path, face_shards: Path, tmp_path: Path
) -> None:
    arguments = tiny(
        face_shards, tmp_path, trainer__epochs=3, trainer__checkpoint_every_steps=5,
        data__workers=workers,
    )  # fmt: skip
    kills = killed_at(zygote, (3, 17, STEPS * 2 - 1), arguments, tmp_path / "tiny", ranks=1)
    assert kills >= 2
    assert_same_training(reference, tmp_path / "tiny")


@pytest.mark.slow
def test_a_killed_run_of_two_ranks_ends_with_the_same_weights(
    zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    assert zygote.start(tiny(face_shards, tmp_path / "whole"), 2).ended
    arguments = tiny(face_shards, tmp_path / "killed", trainer__checkpoint_every_steps=4)
    kills = killed_at(zygote, (10,), arguments, tmp_path / "killed" / "tiny", ranks=2)
    assert kills == 1
    assert_same_training(tmp_path / "whole" / "tiny", tmp_path / "killed" / "tiny")


def test_a_finished_run_stays_and_more_epochs_continue_it(
    face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tiny(face_shards, tmp_path, trainer__epochs=1)
    assert main(short) == 0
    told = capsys.readouterr().out
    assert f"{tmp_path / 'tiny'}: the weights are random; model.weights names others" in told
    before = (tmp_path / "tiny" / "metrics.jsonl").read_text()
    assert main(short) == 0
    assert (tmp_path / "tiny" / "metrics.jsonl").read_text() == before
    assert final(tmp_path / "tiny")["global_step"] == STEPS
    capsys.readouterr()
    # An epoch has ended, so that nothing but the shards' fingerprint tells other ones.
    others = with_labels(face_shards, tmp_path / "others", "sad", "gloomy")
    assert main(tiny(others, tmp_path, trainer__epochs=2)) == 2
    error = capsys.readouterr().err
    assert f"was trained on other shards than those in {others} (fingerprint " in error
    assert error.count("\n") == 1 and "set name to start a new run" in error
    assert (tmp_path / "tiny" / "metrics.jsonl").read_text() == before
    moved = shutil.copytree(face_shards, tmp_path / "moved")  # the same, wherever they are
    assert main(tiny(moved, tmp_path, trainer__epochs=2, trainer__precision="bf16")) == 0
    assert final(tmp_path / "tiny")["global_step"] == 2 * STEPS
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert third == f"{tmp_path / 'tiny'}: it began with random weights"
    run = tmp_path / "tiny"
    assert first.startswith(f"{run}: continues from epoch=0000")
    assert f"; 1 rank(s) on CPU in bf16, {STEPS} steps per epoch; torch " in first
    assert second == f"{run}: changed since the previous start: precision 32, now bf16"


def test_another_configuration_in_the_same_folder_is_refused(
    reference: Path, face_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.stat().st_mtime_ns for path in reference.rglob("*"))
    assert main(tiny(face_shards, reference.parent, trainer__epochs=3, optim__lr=0.1)) == 2
    error = capsys.readouterr().err
    assert "optim.lr: 0.002 -> 0.1" in error
    assert error.count("\n") == 1
    assert sorted(path.stat().st_mtime_ns for path in reference.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"finetune.start_epoch": 1}, "without model.weights it is random; set model.weights ("),
        ({"optim.warmup_epochs": 2}, "optim.warmup_epochs 2 is not below trainer.epochs 2"),
        ({"model.weights": "nowhere.pt"}, "model.weights: nowhere.pt does not exist; give a local"),
    ],
)
def test_a_new_run_that_makes_no_sense_is_refused_in_one_line_and_nothing_is_written(
    change: dict[str, object],
    told: str,
    face_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(tiny(face_shards, tmp_path, **change)) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ranks_that_cannot_share_the_batch_are_one_line_each(
    forked: Run, face_shards: Path, tmp_path: Path
) -> None:
    done = forked(*tiny(face_shards, tmp_path, trainer__global_batch=9), ranks=2)
    assert done.returncode != 0
    assert "a global batch of 9 cannot be shared by 2 ranks" in done.stderr
    assert not (tmp_path / "tiny").exists()


def test_an_error_on_rank_0_is_an_error_on_all(
    forked: Run, reference: Path, face_shards: Path
) -> None:
    done = forked(*tiny(face_shards, reference.parent, trainer__epochs=3, seed=9), ranks=2)
    assert done.returncode != 0  # and did not hang: rank 1 got the error too
    assert done.stderr.count("pattlite: error:") == 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_gpus_that_torch_does_not_see_are_one_line_for_all_ranks_and_nothing_is_written(
    ranks: int, forked: Run, face_shards: Path, tmp_path: Path
) -> None:
    options = tiny(face_shards, tmp_path, trainer__accelerator="auto")
    done = forked(*options, ranks=ranks, CUDA_VISIBLE_DEVICES="63")
    assert done.returncode in (2, -9 if ranks > 1 else 2)  # a rank may be ended by the other's end
    assert done.stderr.startswith(
        "pattlite: error: there are GPUs (CUDA_VISIBLE_DEVICES=63), but torch sees none: "
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("config", "further"),
    [
        ("notebook", ()),
        ("fer2013", ()),
        ("fer2013-pattlite", ("--augment.calm_epochs=0",)),
        ("fer2013-quick", ("--model.weights=pretrained",)),
        (
            "fer2013-distilled",
            ("--model.weights=pretrained", "--distill.teachers=[pretrained:mobilenetv2-vit]"),
        ),
        ("demo", ()),
    ],
)
def test_each_configuration_trains(
    config: str, further: tuple[str, ...], face_shards: Path, tmp_path: Path
) -> None:
    folder = Path(__file__).parents[2] / "configs"
    small = [
        "--trainer.epochs=1", "--trainer.global_batch=52", "--data.image_size=64",
        "--optim.warmup_epochs=0.5",
    ]  # fmt: skip
    place = [f"--runs={tmp_path}", f"--data.shards={face_shards}", "--wandb.mode=disabled"]
    assert main(["train", "-c", str(folder / f"{config}.yaml"), *small, *place, *further]) == 0
    assert final(tmp_path / config)["global_step"] == 2


def test_bf16_trains(face_shards: Path, tmp_path: Path) -> None:
    options = tiny(face_shards, tmp_path, trainer__precision="bf16", trainer__epochs=1)
    assert main(options) == 0
    assert all(v.dtype != torch.bfloat16 for v in final(tmp_path / "tiny")["state_dict"].values())
    assert (tmp_path / "tiny" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_compiled_run_can_be_continued_uncompiled(
    zygote: Zygote, face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a small network: the compiler takes seconds per kernel."""
    if shutil.which("g++") is None:
        pytest.skip("torch.compile on CPU requires g++; install it to run this test")
    small = {"trainer__global_batch": 52}  # two steps per epoch
    start = zygote.start(
        tiny(face_shards, tmp_path, trainer__compile=True, trainer__epochs=1, **small),
        module="tests.train.small_network",
        strict=False,  # the compiler imports modules that warn
        env=environment(
            TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"), TORCHINDUCTOR_COMPILE_THREADS="1"
        ),
    )
    assert start.ended, start.log
    assert list((tmp_path / "cache").rglob("*.so"))
    assert not any("_orig_mod" in key for key in final(tmp_path / "tiny")["state_dict"])
    monkeypatch.setattr(build, "MobileNetV2", SmallBackbone)
    assert main(tiny(face_shards, tmp_path, **small)) == 0
    assert final(tmp_path / "tiny")["global_step"] == 4


@pytest.mark.parametrize(
    ("chosen", "mode"), [(True, "default"), ("reduce-overhead",) * 2, ("max-autotune",) * 2]
)
def test_the_compiler_gets_the_mode_that_was_chosen(
    chosen: bool | str, mode: str, face_shards: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    modes = []

    def note(self: torch.nn.Module, mode: str) -> None:
        modes.append((type(self).__name__, mode))
        raise UserError("noted")

    monkeypatch.setattr(torch.nn.Module, "compile", note)
    assert main(tiny(face_shards, tmp_path, trainer__compile=chosen)) == 2
    assert modes == [("MobileNetV2ViT", mode)]


def test_pattlite_trains(face_shards: Path, tmp_path: Path) -> None:
    assert main(tiny(face_shards, tmp_path, model__name="pattlite", trainer__epochs=1)) == 0


def test_the_run_folders_configuration_is_the_resolved_one(reference: Path) -> None:
    content = yaml.safe_load((reference / "config.yaml").read_text())
    assert content["trainer"]["epochs"] == 3
    assert content["optim"]["weight_decay"] == 0.05  # a default, written out
    with pytest.raises(UserError, match="not a run folder"):
        load_config(reference / "checkpoints")


@pytest.mark.parametrize("cut", [None, 100])
def test_shards_that_are_gone_or_cut_off_are_told_before_anything_is_written(
    cut: int | None, face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(face_shards, bad)
    victim = bad / "test-000001.tar"
    victim.unlink() if cut is None else os.truncate(victim, cut)
    assert main(tiny(bad, tmp_path)) == 2
    error = capsys.readouterr().err
    assert f"{victim} {'is missing' if cut is None else 'has 100 bytes'}" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "tiny").exists()


@pytest.mark.usefixtures("small_network")
def test_a_bad_shard_stops_the_run_or_is_left_out_counted_and_logged(
    face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(face_shards, bad)
    victim = bad / "train-000001.tar"
    victim.write_bytes(
        bytes(victim.stat().st_size)
    )  # of the right size, so detected only when read
    options = {"trainer__epochs": 1, "data__cache": tmp_path / "cache"}
    assert main(tiny(bad, tmp_path, **options)) == 2
    assert f"{victim} differs from its manifest (SHA-256)" in capsys.readouterr().err
    assert main(tiny(bad, tmp_path, "skips", **options, data__bad_shards="skip")) == 0
    lines = read_metrics(tmp_path / "skips" / "metrics.jsonl")
    assert [line["train/left_out"] for line in lines if "train/left_out" in line] == [32]
    assert final(tmp_path / "skips")["global_step"] == STEPS
    victim.unlink()  # missing from the start has the same effect
    shutil.rmtree(tmp_path / "cache")
    assert main(tiny(bad, tmp_path, "missing", **options, data__bad_shards="skip")) == 0
    assert_same_training(tmp_path / "skips", tmp_path / "missing")
    # Never in evaluation: the score would be that of a different set.
    shutil.copy(face_shards / victim.name, victim)
    victim = bad / "val-000000.tar"
    victim.write_bytes(bytes(victim.stat().st_size))
    shutil.rmtree(tmp_path / "cache")
    assert main(tiny(bad, tmp_path, "again", **options, data__bad_shards="skip")) == 2
    assert f"{victim} differs" in capsys.readouterr().err
