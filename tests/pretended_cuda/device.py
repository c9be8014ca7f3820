"""A pretended CUDA device: what goes wrong on a GPU shows on a CPU.

Tensors say that they lie on ``cuda:0`` and hold a CPU tensor, so numbers are real ones. An operation on tensors of
two devices raises, as on a GPU. Kernels and waits of the host for the device are counted (`counts`). A Triton kernel
is one kernel, whose work its twin does (`twins`).

A host waits where it asks for a number or for the size of a result, and where it copies memory that is not pinned.

The device is registered with PyTorch (`registration`) and never goes away again, so it belongs into a
process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing

from tests.pretended_cuda.counts import Counts

CUDA = torch.device("cuda:0")
MEMORY = 80 * 10**9  # bytes that the device says it has

# Operations whose result has a size, or is a number, that only the device knows.
ASKING = {
    "aten::nonzero",
    "aten::_local_scalar_dense",
    "aten::unique_consecutive",
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::bincount",
    "aten::masked_select",
    "aten::equal",
    "aten::is_nonzero",
    "aten::histc",
}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
COPYING = {"aten::copy_", "aten::_to_copy"}
WITHOUT_KERNEL = {
    "aten::detach",
    "aten::empty",
    "aten::empty_like",
    "aten::new_empty",
    "aten::empty_strided",
    "aten::new_empty_strided",
    "aten::lift_fresh",
    "aten::alias",
    "aten::_local_scalar_dense",
}

counts = Counts()
_pinned: set[int] = set()  # addresses


class DeviceTensor(torch.Tensor):
    """A tensor that says it lies on the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> DeviceTensor:
        assert type(inner) is torch.Tensor and inner.device.type == "cpu", (type(inner), inner.device)
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
            requires_grad=requires_grad,
        )
        tensor.inner = inner
        return tensor

    def __init__(self, inner: Tensor, requires_grad: bool = False) -> None:
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    @property
    def data(self) -> DeviceTensor:  # type: ignore[override]
        return self.detach()  # type: ignore[return-value]

    @data.setter
    def data(self, value: DeviceTensor) -> None:
        torch.Tensor.data.__set__(self, DeviceTensor(value.inner, self.requires_grad))  # type: ignore[attr-defined]
        self.inner = value.inner

    def tolist(self) -> list:
        counts.wait("tolist")
        return self.inner.tolist()

    def __reduce_ex__(self, protocol):
        return self.inner.detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict) -> DeviceTensor:
        if id(self) not in memo:
            memo[id(self)] = _as_parameter(self, self.inner.detach().clone())
        return memo[id(self)]


def run(func, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An operation: check devices, count, and do it on what the tensors hold."""
    name = func._schema.name
    if name == "prim::device":
        return CUDA
    leaves = _tensors((args, kwargs))
    on_device = [leaf for leaf in leaves if isinstance(leaf, DeviceTensor)]
    asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    if on_device:
        _check_devices(name, args, leaves)
    _count_waits(name, args, kwargs, on_device, asked)
    viewing = _returns_view(func)
    result_on_device = asked.type == "cuda" if asked is not None else bool(on_device)
    if on_device or result_on_device:
        counts.operate(name.removeprefix("aten::"), not viewing and name not in WITHOUT_KERNEL)
    inner_args, inner_kwargs = _each(_inner, args), _each(_inner, _for_cpu(kwargs))
    result = func(*inner_args, **inner_kwargs)
    if name == "aten::_to_copy" and result is inner_args[0]:
        result = result.clone()

    def outer(value: Any) -> Any:
        wrapped = isinstance(value, Tensor) and not isinstance(value, DeviceTensor) and value.device.type == "cpu"
        return DeviceTensor(value) if wrapped and result_on_device else value

    if _writes(func):
        # What was written to comes back as the object that the caller knows.
        known = {id(leaf.inner): leaf for leaf in on_device}
        return _each(lambda value: known.get(id(value), outer(value)), result)
    wrapped = _each(outer, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if on_device and viewing else wrapped


def _check_devices(name: str, args: tuple, leaves: list[Tensor]) -> None:
    """Raise where tensors of two devices meet; numbers and indices may lie on the CPU."""
    if name in COPYING:
        return
    strangers = [leaf for leaf in leaves if leaf.device.type == "cpu" and leaf.ndim > 0]
    if name in INDEXING and isinstance(args[0], DeviceTensor):
        indices = [index for index in args[1] or () if isinstance(index, Tensor)]
        if any(index.device.type == "cpu" for index in indices):
            counts.wait("indices from the CPU")
        strangers = [each for each in strangers if not any(each is index for index in indices)]
    if strangers:
        shapes = ", ".join(str(tuple(each.shape)) for each in strangers)
        raise RuntimeError(f"{name}: expected all tensors on one device; shapes on the CPU: {shapes}")


def _count_waits(
    name: str, args: tuple, kwargs: dict[str, Any], on_device: list[DeviceTensor], asked: torch.device | None
) -> None:
    if name == "aten::_to_copy":
        to_device = asked is not None and asked.type == "cuda" and not on_device
        to_host = asked is not None and asked.type == "cpu" and bool(on_device)
        if to_host or (to_device and not (kwargs.get("non_blocking") and args[0].data_ptr() in _pinned)):
            counts.wait("copy to the host" if to_host else "copy to the device")
    elif name == "aten::copy_" and isinstance(args[1], Tensor):
        if isinstance(args[0], DeviceTensor) != isinstance(args[1], DeviceTensor):
            counts.wait("copy to the device" if isinstance(args[0], DeviceTensor) else "copy to the host")
    elif not on_device:
        return
    elif name in ASKING:
        counts.wait(name.removeprefix("aten::"))
    elif name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
        counts.wait("repeat_interleave")
    elif name in INDEXING:
        indices = [index for index in args[1] or () if isinstance(index, DeviceTensor)]
        for _ in [index for index in indices if index.dtype in (torch.bool, torch.uint8)]:
            counts.wait("boolean index")


@cache
def _writes(func) -> bool:
    """Whether an operation writes to one of its arguments."""
    return any(each.alias_info is not None and each.alias_info.is_write for each in func._schema.arguments)


@cache
def _returns_view(func) -> bool:
    returned = [each.alias_info for each in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


def _each(change: Callable[[Any], Any], tree: Any) -> Any:
    """What an operation takes or returns, with every leaf changed. (PyTorch's pytree does it in twice the time.)"""
    if isinstance(tree, list | tuple):
        return type(tree)([_each(change, branch) for branch in tree])
    if isinstance(tree, dict):
        return {key: _each(change, branch) for key, branch in tree.items()}
    return change(tree)


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors that an operation takes."""
    if isinstance(tree, Tensor):
        return [tree]
    branches = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [leaf for branch in branches for leaf in _tensors(branch)]


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, DeviceTensor) else value


def _for_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    changed = dict(kwargs)
    if changed.get("device") is not None and torch.device(changed["device"]).type == "cuda":
        changed["device"] = torch.device("cpu")
    if changed.get("pin_memory"):
        changed["pin_memory"] = False
    return changed


class _Mode(TorchDispatchMode):
    """Also catches operations without a tensor of the device, such as those that make one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def _as_parameter(like: Tensor, inner: Tensor) -> DeviceTensor:
    """What takes a parameter's or a buffer's place in a module."""
    tensor = DeviceTensor(inner)
    tensor._is_param = isinstance(like, torch.nn.Parameter)  # isinstance(tensor, nn.Parameter) asks for it
    tensor.requires_grad_(like.requires_grad)
    return tensor


def _mover() -> Callable:
    """In place of ``nn.Module._apply``: parameters that move become other objects, the same ones in all modules."""
    moved: dict[int, tuple[Tensor, Tensor]] = {}

    def new(tensor: Tensor, fn: Callable) -> Tensor:
        if id(tensor) in moved and moved[id(tensor)][0] is tensor:
            return moved[id(tensor)][1]
        with torch.no_grad():
            value = fn(tensor)
        if isinstance(value, DeviceTensor) and not isinstance(tensor, DeviceTensor):
            value = _as_parameter(tensor, value.inner.detach())
            moved[id(tensor)] = (tensor, value)
        elif isinstance(tensor, torch.nn.Parameter) and value is not tensor:
            if value.device == tensor.device:
                tensor.data = value.detach()
                return tensor
            return torch.nn.Parameter(value, tensor.requires_grad)
        return value

    def _apply(self: torch.nn.Module, fn: Callable, recurse: bool = True) -> torch.nn.Module:
        for child in self.children() if recurse else ():
            child._apply(fn)
        for tensors in (self._parameters, self._buffers):
            for key, tensor in tensors.items():
                if tensor is not None:
                    tensors[key] = new(tensor, fn)  # type: ignore[index]
        return self

    return _apply


def _pin_memory(tensor: Tensor) -> Tensor:
    """A copy that counts as pinned while it lives, and longer: addresses are used again, so counts are lower bounds."""
    pinned = tensor.clone()
    _pinned.add(pinned.data_ptr())
    return pinned


def _launch(executor, *args: Any, **kwargs: Any) -> None:
    """In place of a Triton kernel its twin, on what the tensors hold."""
    from tests.pretended_cuda.twins import TWINS

    name = executor.fn.__name__
    counts.operate(name, is_kernel=True)
    assert all(isinstance(each, DeviceTensor) for each in args if isinstance(each, Tensor)), f"{name}: a CPU tensor"
    with _disable_current_modes(), torch.no_grad():
        TWINS[name](*_each(_inner, args), **_each(_inner, kwargs))


@contextmanager
def pretended_cuda() -> Iterator[None]:
    """Within the block there is one CUDA device; `registration.register` comes before."""
    import lightning.fabric.accelerators.cuda as lightning_cuda
    import torch.cuda.amp.common as amp
    from triton.runtime.interpreter import GridExecutor

    found: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, value: Any) -> None:
        found.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    class Current:
        """``torch.cuda.device``."""

        def __init__(self, device: Any) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    properties = SimpleNamespace(
        name="pretended", total_memory=MEMORY, major=9, minor=0, multi_processor_count=132, warp_size=32
    )
    answers = {
        "_lazy_init": None,
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "get_device_properties": properties,
        "get_device_capability": (9, 0),
        "get_device_name": "pretended",
        "is_bf16_supported": True,
        "empty_cache": None,
        "synchronize": None,
        "max_memory_allocated": 10**9,
        "memory_stats": {},
        "reset_peak_memory_stats": None,
        "manual_seed_all": None,
        "manual_seed": None,
        "is_current_stream_capturing": False,
    }
    for name, answer in answers.items():
        replace(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    replace(torch.cuda, "device", Current)
    replace(torch.nn.Module, "_apply", _mover())
    replace(torch.Tensor, "pin_memory", _pin_memory)
    replace(amp, "amp_definitely_not_available", lambda: False)
    replace(lightning_cuda, "num_cuda_devices", lambda: 1)
    replace(GridExecutor, "__call__", _launch)
    try:
        with torch.autograd.set_multithreading_enabled(False), _Mode():
            torch._C._set_only_lift_cpu_tensors(True)
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        for owner, name, value in reversed(found):
            setattr(owner, name, value)
