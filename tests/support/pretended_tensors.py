"""Tensors on a pretended CUDA device: wrappers of tensors of the host, which only operations of PyTorch reach.

What a device would refuse is refused, and what the host would wait for is noted, see `pretended.py`.
"""

import functools
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from pretended_backend import NAME
from torch._library.custom_ops import OPDEFS
from torch.utils import _pytree as pytree

import batchednodes

PACKAGE = f"{Path(batchednodes.__file__).parent}/"
SHAPING = {"unsqueeze_", "squeeze_", "transpose_", "t_", "as_strided_", "swapdims_", "resize_"}
"""Operations that change what a tensor object shows, not its numbers."""
WAITING = {
    "_coalesce", "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "_local_scalar_dense", "_to_sparse",
    "_to_sparse_csr", "_unique2", "allclose", "bincount", "equal", "is_nonzero", "linalg_eig", "linalg_lstsq",
    "masked_select", "nonzero", "repeat_interleave", "unique_consecutive", "unique_dim",
}  # fmt: skip
"""Operations for whose result the host waits on CUDA: a number, or a size that depends on numbers."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class MixedError(RuntimeError):
    """An operation got tensors of the host and of a device, or of two devices."""


class CaptureError(RuntimeError):
    """A CUDA graph cannot hold what happened while it was recorded."""


@dataclass
class Machine:
    """What the pretended devices have done, and what the host has waited for."""

    place: str = "elsewhere"
    """What the host is at, as a test says."""
    waits: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """How often the host waited, by place, reason and line of the package."""
    pageable: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Copies of memory that is not pinned, by place and line."""
    launches: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Operations on a device, by place and name; a graph counts as one."""
    replayed: Counter[str] = field(default_factory=Counter)
    """Operations of the graphs that were replayed, by place."""
    races: list[str] = field(default_factory=list)
    """Lines that sent pinned memory which was written again before the device had surely read it."""
    pending: list[tuple[torch.Tensor, torch.Tensor, str | None]] = field(default_factory=list)
    """Copies that the host has not waited for: memory of the host, the content it has or will have, and, where it is
    sent, the line."""
    recording: "list[Callable[[], object]] | None" = None
    """Operations of the graph that is being recorded."""
    current: int = 0
    """Number of the current device."""
    main: int = field(default_factory=threading.get_ident)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def wait(self, what: str) -> None:
        """Takes note that the host waits here; then all copies have been made.

        A thread of Python's own waits beside the run; those of autograd are the run's.
        """
        beside = type(threading.current_thread()) is threading.Thread and threading.get_ident() != self.main
        if self.recording is not None and not beside:
            raise CaptureError(f"{what} at {self.line()} while a graph is recorded")
        self.waits["beside" if beside else self.place, what, self.line()] += 1
        with self.lock:
            for host, content, sent in self.pending:
                if sent is None:
                    host.copy_(content)
                elif not torch.equal(_bytes(host), _bytes(content)):
                    self.races.append(sent)
            self.pending.clear()

    def line(self) -> str:
        """Returns the line of the package that asked; autograd's threads have none, so that of the main one."""
        for frame in (sys._getframe(1), sys._current_frames().get(self.main)):
            while frame is not None:
                name = frame.f_code.co_filename
                if name.startswith(PACKAGE):
                    return f"{name.removeprefix(PACKAGE)}:{frame.f_lineno}"
                frame = frame.f_back
        return "?"


MACHINE = Machine()
_PINNED: set[int] = set()


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Returns memory of the host that counts as pinned for as long as it lives."""
    size = int(np.prod(shape)) * torch.empty((), dtype=dtype).element_size()
    raw = np.full(size + 1, 0xFF, np.uint8)[:-1].copy()  # never empty memory of NumPy's, and garbage at first
    made = torch.from_numpy(raw)
    at = made.untyped_storage().data_ptr()
    if size:
        _PINNED.add(at)
        weakref.finalize(raw, _PINNED.discard, at)
    return made.view(dtype).view(shape) if size else torch.empty(shape, dtype=dtype)


def is_pinned(t: torch.Tensor) -> bool:
    return not t.numel() or t.untyped_storage().data_ptr() in _PINNED


def _bytes(t: torch.Tensor) -> torch.Tensor:
    return t.detach().reshape(-1).view(torch.uint8)


class DeviceTensor(torch.Tensor):
    """A tensor on a pretended device."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    _t: torch.Tensor

    @staticmethod
    def __new__(cls, t, number=0):
        dense = t.layout is torch.strided  # a sparse one looks dense from outside
        made = torch.Tensor._make_wrapper_subclass(
            cls, t.shape, strides=t.stride() if dense else (t.shape[1], 1),
            storage_offset=t.storage_offset() if dense else 0, dtype=t.dtype, device=torch.device(NAME, number),
        )  # fmt: skip
        made._t = t
        return made

    def __repr__(self, **_):
        return f"DeviceTensor({self._t})"

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other):
        if not isinstance(other, DeviceTensor):
            raise MixedError(f".data = a tensor of the host at {MACHINE.line()}")
        torch.Tensor.data.__set__(self, other)
        self._t = other._t

    def numpy(self, *_, **__):
        raise TypeError("a tensor on a device has no array; use Tensor.cpu() first")

    __array__ = numpy

    def data_ptr(self):
        raise RuntimeError("the host cannot read from an address of a device")

    def tolist(self):
        MACHINE.wait("tolist")
        return self._t.tolist()

    def is_pinned(self, *_):
        return False

    def __deepcopy__(self, memo):
        return DeviceTensor(self._t.clone(), self.device.index)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def unwrap(x):
    if type(x) is tuple and any(isinstance(t, torch.Tensor) for t in x):  # what a kernel takes several of
        return tuple(map(unwrap, x))
    return x._t if isinstance(x, DeviceTensor) else x


def empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return DeviceTensor(torch.empty(size, dtype=dtype or torch.get_default_dtype(), device="cpu"), _number(device))


def empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    made = torch.empty_strided(size, stride, dtype=dtype or torch.get_default_dtype(), device="cpu")
    return DeviceTensor(made, _number(device))


def copy_from(source, to, non_blocking=False):
    """Copies lists and numbers that become tensors inside an operation."""
    return _copy(to, source, non_blocking)


def _number(device) -> int:
    return MACHINE.current if device is None or device.index is None else device.index


def dispatch(func, args, kwargs):
    """Runs an operation on the tensors that those of a device stand for."""
    name = func._schema.name.partition("::")[2]
    if func.namespace == "batchednodes":  # its Python runs on tensors of the device
        return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
    if name == "copy_":
        return _copy(*args, **kwargs)
    if name in SHAPING:  # the tensor of the host, which a graph may hold, stays as it is
        made = args[0]._t.detach()
        func(made, *args[1:], **kwargs)
        args[0].data = DeviceTensor(made, args[0].device.index)
        return args[0]
    device = kwargs.get("device")
    if name == "_to_copy" and device is not None and device.type == "cpu":
        return _to_host(args[0], kwargs)
    number = _check(name, func, args, kwargs)
    inner, more = pytree.tree_map(unwrap, (args, kwargs))
    if device is not None:
        more["device"], number = torch.device("cpu"), _number(device)
    outs = func(*inner, **more)
    writes = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]
    if MACHINE.recording is not None:
        _record(func, name, inner, more, outs, any(writes), number)
    elif not name.startswith(("empty", "new_empty")) and not _is_view(inner, outs, any(writes)):
        MACHINE.launches[MACHINE.place, name] += 1
    if any(writes) and all(r.alias_info is not None and r.alias_info.is_write for r in func._schema.returns):
        places = [k for k, write in enumerate(writes) if write]
        targets = [args[k] if k < len(args) else kwargs.get(func._schema.arguments[k].name) for k in places]
        for target in targets:
            if target.shape != target._t.shape:  # it was resized
                target.data = DeviceTensor(target._t, number)
        return targets[0] if len(func._schema.returns) == 1 else tuple(targets)
    wrapped = functools.partial(DeviceTensor, number=number)
    return pytree.tree_map(lambda x: wrapped(x) if isinstance(x, torch.Tensor) else x, outs)


def _check(name, func, args, kwargs) -> int:
    """Refuses mixed tensors, takes note of what waits, and returns the number of the device."""
    tensors = [a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
    numbers = {a.device.index for a in tensors if isinstance(a, DeviceTensor)}
    host = [a for a in tensors if not isinstance(a, DeviceTensor) and a.ndim]
    if host and name in INDEXING and isinstance(tensors[0], DeviceTensor):
        MACHINE.pageable[MACHINE.place, MACHINE.line()] += 1
        MACHINE.wait(f"{name} with an index of the host")
    elif host or len(numbers) > 1:
        shapes = [(*a.shape, str(a.device)) for a in tensors]
        raise MixedError(f"{func} at {MACHINE.line()} got tensors of several devices: {shapes}")
    if name in WAITING:
        MACHINE.wait(name)
    if name in INDEXING:
        masked = any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        filled = len(args) > 2 and args[2].numel() == 1 and not any(args[3:])
        if masked and not filled:
            MACHINE.wait(f"{name} with a mask")
    return numbers.pop() if numbers else MACHINE.current


def _is_view(inputs, outs, writes: bool) -> bool:
    """Returns whether an operation only makes views of what is there."""
    made = [o for o in pytree.tree_leaves(outs) if isinstance(o, torch.Tensor)]
    there = {_storage(a) for a in pytree.tree_leaves(inputs) if isinstance(a, torch.Tensor)} - {0}
    return not writes and all(_storage(o) in there for o in made)


def _storage(t: torch.Tensor) -> int:
    return t.untyped_storage().data_ptr() if t.layout is torch.strided else 0


def _record(func, name, args, kwargs, outs, writes: bool, number: int) -> None:
    """Adds an operation to the graph that is being recorded, to be run again on the same memory."""
    assert MACHINE.recording is not None
    if number != MACHINE.current:
        raise CaptureError(f"{name} runs on device {number} while a graph of device {MACHINE.current} is recorded")
    if name.startswith(("empty", "new_empty")) or _is_view((args, kwargs), outs, writes):
        return

    def again() -> None:
        new = func(*args, **kwargs)
        if not writes:
            for old, made in zip(pytree.tree_leaves(outs), pytree.tree_leaves(new), strict=True):
                if isinstance(old, torch.Tensor):
                    old.copy_(made)

    MACHINE.recording.append(again)


def _to_host(source: DeviceTensor, options):
    """Returns a tensor on the host: at once, or in pinned memory, with garbage until somebody waits."""
    options = {**options, "device": torch.device("cpu")}
    gently = options.pop("non_blocking", False)
    made = torch.ops.aten._to_copy.default(source._t, **options).clone()
    if gently:
        return _copy(pinned(tuple(made.shape), made.dtype), DeviceTensor(made), non_blocking=True)
    MACHINE.wait("copy to the host")
    return made


def _copy(to, source, non_blocking=False):
    """Copies on a device, to it, or from it."""
    if isinstance(to, DeviceTensor) and isinstance(source, DeviceTensor):
        return dispatch_copy(to, source)
    if isinstance(to, DeviceTensor):
        if MACHINE.recording is not None:
            raise CaptureError(f"a copy from the host at {MACHINE.line()} while a graph is recorded")
        if not is_pinned(source):
            MACHINE.pageable[MACHINE.place, MACHINE.line()] += 1
        if not non_blocking:
            MACHINE.wait("copy to the device")
        elif is_pinned(source):
            with MACHINE.lock:
                MACHINE.pending.append((source, source.clone(), MACHINE.line()))
        to._t.copy_(source)
        return to
    if non_blocking and is_pinned(to):
        with MACHINE.lock:
            MACHINE.pending.append((to, source._t.to(to.dtype, copy=True), None))
        _bytes(to).fill_(0xFF)
        return to
    MACHINE.wait("copy to the host")
    return to.copy_(source._t)


def dispatch_copy(to: DeviceTensor, source: DeviceTensor) -> DeviceTensor:
    a, b = to._t, source._t
    a.copy_(b)
    if MACHINE.recording is not None:
        MACHINE.recording.append(lambda: a.copy_(b))
    else:
        MACHINE.launches[MACHINE.place, "copy_"] += 1
    return to
