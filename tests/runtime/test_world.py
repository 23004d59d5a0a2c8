import multiprocessing
import os
import pty
import socket
from typing import Any

import pytest
import torch

from pattlite_dist.errors import UserError
from pattlite_dist.runtime.world import (
    Agreement,
    World,
    cluster_environment,
    connect,
    detect,
    device,
    disconnect,
    from_main,
)
from tests.gpus import see

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0", "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1", "SLURM_NTASKS": "8", "SLURM_NNODES": "2",
}  # fmt: skip
BATCH = {  # the batch script itself, where SLURM sets a rank too
    "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "8", "SLURM_NNODES": "2",
}  # fmt: skip
# The shell of salloc on a node, where it is a step of its own (LaunchParameters).
SALLOC = {
    "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "debug", "SLURM_STEPID": "4294967290",
    "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1",
    "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4",
    "SLURM_NNODES": "1", "SLURM_TASKS_PER_NODE": "4", "SLURM_TASK_PID": "1446865",
    "SLURM_PTY_PORT": "34889", "SLURM_PTY_WIN_COL": "236", "SLURM_PTY_WIN_ROW": "64",
}  # fmt: skip
STEP = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "3"}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        pytest.param({}, World(), id="none"),
        pytest.param({"RANK": "3", "WORLD_SIZE": "4"}, World(), id="stray variables"),
        pytest.param(TORCHRUN, World("torchrun", 5, 8, 1, 4), id="torchrun"),
        pytest.param(SRUN, World("slurm", 5, 8, 1, 4), id="srun"),
        pytest.param({**SRUN, **STEP}, World("slurm", 3, 4, 1, 4), id="step smaller than job"),
        pytest.param(BATCH, World(), id="batch script"),
        pytest.param({**BATCH, "SLURM_STEP_ID": "batch"}, World(), id="batch step by name"),
        pytest.param(SALLOC, World(), id="salloc -J debug -n 4"),
        pytest.param({**SALLOC, "SLURM_JOB_NAME": "interactive"}, World(), id="salloc"),
        pytest.param({**BATCH, "SLURM_STEP_ID": "4294967291"}, World(), id="batch step by number"),
        pytest.param({**BATCH, "SLURM_STEP_ID": "4294967292"}, World(), id="extern step"),
        pytest.param({**SALLOC, **SRUN, **STEP}, World("slurm", 3, 4, 1, 4), id="srun in salloc"),
        pytest.param(
            {**SRUN, "SLURM_JOB_NAME": "interactive"}, World("slurm", 5, 8, 1, 4),
            id="srun in salloc without a name",
        ),
        pytest.param({**SRUN, "SLURM_JOB_NAME": "bash"}, World("slurm", 5, 8, 1, 4), id="-J bash"),
        pytest.param({**SRUN, **TORCHRUN}, World("torchrun", 5, 8, 1, 4), id="torchrun in srun"),
        pytest.param({**BATCH, **TORCHRUN}, World("torchrun", 5, 8, 1, 4), id="torchrun in sbatch"),
        pytest.param(
            {**SRUN, "SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0",
             "SLURM_LOCALID": "0"},
            World("slurm", 0, 1, 0, 1), id="one task",
        ),
    ],
)  # fmt: skip
def test_the_launcher_is_read_from_its_variables(env: dict[str, str], expected: World) -> None:
    assert detect(env) == expected


def test_in_the_shell_of_srun_pty_only_what_srun_starts_is_a_task() -> None:
    """`srun -n 4 --pty bash`: its shell has the variables of a task, and so has what it starts."""
    shell = {**SRUN, "SLURM_JOB_NAME": "bash", "SLURM_PTY_PORT": "34889", "SLURM_TASK_PID": "2"}
    task = World("slurm", 5, 8, 1, 4)

    def told(own: bool) -> str:
        env = {**shell, "SLURM_TASK_PID": str(os.getpid())} if own else shell
        return {World(): "none", task: "task"}[detect(env)]

    answers = []
    for terminal in (True, False):  # as a shell has it, and as a step of srun does not
        read, write = os.pipe()
        child, _ = pty.fork() if terminal else (os.fork(), 0)
        if child == 0:
            try:
                if not terminal:
                    os.setsid()
                os.write(write, f"{told(False)} {told(True)}".encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as stream:
            answers.append(stream.read().split())
        os.waitpid(child, 0)
    assert answers == [["none", "task"], ["task", "task"]]


@pytest.mark.parametrize(
    ("env", "message"),
    [
        pytest.param({**TORCHRUN, "RANK": "first"}, "set RANK='first', which is not", id="word"),
        pytest.param({**TORCHRUN, "LOCAL_RANK": ""}, "set LOCAL_RANK=''", id="empty"),
        pytest.param({"TORCHELASTIC_RUN_ID": "x"}, "set RANK=None", id="torchrun without rank"),
        pytest.param({**SRUN, "SLURM_NTASKS": "8x"}, "set SLURM_NTASKS='8x'", id="tasks"),
        pytest.param({**SRUN, "SLURM_NNODES": "2(x2)"}, "SLURM_NNODES=", id="nodes"),
        pytest.param(
            {k: v for k, v in SRUN.items() if k != "SLURM_NTASKS"}, "SLURM_NTASKS=None",
            id="srun without tasks",
        ),
        pytest.param({**TORCHRUN, "RANK": "8"}, "do not match", id="rank too large"),
        pytest.param({**TORCHRUN, "RANK": "-1"}, "do not match", id="negative rank"),
        pytest.param({**SRUN, "SLURM_LOCALID": "4"}, "do not match", id="local rank"),
        pytest.param({**SRUN, "SLURM_NTASKS": "0"}, "every node must|do not match", id="no tasks"),
        pytest.param({**SRUN, "SLURM_NNODES": "0"}, "every node must|do not match", id="no nodes"),
    ],
)  # fmt: skip
def test_variables_that_make_no_sense_are_the_users_error(
    env: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        detect(env)


@pytest.mark.parametrize("counts", [(2, 1), (1, 2), (1, 1, 3), (4, 1, 1)])
def test_uneven_machines_are_an_error_on_each_of_them(counts: tuple[int, ...]) -> None:
    size = str(sum(counts))
    for count in counts:
        env = {**TORCHRUN, "RANK": "0", "WORLD_SIZE": size, "LOCAL_RANK": "0",
               "LOCAL_WORLD_SIZE": str(count), "GROUP_WORLD_SIZE": str(len(counts))}  # fmt: skip
        with pytest.raises(UserError, match=f"{size} processes over {len(counts)} machines"):
            detect(env)


@pytest.mark.parametrize(("tasks", "nodes"), [(5, 2), (4, 3), (7, 4), (2, 3)])
def test_uneven_nodes_are_an_error_on_every_task_not_only_on_the_fuller_ones(
    tasks: int, nodes: int
) -> None:
    """A task that continued alone would wait for the others until its time limit."""
    for rank in range(tasks):
        env = {**SRUN, "SLURM_NTASKS": f"{tasks}", "SLURM_NNODES": f"{nodes}",
               "SLURM_PROCID": f"{rank}", "SLURM_LOCALID": "0"}  # fmt: skip
        with pytest.raises(UserError, match="every node must start the same number"):
            detect(env)


@pytest.mark.parametrize(
    "numbers",
    [(-1, 1, 0, 1), (1, 1, 0, 1), (0, 0, 0, 1), (0, 2, 1, 1), (0, 2, -1, 1), (0, 1, 0, 0)],
)
def test_a_rank_outside_its_world_is_an_error(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(UserError, match="rank and world size do not match"):
        World("torchrun", *numbers)


def test_nodes_of_different_size_are_an_error() -> None:
    with pytest.raises(UserError, match="6 processes over nodes of 4: every node must start"):
        World("torchrun", 0, 6, 0, 4)


def test_nodes_are_counted_and_rank_0_writes() -> None:
    assert World().nodes == 1
    assert World("slurm", 5, 8, 1, 4).nodes == 2
    assert [World("slurm", r, 8, r % 4, 4).main for r in range(8)] == [True] + [False] * 7


def test_without_a_gpu_the_device_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for accelerator in ("auto", "cpu"):
        assert device(World(), accelerator) == torch.device("cpu")
    with pytest.raises(UserError, match="torch sees no GPU here"):
        device(World(), "gpu")


def test_each_local_rank_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, 4)
    worlds = [World("torchrun", 4 + r, 8, r, 4) for r in range(4)]
    for accelerator in ("auto", "gpu"):
        assert [device(w, accelerator).index for w in worlds] == [0, 1, 2, 3]
        assert device(worlds[2], accelerator).type == "cuda"
    assert device(worlds[2], "cpu") == torch.device("cpu")


def test_a_slurm_task_that_sees_one_gpu_takes_it_and_torchruns_ranks_do_not_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    see(monkeypatch, 1)
    assert device(World("slurm", 3, 4, 3, 4), "auto") == torch.device("cuda", 0)
    for rank in range(4):
        with pytest.raises(UserError, match=r"4 processes were started .* but torch sees 1 GPU"):
            device(World("torchrun", rank, 4, rank, 4), "auto")


@pytest.mark.parametrize(
    ("world", "name"),
    [
        (World(), "LightningEnvironment"),
        (World("torchrun", 0, 2, 0, 2), "TorchElasticEnvironment"),
        (World("slurm", 0, 2, 0, 2), "SLURMEnvironment"),
    ],
)
def test_lightning_is_told_the_launcher_that_was_found(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "1")  # where SLURM is installed, Lightning looks for a task
    assert type(cluster_environment(world)).__name__ == name


def test_lightning_leaves_requeueing_to_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert cluster_environment(World("slurm")).auto_requeue is False


def test_a_process_alone_joins_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a group of one")

    monkeypatch.setattr(torch.distributed, "init_process_group", refuse)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", refuse)
    connect(World(), "cpu", 1)
    value = object()
    assert from_main(World(), value) is value
    disconnect()
    with pytest.raises(AssertionError, match="a group of one"):
        from_main(World("torchrun", 0, 2, 0, 2), value)


def test_a_rank_alone_agrees_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a group of one")

    monkeypatch.setattr(torch.distributed, "new_group", refuse)
    agreement = Agreement(World(), 1)
    assert agreement.largest((3, 0)) == [3, 0]
    assert agreement.largest([]) == []
    assert agreement.answer() is None
    agreement.ask((4,))
    agreement.ask((5,))
    assert (agreement.answer(), agreement.answer()) == ([5], None)


def _agree(rank: int, port: int, answers: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank),
                      WORLD_SIZE="3")  # fmt: skip
    world = World("torchrun", rank, 3, rank, 3)
    connect(world, "cpu", 1)
    agreement = Agreement(world, 1)
    early = agreement.answer()
    agreement.ask((rank,))
    agreement.ask((10 * rank,))  # the first question is dropped, on all ranks
    found = [
        early,
        agreement.answer(),
        agreement.answer(),
        agreement.largest((0, 0)),
        agreement.largest((15 if rank == 1 else 0, int(rank == 2))),  # each from another rank
        agreement.largest((rank, -rank, 2**40 + rank)),
        *(agreement.largest((int(step == 30 and rank == 0),)) for step in range(40)),
    ]
    torch.distributed.barrier()  # the run's own group still works
    answers.put((rank, found))
    disconnect()


def test_ranks_agree_on_the_largest_of_each_number() -> None:
    context = multiprocessing.get_context("fork")  # torch is already imported
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = context.Queue()
    ranks = [context.Process(target=_agree, args=(rank, port, answers)) for rank in range(3)]
    for process in ranks:
        process.start()
    found = dict(answers.get(timeout=100) for _ in ranks)
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    steps = [[int(step == 30)] for step in range(40)]
    expected = [None, [20], None, [0, 0], [15, 1], [2, 0, 2**40 + 2], *steps]
    assert found == dict.fromkeys(range(3), expected)
