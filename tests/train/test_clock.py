"""The parts of a rank's time, by a clock that is moved by hand."""

from typing import Any

import pytest
import torch

from pattlite_dist.tracking.parts import PARTS
from pattlite_dist.train.clock import Clock


class Hand:
    """Seconds, of which some pass when they are told to."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


class Event:
    """Of a device that is as far as `device` says, and at once."""

    device, over = Hand(), True

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = self.device()

    def query(self) -> bool:
        return self.over

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end.at - self.at)


def step(clock: Clock, hand: Hand, waited: float = 1.0, device: float = 0.0) -> None:
    """One step; the parts take 1 + 2, 3, 4 and 5 seconds of the host."""
    for name, host, there in (
        ("", 2.0 + waited, 10), ("compute", 3.0, 20), ("reduce", 4.0, 30), ("optimizer", 5.0, 40)
    ):  # fmt: skip
        hand.at += host
        Event.device.at += device * there
        if not name:
            clock.prepared(waited)
        elif name == "optimizer":
            clock.stepped()
        else:
            clock.mark(name)


def taken(clock: Clock) -> tuple[int, dict[str, float]]:
    steps, parts = clock.take()
    found = dict(zip(PARTS, (part / 1e6 for part in parts), strict=True))
    return steps, {name: value for name, value in found.items() if value}


def test_all_of_the_time_is_in_some_part_and_only_once() -> None:
    hand = Hand()
    clock = Clock(now=hand)
    step(clock, hand)
    step(clock, hand, waited=0.5)
    hand.at += 0.25
    clock.mark("rest")
    hand.at += 7
    clock.mark("validate")
    steps, found = taken(clock)
    whole = {"data": 1.5, "prepare": 4.0, "compute": 6.0, "reduce": 8.0, "optimizer": 10.0}
    assert (steps, found) == (2, {**whole, "validate": 7.0, "rest": 0.25})
    assert taken(clock) == (0, {})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    Event.over = True


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_measured_in_one_step_and_the_rest_of_the_hosts_time_is_waiting_for_it() -> None:
    hand = Hand()
    clock = Clock(gpu=True, now=hand)
    for number in range(3):
        if number == 2:
            clock.sample()
        step(clock, hand, device=0.1 if number == 2 else 1.0)
    hand.at += 100  # until the device is done
    steps, found = taken(clock)
    whole = {"data": 3.0, "prepare": 0.0, "compute": 6.0, "reduce": 9.0, "optimizer": 12.0}
    rest = 100 + 3 * 15 - sum(whole.values())
    assert steps == 3
    assert found == pytest.approx({**{n: v for n, v in whole.items() if v}, "rest": rest})


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("why", ["a validation lies in between", "the device is not done"])
def test_what_a_gpu_has_not_measured_is_not_guessed(why: str) -> None:
    hand = Hand()
    clock = Clock(gpu=True, now=hand)
    clock.sample()
    if why.startswith("a val"):
        clock.mark("validate")
    Event.over = why.startswith("a val")
    step(clock, hand)
    assert taken(clock) == (1, {"data": 1.0, "rest": 14.0})
