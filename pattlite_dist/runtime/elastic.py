"""torchrun, with what it lacks: a user's mistake is reported once and not retried.

`python -m pattlite_dist.runtime.elastic` takes torchrun's arguments and runs its agent; the other
functions are for the workers, which share a folder that the agent created for them.
"""

import hashlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from pattlite_dist.compat.torchrun import agent_folder, agent_log, separate_stores
from pattlite_dist.errors import UserError
from pattlite_dist.runtime.imports import quick_imports

MISTAKE = 2  # the exit status for failures that a retry cannot fix


def told_before(env: Mapping[str, str] = os.environ) -> bool:
    """Whether a worker on this machine has reported a mistake, in this attempt or before."""
    folder = agent_folder(env)
    return folder is not None and any(folder.glob("mistake-*"))


def first_to_tell(message: str, env: Mapping[str, str] = os.environ) -> bool:
    """Whether no other worker on this machine has reported this mistake, so the caller should."""
    folder = agent_folder(env)
    if folder is None:
        return True
    name = hashlib.sha256(message.encode()).hexdigest()[:16]
    try:
        (folder / f"mistake-{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # a full disk: better twice than never
        return True
    return True


def status(exit_codes: Iterable[int]) -> int:
    """The agent's exit status, given those of the workers that failed first on this machine."""
    return MISTAKE if MISTAKE in set(exit_codes) else 1


def _worth_telling(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return f"(exitcode: {MISTAKE})" not in text and "closing signal" not in text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an agent until it ends; returns the exit status: 2 for a user's mistake."""
    with quick_imports():
        from torch.distributed import run
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous import RendezvousError

    try:
        agent_log().addFilter(_worth_telling)
        separate_stores()
        run.main(list(sys.argv[1:] if arguments is None else arguments))
    except ChildFailedError as error:
        failed = error.failures
        result = status(failure.exitcode for failure in failed.values())
        if result != MISTAKE:
            ranks = ", ".join(f"rank {rank}: {failed[rank].exitcode}" for rank in sorted(failed))
            print(
                f"pattlite: error: training ended with exit status ({ranks}); the cause is above",
                file=sys.stderr,
            )
        return result
    except UserError as error:
        print(f"pattlite: error: {error}", file=sys.stderr)
        return MISTAKE
    except RendezvousError as error:
        print(
            f"pattlite: error: the machines could not connect ({error}); check RDZV, the port, and "
            "that all were started",
            file=sys.stderr,
        )
        return MISTAKE
    except SignalException as error:
        print(f"pattlite: stopped by {error.sigval.name}", file=sys.stderr)
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main())
