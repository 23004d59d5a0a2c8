"""A GPU that computes on the CPU, where there is none: `with machine() as gpu: …`.

A tensor on it says `cuda:0` and holds another tensor of the CPU. A dispatch mode sees each
operation on such tensors: it refuses what CUDA refuses (an operation on two devices), and counts
launches, waits of the host and copies by the line of the package, or of a library, that caused
them. Whole trainings run on it. What it cannot show is speed, and the arithmetic of a GPU.
"""

import contextlib
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytorch_lightning.accelerators.cuda  # noqa: F401  before anything is replaced
import torch
import torch.nn.utils.clip_grad
import torch.optim.optimizer
import torch.optim.swa_utils
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
# What only makes another view of a tensor, or memory without contents.
_NO_LAUNCH = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "slice", "select",
    "unbind", "split", "split_with_sizes", "unsqueeze", "squeeze", "detach", "alias", "as_strided",
    "_reshape_alias", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
    "_local_scalar_dense", "is_same_size", "chunk", "narrow", "lift_fresh", "unfold", "resize_",
    "_fused_sdp_choice", "result_type", "is_pinned",
}  # fmt: skip
# May mix devices, where one of them is an index, a condition or the other end of a copy.
_MIXES = {"copy_", "_to_copy", "index", "index_put_", "index_put", "_index_put_impl_", "where"}
_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal"}
_HIDDEN = ("torch/utils/_", "torch/_ops", "torch/_tensor.py", "torch/nn/functional", "contextlib")


class OnGpu(torch.Tensor):
    """A tensor that says it is on the GPU; C++ takes it for one of the CPU without contents."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnGpu":
        self: OnGpu = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=CPU,
        )  # fmt: skip
        self.inner = inner
        return self

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    # So that `Module.to` swaps parameters, as it does for other tensors of this kind.
    def __tensor_flatten__(self) -> Any:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts: Any, meta: Any, size: Any, stride: Any) -> "OnGpu":
        return OnGpu(parts["inner"])

    def get_device(self) -> int:
        return 0

    def cpu(self, *args: Any) -> torch.Tensor:
        return self.to(CPU)

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        kwargs = {name: value for name, value in kwargs.items() if name != "copy"}
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype)
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
        if device is None or device.type != "cpu":
            return super().to(*args, **kwargs)
        _watch().note("copies", f"blocking copy to the CPU of {tuple(self.shape)}")
        found = self.inner.detach()
        return found.clone() if dtype is None else found.to(dtype, copy=True)

    def tolist(self) -> Any:
        _watch().note("waits", "tolist")
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnGpu({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _watch().__torch_dispatch__(func, types, args, kwargs)


class Watch(TorchDispatchMode):
    """Computes what is asked of the pretended GPU, and counts it by the line that asked.

    Attributes:
        launches: of kernels.
        waits: of the host for the GPU.
        copies: between the two that block the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    def note(self, table: str, what: str) -> None:
        getattr(self, table)[f"{what}, {_caller()}"] += 1

    def reset(self) -> None:
        for table in (self.launches, self.waits, self.copies):
            table.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        tensors = list(_tensors((args, kwargs)))
        here = any(isinstance(x, OnGpu) for x in tensors)
        self._refuse(name, tensors)
        target = kwargs.get("device") and torch.device(kwargs["device"])
        if target and target.type == "cpu" and torch._C._current_graph_task_id() != -1:  # type: ignore[attr-defined]
            target = CUDA  # asked by a formula of the backward pass, which only sees C++'s device
        result_here = target.type == "cuda" if target else here
        if target and target.type == "cuda":
            kwargs["device"] = CPU
        if here:
            self._count_waits(name, args)
        if name == "copy_":
            result_here = isinstance(args[0], OnGpu)
        self._count_copies(name, args, kwargs, tensors, target)
        found = func(*_inner(args), **_inner(kwargs))
        unmoved = (
            name == "_to_copy" and here and kwargs.get("dtype", args[0].dtype) == args[0].dtype
        )
        if result_here and name not in _NO_LAUNCH and not unmoved:
            self.note("launches", name)
        if not result_here:
            return found
        wrapped = _wrapped(found)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if here else wrapped

    def _refuse(self, name: str, tensors: list[torch.Tensor]) -> None:
        whole = name in ("stack", "cat")  # takes no tensor of the CPU, however small
        others = any(not isinstance(x, OnGpu) and (whole or x.ndim) for x in tensors)
        if others and any(isinstance(x, OnGpu) for x in tensors) and name not in _MIXES:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu! (aten.{name})"
            )

    def _count_waits(self, name: str, args: Any) -> None:
        masks = name in ("index", "index_put_") and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        if name in _WAITS or masks:
            self.note("waits", f"boolean {name}" if masks else name.removeprefix("_"))

    def _count_copies(
        self, name: str, args: Any, kwargs: Any, tensors: Any, target: torch.device | None
    ) -> None:
        if name == "_to_copy" and target:
            one, other = isinstance(args[0], OnGpu), target.type == "cuda"
            blocks = one or not (kwargs.get("non_blocking") and _pinned(args[0]))
        elif name == "copy_":
            one, other, blocks = isinstance(args[1], OnGpu), isinstance(args[0], OnGpu), True
        else:
            return
        if one != other and blocks:
            self.note("copies", f"blocking copy of {tuple(args[0].shape)}")


class Event:
    """Of torch.cuda; the device has no work left, so that it is over at once."""

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing, "it is only used to measure"

    def record(self) -> None:
        self.at = time.perf_counter()

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end.at - self.at)

    def synchronize(self) -> None:
        _watch().note("waits", "synchronize")


_PINNED: set[int] = set()


def _pinned(tensor: torch.Tensor) -> bool:
    return tensor.untyped_storage().data_ptr() in _PINNED


def _pin(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    copy = tensor.clone()
    _PINNED.add(copy.untyped_storage().data_ptr())
    return copy


# Of what an operation takes and gives, several times as fast as PyTorch's own for any tree.
def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    kind = type(value)
    if kind is list or kind is tuple:
        return kind([function(item) for item in value])
    if kind is dict:
        return {key: function(item) for key, item in value.items()}
    assert not isinstance(value, list | dict), kind
    return value


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnGpu) else _mapped(_inner, value)


def _wrapped(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value if isinstance(value, OnGpu) else OnGpu(value)
    return _mapped(_wrapped, value)


def _saved(value: Any) -> Any:
    """What a file gets of a tensor or parameter on the GPU."""
    inner = value.data if isinstance(value, torch.nn.Parameter) else value
    return inner.inner.detach() if isinstance(inner, OnGpu) else value


def _caller() -> str:
    """The innermost line of the package, and the one of a library that it called."""
    ours = theirs = ""
    frame: Any = sys._getframe(1)
    while frame is not None and not ours:
        name, place = frame.f_code.co_filename, frame.f_lineno
        if "/pattlite_dist/" in name and "/tests/" not in name:
            ours = f"{name.rpartition('/pattlite_dist/')[2]}:{place}"
        elif "site-packages" in name and not theirs and not any(part in name for part in _HIDDEN):
            theirs = f"{name.rpartition('site-packages/')[2]}:{place}"
        frame = frame.f_back
    return " of ".join(filter(None, (theirs, ours))) or "?"


_watching: list[Watch] = []


def _watch() -> Watch:
    assert _watching, "a tensor of the pretended GPU is used where there is none"
    return _watching[-1]


def _group(lists: Any, with_indices: bool = False) -> Any:
    """`_group_tensors_by_device_and_dtype`; C++'s would ask for C++'s device."""
    found: dict[Any, Any] = {}
    for number, first in enumerate(lists[0]):
        kept, places = found.setdefault((first.device, first.dtype), ([[] for _ in lists], []))
        for to, given in zip(kept, lists, strict=True):
            if given:
                to.append(given[number])
        places.append(number)
    for (device, _), (kept, _) in found.items():
        for tensor in (x for given in kept for x in given):
            if tensor is not None and tensor.ndim and tensor.device != device:
                raise RuntimeError(f"Tensors of one index are on {device} and {tensor.device}")
    return found


@contextlib.contextmanager
def machine(gpus: int = 1) -> Iterator[Watch]:
    """torch.cuda as on a machine with GPUs, of which this process uses the first."""
    properties = types.SimpleNamespace(
        name="Pretended", major=9, minor=0, total_memory=80 << 30, multi_processor_count=132
    )
    cuda = {
        "is_available": lambda: True, "device_count": lambda: gpus, "current_device": lambda: 0,
        "set_device": lambda device: None, "is_initialized": lambda: True,
        "_lazy_init": lambda: None, "get_device_properties": lambda *_: properties,
        "get_device_capability": lambda *_: (9, 0), "get_device_name": lambda *_: "Pretended",
        "is_bf16_supported": lambda *_, **__: True, "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None, "empty_cache": lambda: None,
        "mem_get_info": lambda *_: (64 << 30, 80 << 30), "synchronize": lambda *_: None,
        "reset_peak_memory_stats": lambda *_: None, "Event": Event,
    }  # fmt: skip
    plain, casts = torch.autocast, torch.is_autocast_enabled
    tensor, save = torch.tensor, torch.save

    def made(data: Any, *, device: Any = None, pin_memory: bool = False, **kwargs: Any) -> Any:
        here = tensor(data, **kwargs)
        return here if device is None else here.to(device)

    class Autocast(plain):  # type: ignore[misc,valid-type]
        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    with contextlib.ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(owner, name, value))

        for name, value in cuda.items():
            replace(torch.cuda, name, value)
        for module in ("lightning_fabric.accelerators.cuda", "pytorch_lightning.accelerators.cuda"):
            if hasattr(sys.modules[module], "num_cuda_devices"):
                replace(sys.modules[module], "num_cuda_devices", lambda: gpus)
        for module in ("nn.utils.clip_grad", "optim.optimizer", "optim.swa_utils"):
            replace(sys.modules[f"torch.{module}"], "_group_tensors_by_device_and_dtype", _group)
        for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            if hasattr(torch.optim.Optimizer, name):  # older ones know the second only
                replace(torch.optim.Optimizer, name, lambda self: None)
        supported = [*torch.utils._foreach_utils._foreach_supported_types, OnGpu]
        replace(torch.utils._foreach_utils, "_foreach_supported_types", supported)
        replace(torch, "autocast", Autocast)
        replace(torch, "is_autocast_enabled", lambda device_type: casts("cpu"))
        replace(torch, "tensor", made)
        replace(torch, "inference_mode", lambda mode=True: torch.no_grad())
        replace(torch, "save", lambda obj, *a, **k: save(tree_map(_saved, obj), *a, **k))
        replace(torch.Tensor, "pin_memory", _pin)
        replace(torch.accelerator, "is_available", lambda *_: True)
        replace(torch.accelerator, "current_accelerator", lambda *_: CUDA)
        watch = stack.enter_context(Watch())
        _watching.append(watch)
        stack.callback(_watching.remove, watch)
        stack.callback(_PINNED.clear)
        yield watch
