"""torchrun's agent: its folder for the workers, log, store and patience, whom it met, its end.

Nothing here imports torch before it is called: a worker asks for the folder at its very start.
"""

import importlib
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pattlite_dist.compat.need import changed, find, find_function

_NAME = "torch"
_API = "torch.distributed.elastic.multiprocessing.api"
_AGENT = "torch.distributed.elastic.agent.server.local_elastic_agent"
_RENDEZVOUS = "torch.distributed.elastic.rendezvous.dynamic_rendezvous"
_REGISTRY = "torch.distributed.elastic.rendezvous.registry"
_SHARED = "DynamicRendezvousHandler.use_agent_store"
_SEPARATE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


def agent_folder(env: Mapping[str, str]) -> Path | None:
    """A folder that an agent keeps for its workers, over all attempts; None without an agent.

    It lies above `attempt_<n>/<local rank>/error.json`.
    """
    return _above_error_file(env, 2)


def worker_folder(env: Mapping[str, str]) -> Path | None:
    """This worker's own folder, `attempt_<n>/<local rank>`; None without an agent."""
    return _above_error_file(env, 0)


def _above_error_file(env: Mapping[str, str], levels: int) -> Path | None:
    file = env.get("TORCHELASTIC_ERROR_FILE")
    folder = Path(file).parents[levels] if file and len(Path(file).parts) > 3 else None
    return folder if folder is not None and folder.is_dir() else None


def agent_log() -> logging.Logger:
    """Where an agent logs how its workers ended.

    Raises:
        UserError: this version of PyTorch logs it elsewhere.
    """
    log = find(_NAME, importlib.import_module(_API), "logger")
    if not isinstance(log, logging.Logger):
        raise changed(_NAME, f"logger of `{_API}`")
    return log


def separate_stores() -> None:
    """Give each attempt of an agent in this process a store of its own.

    Otherwise all attempts share one, where restarted workers find addresses of dead ones.

    Raises:
        UserError: this version of PyTorch ignores the variable.
    """
    os.environ[_SEPARATE] = "1"
    shares = find(_NAME, importlib.import_module(_RENDEZVOUS), f"{_SHARED}.fget")
    try:
        ignored = shares(None) is not False
    except (AttributeError, TypeError):
        ignored = True
    if ignored:
        raise changed(_NAME, f"variable {_SEPARATE}")


class Meeting:
    """How far the agent of this process has come in meeting the others.

    Attributes:
        reached: whether it has found the place where all meet.
        met: whether it has met them there, so that workers could start.

    Raises:
        UserError: this version of PyTorch looks for the place elsewhere.
    """

    def __init__(self) -> None:
        self.reached = self.met = False
        registry = importlib.import_module(_REGISTRY)
        find_place = find_function(_NAME, registry, "get_rendezvous_handler", ("params",))

        def noted(params: Any) -> Any:
            handler = find_place(params)
            self.reached = True
            meet = find_function(_NAME, handler, "next_rendezvous")

            def met() -> Any:
                # The handler is freed as torchrun leaves it, in no circle with this: its store, of
                # which a thread still ran at the interpreter's end, aborted the agent.
                del handler.next_rendezvous
                found = meet()
                self.met = True
                return found

            handler.next_rendezvous = met
            return handler

        registry.get_rendezvous_handler = noted  # type: ignore[attr-defined]


def wait_for_workers(options: Any, seconds: int) -> None:
    """Let workers that were sent a signal to stop end by themselves, for so long.

    Newer versions of torchrun have an option for it; it stays as it is if the user has set it.

    Args:
        options: torchrun's, parsed.
        seconds: before they are killed.

    Raises:
        UserError: this version of PyTorch waits elsewhere.
    """
    if hasattr(options, _PATIENCE):
        if getattr(options, _PATIENCE) is None:
            setattr(options, _PATIENCE, seconds)
        return
    api = importlib.import_module(_API)
    close = find_function(_NAME, api, "PContext.close", ("death_sig", "timeout"))
    signalled = find(_NAME, api, "SignalException")

    def patient(self: Any, death_sig: Any = None, timeout: int = 30) -> None:
        # Between two attempts, workers that hang are to be killed as soon as before.
        stops = isinstance(sys.exc_info()[1], signalled)
        close(self, death_sig, seconds if stops else timeout)

    api.PContext.close = patient


_PATIENCE = "shutdown_timeout"


def give_up_at(status: int) -> None:
    """Have agents not start their workers again once one of them has ended with a status.

    With several machines, each of the hundred attempts takes a second.

    Args:
        status: that an attempt cannot change.

    Raises:
        UserError: this version of PyTorch looks after workers elsewhere.
    """
    agent = find(_NAME, importlib.import_module(_AGENT), "LocalElasticAgent")
    monitor = find_function(_NAME, agent, "_monitor_workers", ("worker_group",))

    def looking(self: Any, worker_group: Any) -> Any:
        found = monitor(self, worker_group)
        if any(failure.exitcode == status for failure in found.failures.values()):
            find(_NAME, self, _ATTEMPTS)
            setattr(self, _ATTEMPTS, 0)
        return found

    agent._monitor_workers = looking


_ATTEMPTS = "_remaining_restarts"
