"""Real signals at every hook of a run: all ranks save once and stop, and no step is repeated."""

import json
import math
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.cli import main
from pattlite_dist.evaluation.calibrating import calibrate_run
from pattlite_dist.runtime.signals import Signals, Stopped
from pattlite_dist.runtime.world import Agreement, World
from pattlite_dist.tracking import history
from pattlite_dist.train import decision, temperature
from pattlite_dist.train import run as runs
from pattlite_dist.train.checkpoint import AtomicCheckpointIO, best
from pattlite_dist.train.decision import next_save
from pattlite_dist.train.names import listed, make_name
from pattlite_dist.train.saving import Saver
from pattlite_dist.train.temperature import CALIBRATION_NAME
from tests.conftest import tiny
from tests.starts import Zygote
from tests.train.faults import EVERY, Fault, killer
from tests.train.harness import assert_same_training, nothing_left_over, uninterrupted

pytestmark = pytest.mark.usefixtures("small_network")
EPOCHS, STEPS = 4, 7  # steps per epoch: 104 samples in global batches of 16
LAST = EPOCHS * STEPS
VALIDATION_BATCHES = {1: 5, 2: 3}  # by ranks: 37 samples in batches of 8
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1, signal.SIGINT)

IN_A_STEP = [
    ("on_train_batch_start", False),
    ("on_after_backward", False),
    ("on_before_optimizer_step", True),
    ("on_train_batch_end", False),
    ("on_train_batch_end", True),
]
AT_AN_END = [
    ("on_train_batch_end", False),
    ("on_validation_start", False),
    ("on_validation_batch_start", False),
    ("on_validation_batch_end", True),
    ("on_validation_epoch_end", True),
    ("on_train_epoch_end", False),
    ("on_train_epoch_end", True),
    ("on_train_epoch_start", False),
]


def options(shards: Path, runs: Path, **overrides: object) -> list[str]:
    return tiny(shards, runs, **{"trainer.epochs": EPOCHS, "trainer.global_batch": 16, **overrides})


@pytest.fixture(scope="module")
def zygote(zygote: Zygote) -> Zygote:
    """Where runs are interrupted is the point here; those of test_run have a larger network."""
    return zygote.with_small_networks()


@pytest.fixture(scope="module")
def references(
    zygote: Zygote, face_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("references")
    return uninterrupted(zygote, folder, lambda name: options(face_shards, folder, name=name))


def strikes(seed: int, ranks: int, inside: int, ends: int) -> list[Fault]:
    """Signals to one or all ranks in the order in which they occur.

    One inside an epoch is answered up to two steps later: each stops the run before the next.
    """
    draw = random.Random(seed)
    kinds = (
        (inside, IN_A_STEP, [e * STEPS + draw.randrange(1, STEPS - 2) for e in range(EPOCHS)]),
        (ends, AT_AN_END, [s for s in range(1, LAST) if not s % STEPS]),
    )
    faults = []
    for count, places, steps in kinds:
        chosen = draw.sample(steps, count)
        for i, step in enumerate(sorted(chosen)):
            place, late = places[(seed * count + i) % len(places)]
            batch = draw.randrange(VALIDATION_BATCHES[ranks])
            rank = draw.choice([EVERY, *range(ranks)])
            faults.append(Fault(place, step, late, batch, rank, int(draw.choice(SIGNALS))))
    return sorted(faults, key=lambda fault: fault.step)


def events(run: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in history.read(run) if event["event"] == name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "workers", "seed"), [(1, 0, 0), (1, 2, 1), (2, 0, 2), (2, 2, 3), (2, 0, 4)]
)
def test_a_run_stopped_again_and_again_takes_each_step_once_and_ends_the_same(
    ranks: int, workers: int, seed: int, zygote: Zygote, references: dict[int, Path],
    face_shards: Path, tmp_path: Path,
) -> None:  # fmt: skip
    arguments = options(face_shards, tmp_path, **{"data.workers": workers})
    run = tmp_path / "tiny"
    faults = strikes(seed, ranks, inside=3, ends=3)
    sessions: list[int] = []
    with nothing_left_over(zygote, sessions):
        for fault in faults:
            start = zygote.start(arguments, ranks, fault)
            sessions += start.sessions
            assert start.stopped_by(fault), (fault, start)
            assert start.log.count("the same command continues") == 1
            assert "Warning" not in start.log, start.log
            ended = any(found.top1 >= 0 for found in listed(run / "checkpoints"))
            assert (run / "curves.png").exists() == ended  # drawn once an epoch has ended
        start = zygote.start(arguments, ranks)
        sessions += start.sessions
        assert start.ended, start.log
    assert_same_training(references[ranks], run)
    fitted, expected = ((one / CALIBRATION_NAME).read_text() for one in (run, references[ranks]))
    assert fitted == expected
    stops = events(run, "stopped")
    assert [stop["signal"] for stop in stops] == [signal.Signals(f.signum).name for f in faults]
    begun = [event["step"] for event in events(run, "started")]
    assert begun == [0, *(stop["step"] for stop in stops)]


@pytest.mark.slow
def test_ranks_calibrate_the_best_checkpoint_together(
    references: dict[int, Path], tmp_path: Path
) -> None:
    run = shutil.copytree(references[2], tmp_path / "run")
    fitted = json.loads((run / CALIBRATION_NAME).read_text())
    assert fitted["checkpoint"] == best(run / "checkpoints").name
    again = calibrate_run(run)[1]
    assert again.temperature == pytest.approx(fitted["temperature"], rel=1e-5) != 1
    assert again.ece == pytest.approx(fitted["ece"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["on_train_batch_end", "on_validation_batch_start"])
def test_a_signal_on_the_last_step_of_all_costs_nothing(
    place: str, zygote: Zygote, references: dict[int, Path], face_shards: Path, tmp_path: Path
) -> None:
    fault = Fault(place, LAST, detail=1, rank=1, signum=int(signal.SIGTERM))
    start = zygote.start(options(face_shards, tmp_path), 2, fault)
    assert start.stopped_by(fault), start
    assert events(tmp_path / "tiny", "stopped")[0]["step"] == LAST
    start = zygote.start(options(face_shards, tmp_path), 2)
    assert start.ended, start.log
    assert_same_training(references[2], tmp_path / "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["on_train_epoch_end", "on_train_end"])
def test_a_signal_after_the_last_step_lets_the_run_end(
    place: str, zygote: Zygote, references: dict[int, Path], face_shards: Path, tmp_path: Path
) -> None:
    fault = Fault(place, LAST, signum=int(signal.SIGTERM))
    start = zygote.start(options(face_shards, tmp_path), 2, fault)
    assert start.ended, start.log
    assert f"struck by {fault}" in start.log
    assert_same_training(references[2], tmp_path / "tiny")


@pytest.mark.slow
def test_a_signal_before_the_first_step_saves_nothing_and_loses_nothing(
    zygote: Zygote, references: dict[int, Path], face_shards: Path, tmp_path: Path
) -> None:
    fault = Fault("on_fit_start", 0, rank=1, signum=int(signal.SIGUSR2))
    start = zygote.start(options(face_shards, tmp_path), 2, fault)
    assert start.stopped_by(fault), start
    assert not list((tmp_path / "tiny").glob("checkpoints/*"))
    assert zygote.start(options(face_shards, tmp_path), 2).ended
    assert_same_training(references[2], tmp_path / "tiny")


@given(st.floats(0, 1e6), st.floats(0, 1e4), st.floats(0, 1e4))
def test_the_clock_never_spends_more_than_a_hundredth(
    now: float, minutes: float, took: float
) -> None:
    after = next_save(now, minutes, took)
    if not minutes:
        assert math.isinf(after)
    else:
        assert after - now >= 60 * minutes - 1e-3
        assert took <= 0.0101 * (after - now) + 1e-6


def test_a_damaged_newer_checkpoint_does_not_cost_those_that_are_saved_next(
    references: dict[int, Path], face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = options(face_shards, tmp_path)
    build = runs.build_trainer

    def stopped_at(step: int) -> None:
        def build_trainer(*args: Any) -> Any:
            trainer = build(*args)
            strike = Fault("on_train_batch_end", step, signum=int(signal.SIGTERM))
            trainer.callbacks.insert(0, killer(strike))
            return trainer

        monkeypatch.setattr(runs, "build_trainer", build_trainer)
        assert main(arguments) == 128 + signal.SIGTERM

    stopped_at(STEPS + 1)
    damaged = make_name(1, STEPS + 5, None)
    (tmp_path / "tiny" / "checkpoints" / damaged).write_bytes(b"cut off")
    with pytest.warns(UserWarning, match=f"skipped: .*{damaged} is cut off"):
        stopped_at(STEPS + 3)
    monkeypatch.setattr(runs, "build_trainer", build)
    assert main(arguments) == 0
    begun = [event["step"] for event in events(tmp_path / "tiny", "started")]
    assert begun == [0, STEPS + 1, STEPS + 3]
    assert_same_training(references[1], tmp_path / "tiny")


@pytest.fixture
def small_disk(zygote: Zygote, tmp_path: Path) -> Iterator[Path]:
    """A file system for the zygote's ranks, with space for one checkpoint and the record."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk; run as root, for example in a container")
    folder = tmp_path / "disk"
    folder.mkdir()
    zygote.inside("mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder)
    yield folder
    zygote.inside("umount", folder)


@pytest.mark.slow
def test_a_full_disk_ends_no_run_and_loses_no_step(
    small_disk: Path, zygote: Zygote, references: dict[int, Path], face_shards: Path
) -> None:
    """No rank waits for one that could not write; earlier checkpoints stay intact."""
    arguments = options(face_shards, small_disk)
    run = zygote.root / small_disk.relative_to("/") / "tiny"
    start = zygote.start(arguments, 2)
    assert 2 in start.statuses, start
    assert start.log.count("not saved, training continues: cannot write") == EPOCHS - 1
    assert "run the same command again" in start.log
    assert [item.step for item in listed(run / "checkpoints")] == [STEPS]
    assert list((run / "checkpoints").glob(".*")) == []
    zygote.inside("mount", "-o", "remount,size=50m", small_disk)
    start = zygote.start(arguments, 2)
    assert start.ended, start.log
    assert_same_training(references[2], run)


def test_a_calibration_that_fails_ends_no_run(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise ValueError("no such logarithm")

    monkeypatch.setattr(temperature, "fit_temperature", fail)
    assert main(options(face_shards, tmp_path, **{"trainer.epochs": 1})) == 0
    told = capsys.readouterr().err
    assert "not calibrated, training continues: no such logarithm" in told
    assert not (tmp_path / "tiny" / CALIBRATION_NAME).exists()


@pytest.mark.parametrize(("share", "many"), [(1e9, True), (0.01, False)])
def test_the_clock_saves_inside_an_epoch_but_takes_a_hundredth_of_the_time(
    share: float, many: bool, face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    save = AtomicCheckpointIO.save_checkpoint

    def noted(self: AtomicCheckpointIO, content: Any, path: Path, **rest: Any) -> None:
        saved.append(Path(path).name)
        save(self, content, path, **rest)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", noted)
    monkeypatch.setattr(decision, "_SHARE", share)
    clock = {
        "trainer.checkpoint_every_minutes": 1e-4, "trainer.epochs": 1,
        "trainer.async_save": False,  # else none is due while one is written
    }  # fmt: skip
    assert main(options(face_shards, tmp_path, **clock)) == 0
    inside = [name for name in saved if "top1" not in name]
    assert (len(inside) >= STEPS - 2) == many, saved
    assert len(saved) == len(inside) + 1


def test_who_stops_says_until_when_there_is_time(tmp_path: Path) -> None:
    with Signals() as signals:
        signals.ends = 1030.5  # as after a cloud's notice
        os.kill(os.getpid(), signal.SIGTERM)
        saver = Saver(tmp_path, World(), signals, Agreement(World(), 1), 0, 0, 1)
        trainer: Any = SimpleNamespace(global_step=7)
        with pytest.raises(Stopped) as stop:
            saver.on_train_epoch_start(trainer, trainer)
    assert (stop.value.step, stop.value.noted) == (7, signals.noted)
    assert stop.value.ends == 1030.5
