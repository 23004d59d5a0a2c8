"""GPUs that are not there: what torch says of them."""

from pathlib import Path

import pytest
import torch

from pattlite_dist.runtime.devices import VISIBLE

NAME = "NVIDIA Pretended"
_SITE = """
import torch.cuda
torch.cuda.is_available = lambda: {count} > 0
torch.cuda.device_count = lambda: {count}
torch.cuda.init = lambda: None
"""


def see(monkeypatch: pytest.MonkeyPatch, count: int, bf16: bool = True) -> None:
    """Make torch see this many GPUs in this process; none of them is hidden from it on purpose.

    Args:
        monkeypatch: pytest's.
        count: number of GPUs.
        bf16: whether they compute in bf16; others emulate it.
    """
    for name in VISIBLE:
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "is_available": lambda: count > 0,
        "device_count": lambda: count,
        "init": lambda: None,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: NAME,
        "is_bf16_supported": lambda including_emulation=True: bf16 or including_emulation,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


def site(folder: Path, count: int) -> Path:
    """A folder for PYTHONPATH that makes torch see this many GPUs; returns it."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE.format(count=count))
    return folder
