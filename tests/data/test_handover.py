"""A loader process that cannot hand its batches over, and a rank that waits for one."""

import errno
import gc
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, SequentialSampler

from pattlite_dist.data import handover, loader
from pattlite_dist.data.loader import BatchLoader
from pattlite_dist.errors import UserError
from pattlite_dist.tracking import history
from tests.conftest import tiny
from tests.starts import Zygote
from tests.train.faults import Fault

FULL = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"


def tensors(place: int) -> dict[str, torch.Tensor]:
    """As large as a few pages, of one element, and empty."""
    return {
        "image": torch.arange(place, place + 9000).reshape(3, 3000),
        "label": torch.tensor([place], dtype=torch.uint8),
        "flags": torch.empty(0, 2, dtype=torch.bool),
    }


class Batches(Dataset[Any]):
    """As `BatchDataset`, of `tensors`; `hangs` makes none."""

    def __init__(self, hangs: bool = False) -> None:
        self.hangs = hangs

    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: int) -> Any:
        if self.hangs:
            os.read(os.pipe()[0], 1)  # which nobody writes
        try:
            return handover.ready_to_send({**tensors(place), "epoch": 0}, 0.2)
        except UserError as error:
            return error


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Iterator[BatchLoader]:
    batches: Any = Batches(**request.param)
    found = BatchLoader(batches, SequentialSampler(batches), 1, "fork")
    yield found
    found.close()


def full(*_: object) -> None:
    raise RuntimeError(FULL)


def failing(number: int) -> Callable[..., None]:
    """A call of the system that fails."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def in_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process takes itself for a loader process."""
    monkeypatch.setattr(handover, "get_worker_info", lambda: SimpleNamespace(id=0))


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without memory that has no name."""
    monkeypatch.delattr(os, "memfd_create")


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("made", [{}], indirect=True)
def test_without_room_in_shared_memory_a_loader_process_says_what_to_do(
    made: BatchLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch only prints it, from a thread of the loader process, and waits for ever."""
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    told = r"No space left.*/dev/shm has [\d,]+ MB.*--shm-size=2g.*data\.workers=0"
    with pytest.raises(UserError, match=told):
        next(iter(made))


@pytest.mark.parametrize("made", [{}], indirect=True)
def test_without_memory_a_loader_process_says_so(
    made: BatchLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOMEM))
    with pytest.raises(UserError, match=r"Cannot allocate memory.*data\.workers=0"):
        next(iter(made))


@pytest.mark.parametrize("made", [{}], indirect=True)
@pytest.mark.parametrize("sandboxed", [False, True])
def test_a_batch_arrives_as_it_was_made(
    sandboxed: bool, made: BatchLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sandboxed:
        monkeypatch.setattr(os, "memfd_create", failing(errno.ENOSYS))
    batches = list(made)
    assert len(batches) == 2
    for place, batch in enumerate(batches):
        for name, values in tensors(place).items():
            assert batch[name].is_shared() == bool(values.nbytes)
            assert batch[name].dtype == values.dtype
            assert torch.equal(batch[name], values)


def held() -> int:
    """How many descriptors of batches this process has open."""
    gc.collect()
    links = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()]
    return sum("memfd:batch" in link for link in links)


@pytest.mark.usefixtures("in_loader")
def test_memory_that_is_handed_over_has_no_name() -> None:
    """And the tensor's strides, and the rest of what it was a part of, do not matter."""
    whole = torch.arange(24.0).reshape(4, 6)
    part = whole.t()[1:4:2]
    values, others = part.clone(), held()
    handover.ready_to_send({"image": part})
    assert torch.equal(part, values)
    assert torch.equal(whole, torch.arange(24.0).reshape(4, 6))
    maps = Path("/proc/self/maps").read_text()
    assert "/memfd:batch" in maps
    assert "/dev/shm/torch_" not in maps
    assert held() == others + 1, "its storage's own"
    del part
    assert held() == others


@pytest.mark.usefixtures("in_loader")
def test_a_loader_process_that_is_killed_leaves_no_batch_behind() -> None:
    """PyTorch's own way left one a third of the time, when killed in the middle of it."""
    parent = os.getpid()
    for _ in range(25):
        pid = os.fork()
        if not pid:
            try:
                while os.getppid() == parent:
                    handover.ready_to_send({"image": torch.empty(16, 3, 56, 56)})
            finally:
                os._exit(1)
        time.sleep(random.uniform(0.01, 0.03))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        assert not list(Path("/dev/shm").glob(f"torch_{pid}_*"))


@pytest.mark.usefixtures("named", "in_loader")
def test_room_that_others_make_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([full, full, lambda *_: None])
    monkeypatch.setattr(torch.Tensor, "share_memory_", lambda tensor: next(tries)())
    monkeypatch.setattr(handover, "_PAUSE", 0.001)
    batch = {"image": torch.zeros(1), "epoch": 3}
    assert handover.ready_to_send(batch) is batch
    assert next(tries, None) is None


@pytest.mark.parametrize("made", [{}], indirect=True)
def test_without_any_shared_memory_no_loader_process_starts(
    made: BatchLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = "multiprocessing.context.BaseContext.Lock"
    monkeypatch.setattr(lock, failing(errno.ENOSYS))
    with pytest.raises(UserError, match=r"cannot start loader processes .*data\.workers=0"):
        next(iter(made))


def test_more_loader_processes_than_the_quota_has_cores_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: Any = Batches()
    monkeypatch.setattr(loader, "fewer_cores", lambda: 1)
    BatchLoader(batches, SequentialSampler(batches), 1, "fork")
    with pytest.warns(UserWarning, match=r"data\.workers is 2, but the CPU quota allows .* 1 core"):
        BatchLoader(batches, SequentialSampler(batches), 2, "fork")


@pytest.mark.parametrize("made", [{"hangs": True}], indirect=True)
def test_a_rank_that_waits_for_data_can_be_asked_to_stop(made: BatchLoader) -> None:
    made.timeout = loader._LOOK / 20
    looks = iter(range(3))

    def waiting() -> None:
        if next(looks, None) is None:
            raise InterruptedError

    made.waiting = waiting
    with pytest.raises(InterruptedError):
        next(iter(made))


@pytest.fixture
def crowded(zygote: Zygote, request: pytest.FixtureRequest) -> Iterator[Zygote]:
    """Shared memory in which there is room for locks, of a page each, but not for a batch."""
    size = getattr(request, "param", "256k")
    zygote.inside("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm")
    yield zygote.with_small_networks()
    zygote.inside("umount", "/dev/shm")


@pytest.mark.slow
def test_a_training_needs_no_room_of_its_own_for_its_batches(
    crowded: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    """As in a container that was started without `--shm-size`."""
    start = crowded.start(tiny(face_shards, tmp_path, data__workers=1, trainer__global_batch=104))
    assert start.ended, start.log


@pytest.mark.slow
@pytest.mark.parametrize("crowded", ["16k"], indirect=True)
def test_a_training_without_room_for_its_locks_says_so(
    crowded: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    start = crowded.start(tiny(face_shards, tmp_path, data__workers=1))
    assert start.statuses == [2]
    assert start.stderr.startswith("pattlite: error: cannot start loader processes"), start.log
    assert "Traceback" not in start.log


@pytest.mark.slow
@pytest.mark.parametrize("signum", [0, int(signal.SIGTERM)])
def test_a_training_without_room_for_its_batches_ends(
    signum: int, crowded: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    """By itself, and sooner by a signal."""
    fault = Fault("on_train_epoch_start", 0, late=True, signum=signum) if signum else None
    options = tiny(face_shards, tmp_path, data__workers=1, trainer__global_batch=104)
    start = crowded.start(options, 1, fault, module="tests.data.named_memory")
    [event] = [
        event
        for event in history.read(tmp_path / "tiny")
        if event["event"] in ("failed", "stopped")
    ]
    if fault:
        assert start.stopped_by(fault), start.log
        assert (event["signal"], event["step"]) == ("SIGTERM", 0)
    else:
        assert start.statuses == [2]
        assert start.stderr.startswith("pattlite: error: a loader process cannot hand over"), (
            start.log
        )
        assert "data.workers=0" in event["error"]
