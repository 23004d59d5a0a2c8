import signal
import time
from pathlib import Path

import pytest

from pattlite_dist.errors import Unreachable
from pattlite_dist.runtime.signals import Signals
from pattlite_dist.runtime.world import Agreement, World
from pattlite_dist.train.decision import Decisions


def decisions(world: World, signals: Signals) -> Decisions:
    return Decisions(Path("none"), world, signals, Agreement(World(), 1), 0)


def test_a_rank_that_waits_for_data_heeds_a_signal_after_a_while() -> None:
    """Until then they may come, and the run is saved."""
    alone, signals = World(), Signals()
    assert decisions(alone, signals).without_data() == 0
    signals.got, signals.noted = signal.SIGTERM, time.time() - 5
    assert decisions(alone, signals).without_data() == 0
    signals.noted -= 10
    assert decisions(alone, signals).without_data() == signal.SIGTERM


def test_one_of_several_ranks_ends_all_for_they_wait_for_it() -> None:
    signals = Signals()
    signals.got, signals.noted = signal.SIGUSR2, time.time() - 15
    with pytest.raises(Unreachable, match="rank 1 still waits for data 15 s after SIGUSR2"):
        decisions(World("torchrun", 1, 2, 1, 2), signals).without_data()
