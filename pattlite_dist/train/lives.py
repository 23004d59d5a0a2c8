"""Where a run lives when its folder is only a working copy; `buckets.living` is such a place."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pattlite_dist.runtime.signals import Signals
from pattlite_dist.runtime.world import World


class Lives(Protocol):
    """A place that keeps a run while it trains."""

    def kept(
        self, run: Path, world: World, signals: Signals, on_main: Callable[..., Any]
    ) -> contextlib.AbstractContextManager[None]:
        """Bring the run into its folder, and keep what is written there. Collective.

        Args:
            run: folder.
            world: which rank this is.
            signals: received by this rank.
            on_main: runs something on the first rank, and raises its errors on all.
        """

    def brought(self, found: Path, run: Path, world: World) -> Path:
        """The checkpoint to continue from, on this machine.

        Args:
            found: on the first rank's.
            run: folder on this machine.
            world: which rank this is.
        """
