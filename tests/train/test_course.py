"""Runs that end before their last epoch, and the same with a clock that is set by the test."""

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.cli import main
from pattlite_dist.model import build
from pattlite_dist.runtime.world import World
from pattlite_dist.slurm.status import survey
from pattlite_dist.tracking import curves, history
from pattlite_dist.tracking.folder import load_config
from pattlite_dist.train import run as runs
from pattlite_dist.train.course import Course
from pattlite_dist.train.rates import lr_relative
from pattlite_dist.train.settings import TrainerConfig
from tests.conftest import tiny
from tests.train.harness import assert_same_training, final, logged
from tests.train.small_network import SmallBackbone

STEPS, MINUTES = 13, 60.0  # per epoch; seconds


class Clock:
    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


class Pretended:
    """A run in which nothing is computed: epochs have the durations and scores that are given."""

    def __init__(self, folder: Path, scores: list[float], seconds: list[float]) -> None:
        self.folder, self.scores, self.seconds = folder, scores, seconds

    def start(self, config: TrainerConfig, state: dict[str, Any] | None, kill: int = -1) -> Any:
        """Run from a state to the end, or until an epoch that is killed before it is saved.

        Returns:
            The state after the last epoch that was saved, the course, and the epochs done.
        """
        clock = Clock()
        course = Course(self.folder, config, World(), STEPS, clock)
        done = 0
        if state is not None:
            course.load_state_dict(state)
            done = len(state["scores"])
        trainer: Any = SimpleNamespace(
            global_step=done * STEPS, fit_loop=SimpleNamespace(max_epochs=config.epochs)
        )
        if done < config.epochs:  # otherwise Lightning calls nothing
            course.on_train_start(trainer, None)  # type: ignore[arg-type]
        while done < trainer.fit_loop.max_epochs:
            course.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
            clock.now += self.seconds[done]
            trainer.global_step += STEPS
            trainer.callback_metrics = {"val/top1": self.scores[done]}
            course.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
            if done == kill:
                return state, course, done
            done, state = done + 1, course.state_dict()
        return state, course, done


def stops_at(scores: list[float], patience: int, least: float) -> int:
    """The epochs of a run that is stopped early, by the definition."""
    best, since = scores[0], 0
    for epoch, score in enumerate(scores[1:], 2):
        best, since = (score, 0) if score > best + least else (best, since + 1)
        if since == patience:
            return epoch
    return len(scores)


@given(
    st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=2, max_size=12),
    st.integers(1, 4), st.sampled_from([0, 0.15]), st.sets(st.integers(0, 12)),
)  # fmt: skip
def test_early_stopping_comes_at_the_same_epoch_after_any_kills(
    scores: list[float], patience: int, least: float, kills: set[int]
) -> None:
    run = Pretended(Path("nowhere"), scores, [1.0] * len(scores))
    config = TrainerConfig(epochs=len(scores), patience=patience, min_delta=least)
    state = None
    for kill in sorted(kills):  # each while it ends an epoch, before its checkpoint is written
        state, _, _ = run.start(config, state, kill)
    state, course, done = run.start(config, state)
    assert done == stops_at(scores, patience, least)
    assert (course.reason is None) == (done == len(scores))
    again, course, same = run.start(config, state)  # as a requeued job does
    assert same == done
    assert (course.reason is None) == (done == len(scores))
    assert again == state
    # With more patience it goes on, as if it had had that from the start.
    _, _, later = run.start(config.model_copy(update={"patience": patience + 2}), state)
    assert later == max(done, stops_at(scores, patience + 2, least))


SECONDS = st.lists(st.floats(10, 300), min_size=20, max_size=20)


@given(SECONDS, st.floats(1, 60), st.sets(st.integers(0, 20)))
def test_a_run_with_a_limit_keeps_it_unless_an_epoch_is_the_slowest_so_far(
    tmp_path_factory: pytest.TempPathFactory, seconds: list[float], limit: float, kills: set[int]
) -> None:
    run = Pretended(tmp_path_factory.getbasetemp(), [0.5] * 20, seconds)
    config = TrainerConfig(epochs=20, max_minutes=limit)
    state = None
    for kill in sorted(kills):
        state, _, _ = run.start(config, state, kill)
    state, course, done = run.start(config, state)
    assert 1 <= done <= 20
    took = sum(seconds[:done])
    assert state["seconds"] == pytest.approx(took)
    recent = seconds[max(1, done - 4) : done - 1] or seconds[:1]
    if done > 1 and seconds[done - 1] <= max(recent):
        assert took <= 60 * limit * (1 + 1e-6)
    if done == course.epochs:
        assert course.scheduled(done * STEPS) == 20 * STEPS
    else:
        assert "minutes are over, at " in course.reason


def test_a_steady_run_ends_its_schedule_in_its_minutes(tmp_path: Path) -> None:
    run = Pretended(tmp_path, [0.5] * 30, [90.0] + [60.0] * 29)
    config = TrainerConfig(epochs=30, max_minutes=12)
    state, course, done = run.start(config, None)
    assert done == course.epochs == 11  # 90 + 10 * 60 of 720 seconds
    assert course.scheduled(done * STEPS) == 30 * STEPS
    assert course.reason == "the schedule has ended with epoch 11"
    planned = [event["epochs"] for event in history.read(tmp_path)]
    assert planned == [8, 11]  # the first epoch was slow
    # Its rate is 0: more minutes would train nothing.
    longer = TrainerConfig(epochs=30, max_minutes=99)
    assert run.start(longer, state)[2] == done


def test_a_limit_can_be_set_and_lifted_on_the_way(tmp_path: Path) -> None:
    run = Pretended(tmp_path, [0.5] * 10, [60.0] * 10)
    free = TrainerConfig(epochs=10)
    state, _, done = run.start(free, None, kill=3)
    assert done == 3
    state, course, done = run.start(TrainerConfig(epochs=10, max_minutes=6.5), state, kill=4)
    assert (done, course.epochs) == (4, 6)
    state, course, done = run.start(free, state)
    assert (done, course.reason) == (10, None)
    assert course.scheduled(10 * STEPS) == 10 * STEPS
    assert [change.end // STEPS for change in course.changes] == [6, 10]


def test_a_run_that_was_killed_inside_an_epoch_keeps_its_end(tmp_path: Path) -> None:
    run = Pretended(tmp_path, [0.5] * 10, [60.0] * 10)
    config = TrainerConfig(epochs=10, max_minutes=6)
    state, _, _ = run.start(config, None, kill=2)
    course = Course(tmp_path, config, World(), STEPS, Clock())
    course.load_state_dict(state)
    inside: Any = SimpleNamespace(
        global_step=2 * STEPS + 3, fit_loop=SimpleNamespace(max_epochs=10)
    )
    course.on_train_start(inside, None)  # type: ignore[arg-type]
    assert inside.fit_loop.max_epochs == course.epochs == 6
    assert history.read(tmp_path)[-1]["epochs"] == 6  # its start said 10
    assert course.reason is None


def quick(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Train a small network and draw nothing, by a clock that counts so many seconds an epoch."""
    monkeypatch.setattr(build, "MobileNetV2", SmallBackbone)
    monkeypatch.setattr(curves, "_draw", lambda *_: None)
    clock, ended = Clock(), Course.on_train_epoch_end

    def end(self: Course, *arguments: Any) -> None:
        clock.now += seconds
        ended(self, *arguments)

    monkeypatch.setattr(Course, "on_train_epoch_end", end)
    monkeypatch.setattr(runs, "Course", functools.partial(Course, clock=clock))


def test_a_run_that_was_stopped_early_is_finished_and_may_go_on_as_if_it_had_not(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    quick(monkeypatch, MINUTES)
    assert main(tiny(face_shards, tmp_path, "whole", trainer__epochs=3)) == 0
    patient = functools.partial(tiny, face_shards, tmp_path, trainer__epochs=3)
    limits = {"trainer.patience": 1, "trainer.min_delta": 0.9}
    run, why = tmp_path / "tiny", "no better val top-1 since epoch 1"
    for _ in range(2):  # then requeued
        capsys.readouterr()
        assert main(patient(**limits)) == 0
        assert final(run)["global_step"] == 2 * STEPS
        assert f"{run}: finished: {why}\n" in capsys.readouterr().out
        assert history.read(run)[-1]["event"] == "finished"
        (row,) = survey([run])
        assert (row.state, row.reason, row.epoch, row.epochs) == ("finished", why, 2, 3)
        assert row.time_left is None
    assert main(patient()) == 0
    assert_same_training(tmp_path / "whole", run)
    (row,) = survey([run])
    assert (row.state, row.reason) == ("finished", "")


def test_a_run_with_a_limit_ends_its_cosine_and_says_so(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    quick(monkeypatch, MINUTES)
    arguments = tiny(face_shards, tmp_path, trainer__epochs=30, trainer__max_minutes=3)
    assert main(arguments) == 0
    run = tmp_path / "tiny"
    content = final(run)
    assert content["global_step"] == 3 * STEPS
    (state,) = (v for k, v in content["callbacks"].items() if k.startswith("Course"))
    assert [change[::2] for change in state["changes"]] == [[STEPS, 3 * STEPS]]
    # The rates are those that the checkpoint tells.
    course = Course(run, TrainerConfig(epochs=30), World(), STEPS)
    course.load_state_dict(state)
    told = capsys.readouterr().out
    assert (
        f"{run}: the schedule ends after 3 of 30 epochs, which fit in trainer.max_minutes" in told
    )
    (row,) = survey([run])
    assert (row.state, row.epoch, row.epochs) == ("finished", 3, 3)
    config = load_config(run)
    rates = [
        config.optim.lr * lr_relative(course.scheduled(step), config, STEPS)
        for step in range(3 * STEPS)
    ]
    assert [rate for _, rate in logged(run, "train/lr")] == pytest.approx(rates)
    assert rates[-1] < 0.01 * max(rates)
    assert main(arguments) == 0
    assert final(run)["global_step"] == 3 * STEPS
