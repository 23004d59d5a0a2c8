import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from pattlite_dist.errors import UserError
from pattlite_dist.runtime import devices
from pattlite_dist.runtime.devices import count, given, main, own, unsupported, use_gpu
from tests.conftest import ROOT, environment
from tests.gpus import see, site

JOB = {"SLURM_JOB_ID": "17"}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Torch sees no GPU, and none were given; what gives some is up to the test."""
    see(monkeypatch, 0)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(devices, "given", lambda: given(devices=Path("/nowhere")))
    return monkeypatch


@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_gpus_are_counted_as_torch_sees_them(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, gpus)
    assert count() == gpus


def test_of_gpus_split_by_mig_the_one_that_cuda_shows_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until CUDA has started, torch counts what the driver lists."""
    see(monkeypatch, 8)
    monkeypatch.setattr(torch.cuda, "init", lambda: see(monkeypatch, 1))
    assert count() == 1


def test_a_drivers_warning_does_not_precede_the_error_that_has_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def warn() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver is too old", stacklevel=1)
        return False

    see(monkeypatch, 0)
    monkeypatch.setattr(torch.cuda, "is_available", warn)
    assert count() == 0  # warnings are errors in tests


@pytest.mark.parametrize(
    ("env", "by"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "CUDA_VISIBLE_DEVICES=0"),
        ({"CUDA_VISIBLE_DEVICES": " 1,2"}, "CUDA_VISIBLE_DEVICES= 1,2"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8f6d"}, "CUDA_VISIBLE_DEVICES=GPU-8f6d"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-1a,MIG-2b"}, "CUDA_VISIBLE_DEVICES=MIG-1a,MIG-2b"),
        ({"HIP_VISIBLE_DEVICES": "3"}, "HIP_VISIBLE_DEVICES=3"),
        ({"ROCR_VISIBLE_DEVICES": "0,1"}, "ROCR_VISIBLE_DEVICES=0,1"),
        *(({"CUDA_VISIBLE_DEVICES": hidden}, None) for hidden in ("", "-1", "NoDevFiles", "none")),
        ({"HIP_VISIBLE_DEVICES": ""}, None),
        (JOB, None),
        ({**JOB, "SLURM_GPUS_ON_NODE": "4"}, "SLURM_GPUS_ON_NODE=4"),
        ({**JOB, "SLURM_GPUS_ON_NODE": "0"}, None),
        ({**JOB, "SLURM_GPUS_ON_NODE": "1", "CUDA_VISIBLE_DEVICES": ""}, None),
        ({**JOB, "SLURM_JOB_GPUS": "0", "CUDA_VISIBLE_DEVICES": "0"}, "SLURM_JOB_GPUS=0"),
        ({**JOB, "SLURM_STEP_GPUS": "2", "ROCR_VISIBLE_DEVICES": "2"}, "SLURM_STEP_GPUS=2"),
        # Left over from the job or shell that submitted it.
        ({**JOB, "SLURM_STEP_GPUS": "0,1"}, None),
        ({**JOB, "SLURM_JOB_GPUS": "0,1"}, None),
        ({**JOB, "CUDA_VISIBLE_DEVICES": "0"}, None),
        ({"SLURM_JOB_GPUS": "0"}, None),
    ],
)
def test_a_process_knows_whether_it_was_given_gpus(
    env: dict[str, str], by: str | None, tmp_path: Path
) -> None:
    assert given(env, tmp_path) == by


def test_a_device_file_counts_where_it_can_be_opened_and_nothing_else_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidiactl", "nvidia-uvm", "nvidia1"):
        (tmp_path / name).touch()
    file = f"{tmp_path}/nvidia1"
    assert given({}, tmp_path) == file
    assert given({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) is None
    assert given({"CUDA_VISIBLE_DEVICES": "2"}, tmp_path) == "CUDA_VISIBLE_DEVICES=2"
    assert given(JOB, tmp_path) is None  # the node's, not the job's
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != file)
    assert given({}, tmp_path) is None


def test_without_a_gpu_the_cpu_is_used_unless_a_gpu_is_insisted_on(
    no_gpu: pytest.MonkeyPatch,
) -> None:
    for accelerator in ("auto", "cpu"):
        assert not use_gpu(accelerator)
    with pytest.raises(UserError, match="accelerator is gpu, but torch sees no GPU here"):
        use_gpu("gpu")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            "The NVIDIA driver on your system is too old (found version 11.4). Please update your "
            "GPU driver by downloading and installing a new version from the URL: http://w.w",
            "The NVIDIA driver on your system is too old (found version 11.4)",
        ),
        (
            "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
            "Found no NVIDIA driver on your system",
        ),
        ("No CUDA GPUs are available", "No CUDA GPUs are available"),
        ("unknown error, e.g. one of\nseveral lines", "unknown error, e.g. one of"),
    ],
)
def test_gpus_that_were_given_but_torch_cannot_use_are_an_error_with_its_reason(
    error: str, reason: str, no_gpu: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError(error)

    no_gpu.setattr(torch.version, "cuda", "13.0")
    no_gpu.setattr(torch.cuda, "init", fail)
    no_gpu.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    message = (
        f"there are GPUs (CUDA_VISIBLE_DEVICES=0,1), but torch sees none: {reason}; fix that, or "
        "compute on the CPU with trainer.accelerator=cpu"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        use_gpu("auto")
    assert not use_gpu("cpu")


def test_a_build_of_torch_for_cpus_is_a_reason_too(no_gpu: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "hip"):
        no_gpu.setattr(torch.version, name, None)
    no_gpu.setattr(torch, "__version__", "2.14.1+cpu")
    no_gpu.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match=r"none: torch 2\.14\.1\+cpu is built for CPUs only; fix"):
        use_gpu("auto")


def test_a_driver_that_lists_nothing_is_the_reason_that_is_left(
    no_gpu: pytest.MonkeyPatch,
) -> None:
    no_gpu.setattr(torch.version, "cuda", "13.0")
    no_gpu.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(UserError, match="none: its driver lists none; fix"):
        use_gpu("auto")


def test_another_kind_of_accelerator_is_known_and_not_an_error(no_gpu: pytest.MonkeyPatch) -> None:
    no_gpu.setattr(torch.xpu, "is_available", lambda: False)
    no_gpu.setattr(torch.backends.mps, "is_available", lambda: False)
    assert unsupported() is None
    no_gpu.setattr(torch.backends.mps, "is_available", lambda: True)
    assert unsupported() == "MPS"
    no_gpu.setattr(torch.xpu, "is_available", lambda: True)
    assert unsupported() == "XPU"
    no_gpu.setenv("SLURM_JOB_ID", "17")
    no_gpu.setenv("SLURM_GPUS_ON_NODE", "1")
    assert not use_gpu("auto")


def test_each_process_of_a_node_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, 4)
    for bound in (False, True):
        assert [own(rank, 4, bound, {}) for rank in range(4)] == [0, 1, 2, 3]
        assert [own(rank, 2, bound, {}) for rank in range(2)] == [0, 1]


def test_a_task_that_is_shown_one_gpu_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, 1)
    for shown in ("0", "3", "GPU-8f6d", "MIG-1a"):
        assert own(3, 4, True, {"CUDA_VISIBLE_DEVICES": shown}) == 0
    assert own(3, 4, True, {"SLURM_GPUS_ON_NODE": "4"}) == 0
    assert own(0, 1, False, {}) == 0


@pytest.mark.parametrize(("visible", "bound"), [(1, False), (2, False), (2, True), (3, True)])
def test_more_processes_than_gpus_are_the_same_error_on_each(
    visible: int, bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that went on alone would wait for the others."""
    see(monkeypatch, visible)
    for rank in range(4):
        with pytest.raises(UserError) as error:
            own(rank, 4, bound, {})
        assert str(error.value) == (
            f"4 processes were started on this node, but torch sees {visible} GPU(s); "
            "start one process per GPU"
        )


def test_tasks_that_are_all_shown_the_jobs_only_gpu_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    see(monkeypatch, 1)
    with pytest.raises(UserError, match=r"2 processes were started .* sees 1 GPU\(s\); start one"):
        own(0, 2, True, {"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": "1"})


@pytest.mark.parametrize("bound", [False, True])
def test_slices_of_mig_that_cuda_does_not_show_are_said(
    bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, 1)
    with pytest.raises(UserError, match=r"sees 1 GPU\(s\) \(CUDA shows a process only one MIG sl"):
        own(0, 2, bound, {"CUDA_VISIBLE_DEVICES": "MIG-1a,MIG-2b"})


@pytest.mark.parametrize(("gpus", "processes"), [(0, 2), (1, 1), (8, 8)])
def test_the_launcher_is_told_how_many_processes_to_start(
    gpus: int, processes: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    see(monkeypatch, gpus)
    assert main(["2"]) == 0
    assert capsys.readouterr().out == f"{processes}\n"


@pytest.mark.slow
def test_the_module_can_be_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pattlite_dist.runtime.devices", "2"],
        env=environment(PYTHONPATH=f"{site(tmp_path, 3)}:{ROOT}"),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "3\n"
