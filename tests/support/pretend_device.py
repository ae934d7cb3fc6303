"""Pretended accelerator: tensors say that they are on `pretend:0`, and hold their numbers on the CPU.

It shows where code for a GPU would wait, launch or mix devices up, on a machine without one:

    @in_own_process  # tests.support.own_process
    def test_step_has_no_wait() -> None:
        with PretendDevice() as device:
            model = Net().to(DEVICE)
            device.clear()
            model(batch).sum().backward()
            assert device.reads == device.uploads == 0, device.report()

Counted:
    reads     the host waits for a number (item, bool, tolist, equal, repr, copies to the CPU) or for a size that depends
              on values (nonzero, boolean indexing, masked_select, unique, repeat_interleave without output_size)
    uploads   blocking copies from the CPU, which wait for the stream on CUDA too; copies with `non_blocking` do not
    launches  operators that compute on the device; views and uninitialised memory are free. An operator is one to three
              kernels of a real device, and attention is counted in its mathematical form
DeviceMismatch is raised for an operator over tensors of both devices, and for a CPU generator of a device tensor.
Bodies of `torch.library.custom_op` run on pretended tensors, so that what is inside is counted too.

It cannot show speed, memory, precision, streams, or data loading in other threads. On a real GPU the same test is
`torch.cuda.set_sync_debug_mode("error")`.

torch makes one device known for the rest of a process, and only before its first backward pass: use a separate
process for the test.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import torch
import torch.utils.backend_registration
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
DEVICE = torch.device("privateuseone", 0)
"""Device of pretended tensors; it is called `pretend:0` once a block has begun."""
ROOT = f"{Path(__file__).resolve().parents[2]}/"
aten = torch.ops.aten

READS = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten.multinomial.default,
    aten._linalg_check_errors.default,
}
"""Operators whose result, size or check the host needs."""
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
FILLS = {aten.fill_.Tensor, aten.masked_fill_.Tensor, aten.masked_fill.Tensor, aten.index_fill_.int_Tensor}
COPIES = {aten._to_copy.default, aten.copy_.default}
FREE = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten._unsafe_view.default,
    aten._reshape_alias.default,
    aten.unsafe_split.Tensor,
    aten.lift_fresh.default,
    aten.set_.source_Tensor,
    aten.resize_.default,
    aten._local_scalar_dense.default,
    aten._linalg_check_errors.default,
}
"""Operators without a kernel: uninitialised memory, and other names of a tensor."""


class DeviceMismatch(RuntimeError):
    """Operator over tensors of both devices, or a generator of the wrong one."""


class PretendTensor(Tensor):
    """Tensor on `pretend:0`, whose numbers are in the CPU tensor `held`."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendTensor:
        layout: dict[str, Any] = {"dtype": held.dtype, "layout": held.layout, "device": DEVICE}
        strides, offset = held.stride(), held.storage_offset()
        made = Tensor._make_wrapper_subclass(cls, held.size(), strides=strides, storage_offset=offset, **layout)
        assert isinstance(made, PretendTensor)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func} met a tensor on {DEVICE} outside of the block of PretendDevice")

    def __repr__(self) -> str:  # type: ignore[override]
        if PretendDevice.active is not None:
            PretendDevice.active.count_wait("repr")
        return f"PretendTensor({self.held!r})"


class PretendDevice:
    """Block in which pretended tensors compute and are counted; blocks do not nest."""

    active: ClassVar[PretendDevice | None] = None

    def __init__(self) -> None:
        self.reads = 0
        """Waits of the host for a number or a size."""
        self.uploads = 0
        """Blocking copies from the CPU."""
        self.waits: Counter[str] = Counter()
        """Both of them as `kind at file:line`."""
        self.launches: Counter[str] = Counter()
        """Operators by name."""
        self.launched_at: Counter[str] = Counter()
        """Operators as `name at file:line`; in backward of built-in operators the place is `?`."""
        self._stack = ExitStack()

    @property
    def launch_count(self) -> int:
        """Number of operators."""
        return self.launches.total()

    def clear(self) -> None:
        """Count from zero."""
        self.reads = self.uploads = 0
        for counter in (self.waits, self.launches, self.launched_at):
            counter.clear()

    def report(self, limit: int = 20) -> str:
        """Describe the counts and the places that wait, the most frequent first."""
        head = f"{self.reads} reads, {self.uploads} blocking uploads, {self.launch_count} launches"
        return "\n".join([head, *(f"  {times:4d} x {place}" for place, times in self.waits.most_common(limit))])

    def count_wait(self, kind: str, *, is_upload: bool = False) -> None:
        """Count one wait at the line that is running."""
        self.waits[f"{kind} at {place()}"] += 1
        self.uploads += is_upload
        self.reads += not is_upload

    def count_launch(self, func: Any) -> None:
        """Count one operator at the line that is running."""
        name = str(func).removeprefix("aten.")
        self.launches[name] += 1
        self.launched_at[f"{name} at {place()}"] += 1

    def __enter__(self) -> PretendDevice:
        if PretendDevice.active is not None:
            raise RuntimeError("a block of PretendDevice is open already")
        register()
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)  # Module.to may change the class of a parameter
        self._stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        self._stack.enter_context(_Functions(self))
        self._stack.enter_context(_Operators(self))
        PretendDevice.active = self
        return self

    def __exit__(self, *_: object) -> None:
        PretendDevice.active = None
        self._stack.close()


class _Backend(torch.utils.backend_registration._DummyBackendModule):
    """Answers of `torch.pretend`; outside of a block there is no such device."""

    def is_available(self) -> bool:
        return PretendDevice.active is not None

    def device_count(self) -> int:
        return int(self.is_available())

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def register() -> None:
    """Make the device known to torch, once in a process; raise RuntimeError if a backward pass ran before."""
    if hasattr(torch, NAME):
        return
    torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    with _Operators(PretendDevice()):
        probe = torch.ones((), device=DEVICE).requires_grad_()
        try:
            torch.autograd.backward(probe * 2)
        except RuntimeError as error:
            raise RuntimeError(
                "backward ran in this process before torch knew the pretended device; decorate the test with "
                "tests.support.own_process.in_own_process"
            ) from error


def place() -> str:
    """Return `file:line` of the innermost frame that is neither torch's, nor the standard library's, nor of this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name != __file__ and not name.startswith("<") and "site-packages" not in name and "/lib/python" not in name:
            return f"{name.removeprefix(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class _Functions(TorchFunctionMode):
    """Calls that are decided above operators: conversion of Python data, tolist, and what numbers are assigned as."""

    def __init__(self, owner: PretendDevice) -> None:
        super().__init__()
        self.owner = owner

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        subject: Any = args[0] if args else None
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and _is_ours(kwargs.get("device")):
            if not isinstance(subject, PretendTensor):
                return _uploaded(func, subject, **kwargs)
        elif func is Tensor.pin_memory:
            return subject.clone()
        elif not isinstance(subject, PretendTensor):
            return func(*args, **kwargs)
        elif func is Tensor.new_tensor:
            return _uploaded(torch.tensor, *args[1:], **{"dtype": subject.dtype, **kwargs})
        elif func is Tensor.tolist:
            self.owner.count_wait("tolist")
            return subject.held.tolist()
        elif func in (Tensor.numpy, Tensor.__array__):
            raise DeviceMismatch(f"numpy needs a tensor of the CPU, got one on {DEVICE} at {place()}")
        elif func is Tensor.__format__:
            return format(subject.item() if subject.dim() == 0 else repr(subject), args[1])
        elif func is Tensor.__setitem__ and isinstance(args[2], bool | int | float):
            # As on CUDA: a number is a tensor of the CPU, which fills a slice or a mask, and is copied to one element.
            args = (*args[:2], torch.tensor(args[2], dtype=subject.dtype))
        return func(*args, **kwargs)


def _uploaded(make: Callable[..., Tensor], *data: Any, **kwargs: Any) -> Tensor:
    """Build a tensor on the CPU and copy it to the device, blocking, as CUDA does."""
    needs_gradient, _ = kwargs.pop("requires_grad", False), kwargs.pop("device", None)
    return make(*data, **kwargs).to(DEVICE).requires_grad_(needs_gradient)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operators on the held tensors, with their checks and counts."""

    def __init__(self, owner: PretendDevice) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner = owner

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        ours = [x for x in tensors if isinstance(x, PretendTensor)]
        target = kwargs.get("device")
        body = _python_body(func) if ours else None
        if body is not None:
            with torch._C._EnableTorchFunction(), _Functions(self.owner), self:
                return body(*args, **kwargs)
        _check_devices(func, args, kwargs, tensors, ours)
        for kind, is_upload in _waits(func, args, kwargs):
            self.owner.count_wait(kind, is_upload=is_upload)
        gives_ours = isinstance(args[0], PretendTensor) if func is aten.copy_.default else bool(ours)
        gives_ours = gives_ours if target is None else _is_ours(target)
        if (ours or gives_ours) and func not in FREE and not _is_view(func):
            self.owner.count_launch(func)
        if _is_ours(target):
            kwargs["device"] = torch.device("cpu")
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        _refuse_changed_shapes(func, ours)
        # The result of an operator in place is the tensor itself.
        known = {id(x.held): x for x in ours}
        return tree_map(lambda x: _wrap(x, known), out) if gives_ours else out


def _wrap(x: Any, known: dict[int, PretendTensor]) -> Any:
    if not isinstance(x, Tensor):
        return x
    return known[id(x)] if id(x) in known else PretendTensor(x)


def _held(x: Any) -> Any:
    return x.held if isinstance(x, PretendTensor) else x


def _is_ours(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _is_view(func: Any) -> bool:
    """Return True if an operator only names memory, also in place: view, split, unsqueeze_."""
    if torch.Tag.inplace_view in func.tags:
        return True
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _python_body(func: Any) -> Callable[..., Any] | None:
    """Return the function of an operator made with `torch.library.custom_op`, else None."""
    if func.namespace in ("aten", "prims", "prim"):
        return None
    from torch._library.custom_ops import OPDEFS

    made = OPDEFS.get(func._schema.name)
    return None if made is None else made._init_fn


def _check_devices(func: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor], ours: Sequence[Tensor]) -> None:
    generator = kwargs.get("generator")
    if isinstance(generator, torch.Generator) and (ours or _is_ours(kwargs.get("device"))):
        raise DeviceMismatch(f"{func}: a generator of the CPU draws for {DEVICE} at {place()}")
    if not ours or func in COPIES or func is aten.set_.source_Tensor:
        return
    # An index may be on the CPU, and so may a number in operators on single elements.
    others = [x for x in tensors if not isinstance(x, PretendTensor)]
    takes_numbers = torch.Tag.pointwise in func.tags or func in FILLS
    wrong = [x for x in others if x.dim() > 0 or not takes_numbers]
    if func in INDEXED:
        wrong = [x for x in [args[0], *args[2:3]] if not isinstance(x, PretendTensor) and x.dim() > 0]
        wrong += [] if isinstance(args[0], PretendTensor) else [args[0]]
    if wrong:
        shapes = ", ".join(str(list(x.shape)) for x in wrong)
        raise DeviceMismatch(f"{func}: tensors on {DEVICE} meet some of the CPU, {shapes}, at {place()}")


def _waits(func: Any, args: Any, kwargs: Any) -> list[tuple[str, bool]]:
    """Return the waits of one operator as their kind, and whether each is an upload."""
    name = func._schema.name.split("::")[-1]
    has_ours = any(isinstance(x, PretendTensor) for x in tree_leaves((args, kwargs)))
    if func in COPIES:
        blocking = not (kwargs.get("non_blocking", False) or (len(args) > 2 and args[2]))
        source, target = (args[1], args[0]) if func is aten.copy_.default else (args[0], kwargs.get("device"))
        to_ours = isinstance(target, PretendTensor) or (isinstance(target, torch.device) and _is_ours(target))
        if target is None or isinstance(source, PretendTensor) == to_ours or not blocking:
            return []
        return [("copy from the CPU", True) if to_ours else ("copy to the CPU", False)]
    if func in READS and has_ours:
        return [] if kwargs.get("output_size") is not None else [(name, False)]
    if func not in INDEXED or not has_ours:
        return []
    indices = [x for x in args[1] if isinstance(x, Tensor)]
    masks = [x for x in indices if x.dtype in (torch.bool, torch.uint8)]
    is_fill = len(args) > 2 and not isinstance(args[2], PretendTensor) and args[2].numel() == len(masks) == len(indices)
    found = [(f"{name} by a CPU index", True)] if any(not isinstance(x, PretendTensor) for x in indices) else []
    if not is_fill and any(isinstance(x, PretendTensor) for x in masks):
        found.append((f"{name} by bool", False))
    return found


def _refuse_changed_shapes(func: Any, ours: Sequence[PretendTensor]) -> None:
    """Raise NotImplementedError if an operator changed the shape of a tensor in place, which its wrapper cannot follow."""
    if any(x.held.shape != x.shape or x.held.stride() != x.stride() for x in ours):
        raise NotImplementedError(f"{func} changes the shape of a pretended tensor in place at {place()}")
