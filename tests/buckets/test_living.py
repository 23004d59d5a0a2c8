import signal
from pathlib import Path

import pytest

from pattlite_dist.buckets import home, living
from pattlite_dist.buckets.living import Living
from pattlite_dist.runtime import elastic
from pattlite_dist.runtime.signals import Signals, Stopped
from pattlite_dist.runtime.world import World


class Closed:
    """A publisher that only notes for how long it may publish the end."""

    seconds: float | None = None

    def __init__(self, *_: object) -> None:
        pass

    def open(self, *_: object) -> None:
        pass

    def close(self, seconds: float) -> bool:
        Closed.seconds = seconds
        return True


@pytest.mark.parametrize(("ends", "seconds"), [(None, 20.0), (1105.0, 95.0), (1012.0, 2.0)])
def test_the_last_checkpoint_has_until_the_machine_is_taken_or_for_the_grace_period(
    ends: float | None, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(living, "Home", Closed)
    monkeypatch.setattr(home.time, "time", lambda: 1010.0)
    monkeypatch.delenv(elastic.GRACE, raising=False)
    lives = Living("s3://bucket/runs/a", 0, 0)
    with (
        pytest.raises(Stopped),
        lives.kept(tmp_path, World(), Signals(), lambda world, work: work()),
    ):
        raise Stopped(signal.SIGTERM, 7, None, 1000.0, ends)
    assert Closed.seconds == seconds
