"""What a SLURM job unpickles and runs; imports nothing heavy until it does.

Both are submitit's `Checkpointable`: they can be requeued as they were first pickled,
because everything that a start needs to know is in the run folder.
"""

import os
import signal
import sys
from pathlib import Path

from submitit.helpers import Checkpointable

from pattlite_dist.compat.submitit import check_handler
from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.runtime import failure
from pattlite_dist.runtime.home import provide_home
from pattlite_dist.runtime.imports import quick_imports
from pattlite_dist.runtime.network import first_node, node_name
from pattlite_dist.runtime.signals import Signals, Stopped
from pattlite_dist.tracking import history
from pattlite_dist.tracking.lock import Busy


class TrainJob(Checkpointable):
    """Trains, or continues, the run of a folder that `pin` has prepared.

    Args:
        run: folder, absolute.
        max_requeues: how often the job may be restarted.
        requeue_command: shell command that requeues `{job}`; None for scontrol.
    """

    def __init__(self, run: Path, max_requeues: int, requeue_command: str | None = None) -> None:
        self.run, self.max_requeues = run, max_requeues
        self.requeue_command = requeue_command

    def __call__(self) -> None:
        """Train to the end, or until a signal; runs once per rank.

        Raises:
            SystemExit: a signal stopped it, or it cannot run; 2 for the user's mistake.
        """
        # From here on signals are recorded, even during the long imports.
        with Signals() as signals:
            try:
                provide_home()
                check_handler(signals.previous.get(signal.SIGUSR2))
                from pattlite_dist.slurm.pin import warn_if_changed
                from pattlite_dist.tracking.folder import load_config

                with quick_imports():
                    from pattlite_dist.train.run import train

                warn_if_changed(self.run)
                train(load_config(self.run), signals)
            except Stopped as stop:
                from pattlite_dist.slurm.requeue import leave

                leave(stop, signals, self.run, self.max_requeues, self.requeue_command)
            except UserError as error:
                if not isinstance(error, Busy):
                    self._note(error)
                print(f"pattlite: error: {error}", file=sys.stderr, flush=True)
                raise SystemExit(2) from None
            except (failure.PeerFailed, failure.NoGroup, Unreachable) as error:
                if not isinstance(error, failure.PeerFailed):
                    self._note(error)
                if isinstance(error, failure.NoGroup) and not error.reached:
                    self._note_unreached(error)
                failure.tell(str(error))
                raise SystemExit(1) from None
            finally:
                from pattlite_dist.tracking import curves, reporting, wandb_run

                # After the requeue, as both can outlast the grace time.
                if os.environ.get("SLURM_PROCID", "0") == "0":
                    curves.draw_what_is_new(self.run)
                    reporting.finish_report(self.run)
                wandb_run.end()

    def _note_unreached(self, error: failure.NoGroup) -> None:
        # Rank 0 only knows that somebody is missing. This rank knows who, if it sees the folder.
        if os.environ.get("SLURM_PROCID", "0") != "0" and os.environ.get("SLURM_LOCALID") == "0":
            names = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "")
            bad = {node_name(): [str(error)]}
            history.append(self.run, "probed", bad=bad, main=first_node(names))

    def _note(self, error: Exception) -> None:
        # For `status`: SLURM keeps only a number. Training itself notes what fails in the run.
        if os.environ.get("SLURM_PROCID", "0") == "0":
            reason = str(error).splitlines()[-1]
            history.note_failed(self.run, reason, final=isinstance(error, UserError))


class CommandJob(Checkpointable):
    """Runs a `pattlite` command that can be restarted from its beginning.

    Args:
        arguments: after `pattlite`.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments

    def __call__(self) -> None:
        """Run the command; runs once per rank.

        Raises:
            SystemExit: it failed.
        """
        from pattlite_dist.cli import main

        status = main(self.arguments)
        if status:
            raise SystemExit(status)
