"""torchrun, with what it lacks: a user's mistake is reported once and not retried.

`python -m pattlite_dist.runtime.elastic` takes torchrun's arguments and runs its agent; the other
functions are for the workers, which share a folder that the agent created for them.
"""

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pattlite_dist.compat.torchrun import (
    Meeting,
    agent_folder,
    agent_log,
    give_up_at,
    separate_stores,
    wait_for_workers,
    worker_folder,
)
from pattlite_dist.errors import UserError
from pattlite_dist.runtime import network
from pattlite_dist.runtime.imports import quick_imports

MISTAKE = 2  # the exit status for failures that a retry cannot fix
LOST = 1
# How many seconds after SIGTERM whatever is left of this machine's part is killed: a pod's
# terminationGracePeriodSeconds, say.
GRACE = "PATTLITE_GRACE_SECONDS"
AGENT = "PATTLITE_AGENT"  # the process of this agent, for its workers
_BEFORE = 5  # seconds, so that the agent ends its workers, and itself, before all are killed


def told_before(env: Mapping[str, str] = os.environ) -> bool:
    """Whether a worker on this machine has reported a mistake, in this attempt or before."""
    folder = agent_folder(env)
    return folder is not None and any(folder.glob("mistake-*"))


def restarts(env: Mapping[str, str] = os.environ) -> int:
    """How often the agent has started its workers again after a failure."""
    count = env.get("TORCHELASTIC_RESTART_COUNT", "")
    return int(count) if count.isdecimal() else 0


def own_agent(env: Mapping[str, str] = os.environ) -> int | None:
    """The process of the agent that has started this one; None if there is none, or another's.

    SIGTERM to it ends all of its workers, and itself once they have saved.
    """
    parent = os.getppid()
    return parent if env.get(AGENT) == str(parent) else None


def first_to_tell(message: str, env: Mapping[str, str] = os.environ) -> bool:
    """Whether no other worker on this machine has reported this mistake, so the caller should."""
    folder = agent_folder(env)
    name = hashlib.sha256(message.encode()).hexdigest()[:16]
    return folder is None or _first(folder / f"mistake-{name}")


def _first(mark: Path) -> bool:
    """Whether this worker is the one that leaves a mark."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # a full disk: better twice than never
        return True
    return True


def note_failure(text: str, primary: bool, env: Mapping[str, str] = os.environ) -> None:
    """Leave the error that ends this worker where its agent finds it.

    Args:
        text: one line.
        primary: whether it is the cause, and not the loss of another rank.
        env: of the worker.
    """
    folder = worker_folder(env)
    if folder is not None:
        with contextlib.suppress(OSError):
            (folder / (_CAUSE if primary else _LOSS)).write_text(text, encoding="utf-8")


def first_to_end(env: Mapping[str, str] = os.environ) -> bool:
    """Whether no other worker of this attempt on this machine has said that it lost a rank."""
    folder = worker_folder(env)
    return folder is None or _first(folder.parent / "told")


_CAUSE, _LOSS = "cause", "loss"


def cause(error_files: Iterable[str]) -> str | None:
    """The error that ended an attempt, as its workers on this machine noted it.

    Args:
        error_files: of the workers that failed, `attempt_<n>/<local rank>/error.json`.
    """
    attempts = dict.fromkeys(Path(file).parent.parent for file in error_files)
    for name in (_CAUSE, _LOSS):
        for attempt in attempts:
            for note in sorted(attempt.glob(f"*/{name}")):
                with contextlib.suppress(OSError):
                    return note.read_text(encoding="utf-8")
    return None


def status(exit_codes: Iterable[int]) -> int:
    """The agent's exit status, given those of the workers that failed first on this machine."""
    return MISTAKE if MISTAKE in set(exit_codes) else 1


def _worth_telling(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return f"(exitcode: {MISTAKE})" not in text and "closing signal" not in text


def find_addresses(options: Any) -> None:
    """Set how the agents of a run reach each other, where its options do not say.

    torchrun would use this machine's own name, which may not resolve, or only to a loopback
    address.

    Args:
        options: torchrun's, parsed.
    """
    host = (options.rdzv_endpoint or "").rpartition(":")[0] or options.rdzv_endpoint
    alone = options.nnodes in ("1", "1:1") and not options.rdzv_endpoint
    if options.standalone or alone:
        options.local_addr = options.local_addr or network.LOCAL
    elif options.rdzv_backend == "c10d" and host:
        host = host.strip("[]")
        options.local_addr = options.local_addr or network.agent_address(host)
        # torchrun compares that with what its own name means, to find who listens there.
        known = network.is_local(host) or network.name_leads_here()
        if not known and "is_host" not in options.rdzv_conf:
            here = f"is_host={int(network.is_here(host))}"
            options.rdzv_conf = ",".join(filter(None, [options.rdzv_conf, here]))


def grace(env: Mapping[str, str] = os.environ) -> int | None:
    """The grace period, in seconds; None if nothing says how long it is.

    Raises:
        UserError: the variable is set, but not to a number of seconds.
    """
    text = env.get(GRACE)
    if text is None:
        return None
    if not text.isdecimal() or not int(text):
        raise UserError(f"{GRACE}={text!r} is not a number of seconds from 1; set it to 120, say")
    return int(text)


def patience(seconds: int) -> int:
    """How long after SIGTERM the agent kills workers that have not ended, in a grace period.

    Without one that is torchrun's own 30 s, which end a longer save however long it may take.
    """
    return max(seconds - _BEFORE, 1)


def main(arguments: Sequence[str] | None = None, unmet: int = MISTAKE, lost: int = LOST) -> int:
    """Run an agent until it ends; returns the exit status: 2 for a user's mistake.

    Args:
        arguments: torchrun's.
        unmet: the status where the machines never meet, for which the user has to do something.
        lost: the status where they lose each other, or the place where they meet: the same command
            continues.
    """
    with tempfile.TemporaryDirectory(prefix="pattlite-agent-", ignore_cleanup_errors=True) as logs:
        return _run(list(sys.argv[1:] if arguments is None else arguments), logs, unmet, lost)


def _run(arguments: list[str], logs: str, unmet: int, lost: int) -> int:
    with quick_imports():
        from torch.distributed import run
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
        from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousTimeoutError

    try:
        meeting = Meeting()
        agent_log().addFilter(_worth_telling)
        separate_stores()
        give_up_at(MISTAKE)
        parse: Any = run.parse_args
        options = parse(arguments)
        options.log_dir = options.log_dir or logs  # torchrun's own would stay behind
        seconds = grace()
        if seconds is not None:
            wait_for_workers(options, patience(seconds))
        find_addresses(options)
        os.environ[AGENT] = str(os.getpid())
        record(run.run)(options)
    except ChildFailedError as error:
        failed = error.failures
        result = status(failure.exitcode for failure in failed.values())
        if result != MISTAKE:
            ranks = ", ".join(f"rank {rank}: {failed[rank].exitcode}" for rank in sorted(failed))
            told = cause(failure.error_file for failure in failed.values())
            text = told or f"training ended with exit status ({ranks}); the cause is above"
            print(f"pattlite: error: {text}", file=sys.stderr)
        return result
    except UserError as error:
        print(f"pattlite: error: {error}", file=sys.stderr)
        return MISTAKE
    except RendezvousError as error:
        waited = isinstance(error, RendezvousTimeoutError)  # for others, who did not come
        if meeting.met or (meeting.reached and not waited):
            print(f"pattlite: error: the machine where all meet is lost ({error}); start all again",
                  file=sys.stderr)  # fmt: skip
            return lost
        print(
            f"pattlite: error: the machines could not connect ({error}); check RDZV, the port, and "
            "that all were started",
            file=sys.stderr,
        )
        return unmet
    except SignalException as error:
        print(f"pattlite: stopped by {error.sigval.name}", file=sys.stderr)
        return 128 + error.sigval
    finally:
        os.environ.pop(AGENT, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
