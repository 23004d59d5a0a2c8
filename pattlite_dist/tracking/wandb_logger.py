"""Lightning's logger of Weights & Biases, for runs that outlive wandb's process."""

import sys
from collections.abc import Callable
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from pattlite_dist.runtime.notes import note
from pattlite_dist.tracking.wandb_server import without_key


class LenientWandbLogger(WandbLogger):
    """Lightning's, for a run that goes on where wandb's process ends: the record has everything.

    SLURM signals every process of a job, and wandb's own ends at SIGTERM.

    Args:
        experiment: from `wandb.init`.
        folder: of the run.
        note: called once, when W&B is lost.
    """

    def __init__(self, experiment: Any, folder: str, note: Callable[[], None]) -> None:
        super().__init__(experiment=experiment, save_dir=folder)
        self._note, self._is_lost = note, False

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Tell W&B, as long as it listens."""
        self.attempt(lambda: super(LenientWandbLogger, self).log_metrics(metrics, step))

    def aside(self, what: str, work: Callable[[], object]) -> None:
        """Do what W&B may refuse and still take metrics, such as artifacts.

        Args:
            what: for the message if it does.
            work: the call.
        """
        if self._is_lost:
            return
        try:
            work()
        except Exception as error:  # if its process has ended, the next metric says so
            note(f"W&B is not given {what}: {without_key(str(error))}")

    def attempt(self, work: Callable[[], object]) -> None:
        """Do what needs W&B, as long as it listens."""
        if self._is_lost:
            return
        try:
            work()
        except Exception as error:
            self._is_lost = True
            self._note()
            print(
                f"W&B's process has ended ({error}); training continues, and the next start of the "
                "run tells W&B what it missed",
                file=sys.stderr,
                flush=True,
            )
