import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from pattlite_dist.runtime import elastic, spot
from pattlite_dist.runtime.signals import Signals
from pattlite_dist.runtime.spot import latest, look_out, watched
from pattlite_dist.runtime.world import World
from tests.metadata_server import AWS, Answer, Cloud, addresses, served


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    monkeypatch.setattr(spot, "_EVERY", 0.01)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    with served(Cloud(AWS)) as server:
        for name, address in addresses(server).items():
            monkeypatch.setenv(name, address)
        yield server


def until(ready: threading.Event | Signals) -> None:
    deadline = time.monotonic() + 60
    while not (ready.got if isinstance(ready, Signals) else ready.is_set()):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_notice_asks_for_a_save_as_a_signal_does(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    at = float(round(time.time())) + 120
    with Signals() as signals, watched("auto", World(), signals):
        while len(cloud.asked) < 4:  # it asks again and again
            time.sleep(0.005)
        assert not signals.got
        cloud.broken = Answer(500)
        cloud.take(at)
        asked = len(cloud.asked)
        while len(cloud.asked) < asked + 3:
            time.sleep(0.005)
        assert not signals.got
        cloud.broken = None
        until(signals)
        assert signals.got == signal.SIGTERM
        assert signals.ends == at
    assert "note: AWS takes this machine back in " in capsys.readouterr().err


def test_the_agent_is_told_where_there_is_one(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(elastic.GRACE, "60")
    cloud.take(time.time() + 120)
    with Signals() as signals, subprocess.Popen(["sleep", "300"]) as agent:
        monkeypatch.setattr(elastic, "own_agent", lambda: agent.pid)
        look_out(signals, threading.Event())
        assert agent.wait() == -signal.SIGTERM
    assert signals.ends is not None and not signals.got
    assert signals.ends < time.time() + 56  # the agent kills what is left


def test_an_agent_is_told_only_by_a_process_of_its_own() -> None:
    assert elastic.own_agent({elastic.AGENT: str(os.getppid())}) == os.getppid()
    assert elastic.own_agent({elastic.AGENT: str(os.getpid())}) is None
    assert elastic.own_agent({}) is None


@pytest.mark.parametrize(("mode", "local_rank"), [("none", 0), ("auto", 1)])
def test_nobody_asks_unless_it_is_wanted_and_then_one_of_a_machine(
    mode: str, local_rank: int, cloud: Cloud
) -> None:
    before = threading.active_count()
    with watched(mode, World("torchrun", local_rank, 2, local_rank, 2), Signals()):
        assert threading.active_count() == before
    assert not cloud.asked


def test_where_no_cloud_answers_that_is_said(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.broken = Answer(404)
    look_out(Signals(), threading.Event())
    assert "no cloud's metadata service answers here" in capsys.readouterr().err
    assert len(cloud.asked) == 9  # three times all three


def test_what_is_over_is_not_disturbed(cloud: Cloud) -> None:
    cloud.take(time.time() + 120)
    over = threading.Event()
    over.set()
    with Signals() as signals:
        look_out(signals, over)
    assert not signals.got


@pytest.mark.parametrize(
    ("ends", "agent", "env", "expected"),
    [
        (None, False, {}, None),
        (990.0, False, {}, None),  # the clock is wrong
        (1120.0, False, {}, 1120.0),
        (1120.0, False, {elastic.GRACE: "60"}, 1120.0),
        (1120.0, True, {}, 1030.0),
        (1120.0, True, {elastic.GRACE: "60"}, 1055.0),
        (1120.0, True, {elastic.GRACE: "300"}, 1120.0),
    ],
)
def test_a_process_has_until_its_machine_or_its_agent_ends_it(
    ends: float | None, agent: bool, env: dict[str, str], expected: float | None
) -> None:
    assert latest(ends, 1000.0, agent, env) == expected
