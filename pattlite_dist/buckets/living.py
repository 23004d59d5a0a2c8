"""A run that lives in a bucket, as training sees it: a local folder that is brought and published.

The first rank's machine keeps the run and publishes it. Others bring what they continue from.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pattlite_dist.buckets.home import Home, time_left
from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.runtime.elastic import grace
from pattlite_dist.runtime.signals import Signals, Stopped
from pattlite_dist.runtime.world import World

OnMain = Callable[[World, Callable[[], Any]], Any]
_PAUSE = 2.0  # seconds
_AFTER_A_FAILURE = 60.0  # seconds to publish what there is


class Living:
    """A run's place in a bucket, for `train`.

    Args:
        address: of the run.
        takeover: seconds to wait for another start that still trains it.
        patience: seconds that the other machines wait for what they continue from.
    """

    def __init__(self, address: str, takeover: float, patience: float) -> None:
        self.address, self.takeover, self.patience = address, takeover, patience

    @contextlib.contextmanager
    def kept(self, run: Path, world: World, signals: Signals, on_main: OnMain) -> Iterator[None]:
        """Keep a run in its bucket while it trains. Collective.

        Args:
            run: its folder on this machine.
            world: which rank this is.
            signals: received by this rank.
            on_main: runs something on the first rank, and raises its errors on all.

        Raises:
            UserError: the bucket cannot be used, or the grace period is no number.
            Unreachable: the end of the run is not in the bucket.
        """
        address, seconds = self.address, grace()
        home = Home(address, run, self.takeover, signals.replace)
        try:
            on_main(world, lambda: home.open(lambda: bool(signals.got)))
            yield
        except Stopped as stop:
            if home.close(time_left(stop.noted, seconds, stop.ends)):
                print(f"pattlite: {address}: published to step {stop.step:,}", file=sys.stderr)
            elif world.main and not signals.replaced:
                print(
                    f"pattlite: warning: {address}: the last save is only in {run}; the state "
                    "before stays valid",
                    file=sys.stderr,
                )
            raise
        except BaseException:
            home.close(_AFTER_A_FAILURE)
            raise

        def end() -> None:
            if not home.close():
                raise Unreachable(
                    f"{address} does not have the end of the run, which is in {run}; the same "
                    "command publishes it"
                )

        on_main(world, end)

    def brought(self, found: Path, run: Path, world: World) -> Path:
        """The checkpoint to continue from, on this machine.

        Args:
            found: on the first rank's.
            run: its folder on this machine.
            world: which rank this is.

        Raises:
            UserError: it does not come.
        """
        path = run / "checkpoints" / found.name
        end = time.monotonic() + self.patience
        while not path.exists():
            if time.monotonic() > end:
                raise UserError(f"{self.address} does not have {found.name}; check the bucket")
            if world.local_rank == 0:
                module = "pattlite_dist.buckets.copies"
                subprocess.run([sys.executable, "-m", module, self.address, str(run)], check=False)
            if not path.exists():
                time.sleep(_PAUSE)
        return path
