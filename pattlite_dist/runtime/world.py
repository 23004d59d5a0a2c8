"""The only place that knows rank, world size, node and device."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pattlite_dist.errors import UserError
from pattlite_dist.runtime import failure, network
from pattlite_dist.runtime.devices import own, use_gpu
from pattlite_dist.runtime.signals import Stopped
from pattlite_dist.runtime.steps import is_task

Launcher = Literal["slurm", "torchrun", "none"]


@dataclass(frozen=True)
class World:
    """The place of this process among those that train together."""

    launcher: Launcher = "none"
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.size and 0 <= self.local_rank < self.local_size):
            raise UserError(f"rank and world size do not match: {self}; check the launcher")
        if self.size % self.local_size:
            raise UserError(
                f"{self.size} processes over nodes of {self.local_size}: every node must start the "
                "same number; fix the launch command"
            )

    @property
    def nodes(self) -> int:
        """Number of machines."""
        return self.size // self.local_size

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes what is written once."""
        return self.rank == 0


def detect(env: Mapping[str, str] = os.environ) -> World:
    """Read the launcher's variables: torchrun's, else SLURM's (a task of srun), else neither.

    torchrun comes first, because SLURM can start it.

    Raises:
        UserError: a launcher's variable is missing or not a number.
    """
    if "TORCHELASTIC_RUN_ID" in env:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, size, local_rank, local_size = (_number(env, name) for name in names)
        nodes = _number(env, "GROUP_WORLD_SIZE") if "GROUP_WORLD_SIZE" in env else None
        if nodes is not None and nodes * local_size != size:  # seen on all machines, as below
            raise UserError(
                f"{size} processes over {nodes} machines: every machine must start the same "
                "number; set NPROC to one number on all of them"
            )
        return World("torchrun", rank, size, local_rank, local_size)
    if is_task(env):
        nodes = _number(
            env, "SLURM_STEP_NUM_NODES" if "SLURM_STEP_NUM_NODES" in env else "SLURM_NNODES"
        )
        size = _number(
            env, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
        )
        rank, local_rank = _number(env, "SLURM_PROCID"), _number(env, "SLURM_LOCALID")
        if nodes < 1 or size % nodes:  # all tasks must see this, or some would wait for the others
            raise UserError(
                f"{size} tasks over {nodes} nodes: every node must start the same number; "
                "fix the srun command"
            )
        return World("slurm", rank, size, local_rank, size // nodes)
    return World()


def _number(env: Mapping[str, str], name: str) -> int:
    try:
        return int(env[name])
    except (KeyError, ValueError):
        raise UserError(
            f"the launcher set {name}={env.get(name)!r}, which is not a number; "
            "start with torchrun, srun, or neither"
        ) from None


def device(world: World, accelerator: str) -> Any:
    """The `torch.device` of this process: one GPU per local rank, or the CPU.

    Raises:
        UserError: as `use_gpu`; or there are more processes than GPUs on this node.
    """
    import torch

    if not use_gpu(accelerator):
        return torch.device("cpu")
    return torch.device("cuda", own(world.local_rank, world.local_size, world.launcher == "slurm"))


def cluster_environment(world: World) -> Any:
    """Lightning's plugin for the launcher that `detect` found, so it cannot detect another."""
    from pytorch_lightning.plugins.environments import (
        LightningEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )

    if world.launcher == "slurm":
        try:
            return SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:  # Lightning requires --ntasks-per-node
            raise UserError(" ".join(str(error).split())) from error
    if world.launcher == "torchrun":
        return TorchElasticEnvironment()
    return LightningEnvironment()


def connect(world: World, accelerator: str, timeout_minutes: float) -> None:
    """Join the process group, if there is more than one process.

    This happens before Lightning would, so that the ranks can agree on a checkpoint first.
    """
    import datetime

    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    gpu = use_gpu(accelerator)
    if gpu:
        torch.cuda.set_device(device(world, accelerator))
    if world.size == 1 or dist.is_initialized():
        return
    environment = cluster_environment(world)
    if world.launcher == "slurm" and "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = network.slurm_main(world.nodes)
    os.environ.setdefault("MASTER_ADDR", str(environment.main_address))
    os.environ.setdefault("MASTER_PORT", str(environment.main_port))
    timeout = datetime.timedelta(minutes=timeout_minutes)
    own = None
    try:
        store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=timeout))
        own = find_interface(world, store)
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=PrefixStore("default_pg", store),
            rank=world.rank,
            world_size=world.size,
            timeout=timeout,
            device_id=device(world, accelerator) if gpu else None,
        )
        failure.begin(store, world.rank, world.size, timeout)
    except (RuntimeError, ValueError, OSError) as error:
        text = failure.no_group(world.rank, world.size, own, error)
        raise failure.NoGroup(text, own is not None) from error


def find_interface(world: World, store: Any) -> str | None:
    """Choose the interface by which this machine reaches the others; returns its address there.

    Collective between nodes: rank 0's machine may have to learn where the others are.

    Args:
        world: which rank this is.
        store: common to the ranks.
    """
    own = network.LOCAL
    if world.nodes > 1:
        way = network.source_of(os.environ["MASTER_ADDR"])
        store.set(f"{_ADDRESS}-{world.rank}", way or "")
        if way is None:
            return None
        others = (store.get(f"{_ADDRESS}-{rank}").decode() for rank in range(world.size))
        own = network.reachable(way, filter(None, others), network.source_of)
    name = network.interface_of(own, network.addresses())
    if name is not None:
        network.use_interface(name, world.nodes)
    return own


_ADDRESS = "pattlite-address"  # in the store, with a rank


@contextlib.contextmanager
def group(world: World, accelerator: str, timeout_minutes: float) -> Iterator[None]:
    """Join the process group for a while, as `connect` does.

    After an error the group is not left, because that could wait for ranks that never come; the
    error is told to the others instead, and this process has to end.

    Raises:
        PeerFailed: another rank ended first.
    """
    connect(world, accelerator, timeout_minutes)
    try:
        yield
    except Stopped:  # all ranks stop together
        disconnect()
        raise
    except Exception as error:
        found = failure.judge(error)
        if found is error:
            raise
        raise found from error
    disconnect()


def disconnect() -> None:
    """Leave the process group, if this process is in one."""
    import torch.distributed as dist

    failure.end()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def from_main(world: World, value: Any) -> Any:
    """Rank 0's `value`, on every rank. Collective."""
    if world.size == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_all(world: World, value: Any) -> list[Any]:
    """Every rank's `value`, on every rank. Collective, so it fails where a rank has ended."""
    values = [value] * world.size
    if world.size > 1:
        import torch.distributed as dist

        dist.all_gather_object(values, value)
    return values


class Agreement:
    """Lets the ranks of a run agree on small numbers, always on the CPU.

    Created on all ranks at once, after `world.connect`. `largest` waits for all ranks; `ask` does
    not, and `answer` waits only for ranks that have not asked yet.

    Args:
        world: which rank this is.
        timeout_minutes: how long a rank waits for the others.
    """

    def __init__(self, world: World, timeout_minutes: float) -> None:
        self._group: Any = None
        self._asked: Callable[[], list[int]] | None = None
        if world.size > 1:
            import datetime

            import torch.distributed as dist

            # Gloo's own group, if it is the default: making another waits, until it times out, for
            # a rank that has been lost meanwhile. With NCCL's, every step would wait for the GPU.
            self._group = dist.group.WORLD
            if dist.get_backend() != "gloo":
                self._group = dist.new_group(
                    backend="gloo", timeout=datetime.timedelta(minutes=timeout_minutes)
                )

    def largest(self, values: Sequence[int]) -> list[int]:
        """The largest of each value over all ranks. Collective."""
        self.ask(values)
        answer = self.answer()
        assert answer is not None
        return answer

    def ask(self, values: Sequence[int]) -> None:
        """Begin to find the largest of each value; an earlier question is dropped. Collective."""
        if self._group is None:
            self._asked = lambda: list(values)
            return
        import torch
        import torch.distributed as dist

        self.answer()
        box = torch.tensor(values, dtype=torch.int64)
        work = dist.all_reduce(box, dist.ReduceOp.MAX, self._group, async_op=True)

        def largest() -> list[int]:
            work.wait()
            return [int(value) for value in box]

        self._asked = largest

    def answer(self) -> list[int] | None:
        """What the last question led to; None if it was answered or there was none. Collective."""
        asked, self._asked = self._asked, None
        return None if asked is None else asked()
