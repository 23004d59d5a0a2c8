"""What the ranks of a run decide together: whether to stop, to save by the clock, or to give up."""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pattlite_dist.errors import Unreachable
from pattlite_dist.runtime.signals import Signals
from pattlite_dist.runtime.world import Agreement, World
from pattlite_dist.train.checkpoint import Unusable
from pattlite_dist.train.names import listed
from pattlite_dist.train.watch import NEVER

_PATIENCE = 10.0  # seconds that data may take after a signal, before the run stops without them
_SHARE = 0.01  # largest share of the time spent on time-based checkpoints


def next_save(now: float, every_minutes: float, last_seconds: float) -> float:
    """When the next time-based checkpoint is due.

    Args:
        now: seconds.
        every_minutes: as configured; 0 for never.
        last_seconds: duration of the last checkpoint; the longer it was, the longer the interval,
            so that time-based saving takes less than one hundredth of the time.
    """
    if not every_minutes:
        return float("inf")
    return now + max(60 * every_minutes, last_seconds / _SHARE)


class Decisions:
    """Each rank says what it knows; all get the same answer.

    An answer is the signal received by any rank (0 if none), and whether a time-based save is due.
    Every method but `without_data` and `saved` is collective, and those that ask raise `Unusable`
    on all ranks if a loss was NaN or infinite on any.

    Args:
        folder: of the run's checkpoints.
        world: which rank this is.
        signals: received by this rank.
        agreement: between the ranks.
        every_minutes: save at least this often; 0 for never.
        heard: called with what a question carried: the largest of each number over all ranks.
        busy: whether rank 0 still saves; meanwhile, no other save is due.
        settle: returns on all ranks when it does not any more.
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        signals: Signals,
        agreement: Agreement,
        every_minutes: float,
        heard: Callable[[list[int]], None] = lambda numbers: None,
        busy: Callable[[], bool] = lambda: False,
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        self.folder, self.world, self.signals = folder, world, signals
        self.agreement, self.every_minutes = agreement, every_minutes
        self._heard, self._busy, self._settle = heard, busy, settle
        self.saved(0)

    def now(self, bad_step: int = NEVER, carried: Sequence[int] = ()) -> tuple[int, bool]:
        """Ask all ranks and wait for the answer.

        Args:
            bad_step: the first step with a NaN or infinite loss on this rank.
            carried: further numbers, as many on every rank.
        """
        self.earlier()  # what it says of stopping, this question's answer says too
        return self._judge(self.agreement.largest([*self._known(bad_step), *carried]))

    def earlier(self) -> tuple[int, bool]:
        """The answer to what was asked by `later`, if anything was since the last answer."""
        answer = self.agreement.answer()
        return (0, False) if answer is None else self._judge(answer)

    def later(self, bad_step: int = NEVER, carried: Sequence[int] = ()) -> None:
        """Ask all ranks without waiting; arguments as for `now`."""
        self.agreement.ask([*self._known(bad_step), *carried])

    def without_data(self) -> int:
        """The signal that this rank got a while ago, while it waits for data; 0 if none.

        Not collective: others may wait for this rank, in the middle of their step. So a single rank
        stops, and one of several ends all.

        Raises:
            Unreachable: it is one of several.
        """
        waited = time.time() - self.signals.noted
        if not self.signals.got or waited < _PATIENCE:
            return 0
        if self.world.size == 1:
            return self.signals.got
        raise Unreachable(
            f"rank {self.world.rank} still waits for data {waited:.0f} s after "
            f"{signal.Signals(self.signals.got).name}, and ends; the run continues from its last "
            "checkpoint"
        )

    def saved(self, seconds: float) -> None:
        """Begin to wait for the next time-based save.

        Args:
            seconds: how long the last one took.
        """
        self._due = next_save(time.monotonic(), self.every_minutes, seconds)

    def advice(self) -> str:
        """What to do about a run that has diverged."""
        self._settle()
        found = listed(self.folder)
        kept = (
            f"the last good checkpoint is {max(found).name}" if found else "there is no checkpoint"
        )
        return (
            f"training has diverged and was stopped; {kept}; "
            "train under another name with a lower optim.lr, or with optim.clip_norm"
        )

    def _known(self, bad_step: int) -> tuple[int, int, int]:
        due = self.world.main and time.monotonic() >= self._due and not self._busy()
        return self.signals.got, int(due), -bad_step

    def _judge(self, answer: list[int]) -> tuple[int, bool]:
        signum, saving, bad, *carried = answer
        if bad > -NEVER:
            raise Unusable(f"the loss of step {-bad:,} is NaN or infinite: {self.advice()}")
        if carried:
            self._heard(carried)
        return signum, bool(saving)
