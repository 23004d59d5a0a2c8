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
from pattlite_dist.runtime.signals import Signals, Stopped
from pattlite_dist.runtime.world import World

_PAUSE = 2.0  # seconds
_AFTER_A_FAILURE = 60.0  # seconds to publish what there is


@contextlib.contextmanager
def living(
    address: str | None,
    run: Path,
    world: World,
    signals: Signals,
    takeover: float,
    on_main: Callable[[World, Callable[[], Any]], Any],
) -> Iterator[None]:
    """Keep a run in its bucket while it trains. Collective.

    Args:
        address: of the run; None if it is a folder only.
        run: its folder on this machine.
        world: which rank this is.
        signals: received by this rank.
        takeover: seconds to wait for another start that still trains it.
        on_main: runs something on the first rank, and raises its errors on all.

    Raises:
        UserError: the bucket cannot be used.
        Unreachable: the end of the run is not in the bucket.
    """
    if address is None:
        yield
        return
    home = Home(address, run, takeover, signals.replace)
    try:
        on_main(world, lambda: home.open(lambda: bool(signals.got)))
        yield
    except Stopped as stop:
        if home.close(time_left(stop.noted)):
            print(f"pattlite: {address}: published to step {stop.step:,}", file=sys.stderr)
        elif world.main and not signals.replaced:
            print(
                f"pattlite: warning: {address}: the last save is only in {run}; the state before "
                "stays valid",
                file=sys.stderr,
            )
        raise
    except BaseException:
        home.close(_AFTER_A_FAILURE)
        raise

    def end() -> None:
        if not home.close():
            raise Unreachable(f"{address} does not have the end of the run, which is in {run}; "
                              "the same command publishes it")  # fmt: skip

    on_main(world, end)


def bring(
    found: Path | None, address: str | None, run: Path, world: World, minutes: float
) -> Path | None:
    """The checkpoint to continue from, on this machine.

    Args:
        found: on the first rank's.
        address: of the run; None if all share its folder.
        run: its folder on this machine.
        world: which rank this is.
        minutes: how long to wait for it.

    Raises:
        UserError: it does not come.
    """
    if found is None or address is None:
        return found
    path = run / "checkpoints" / found.name
    end = time.monotonic() + 60 * minutes
    while not path.exists():
        if time.monotonic() > end:
            raise UserError(f"{address} does not have {found.name}; check the bucket")
        if world.local_rank == 0:
            command = [sys.executable, "-m", "pattlite_dist.buckets.copies", address, str(run)]
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        if not path.exists():
            time.sleep(_PAUSE)
    return path
