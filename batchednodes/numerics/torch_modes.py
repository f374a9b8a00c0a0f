r"""Modes: what PyTorch and NumPy compute under, which a caller may have changed for work of its own.

A run has its own, those of a new process and deterministic algorithms: it computes the same bits whatever its caller's
are, and leaves them as they were. Some belong to a thread, and those of a new thread are as in a new process. Others
belong to the process, so that all of its threads have the run's while there is one.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._C._dynamo.eval_frame import set_eval_frame
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.nn.utils import parametrize
from torch.overrides import _pop_mode, _push_mode
from torch.utils._python_dispatch import _disable_current_modes

from batchednodes.numerics import threads
from batchednodes.numerics.quiet import is_quiet, set_quiet
from batchednodes.numerics.unloaded import leave_compiler_unloaded

_CORE: Any = torch._C
"""PyTorch's core, which has modes that its Python functions do not show."""


@contextmanager
def own() -> Iterator[None]:
    """Lets what is computed inside have the modes of a run, and leaves the caller's as they were.

    What code of a user's changes inside ends there too. May be entered inside itself, and by several threads at once.
    """
    leave_compiler_unloaded()
    with ExitStack() as stack:
        for part in (_traced_by_nobody, _of_thread, _of_numbers, _SHARED, _generators):
            stack.enter_context(part())
        yield


# ------------------------------------------------------------------------------------------------------- of a thread


@contextmanager
def _traced_by_nobody() -> Iterator[None]:
    """Hides what is called from what compiles, traces or transforms its caller: torch.compile, .jit and .func."""
    frame, state = _set_frame(None), _CORE._get_tracing_state()
    _CORE._set_tracing_state(None)
    try:
        with ExitStack() as stack:
            stack.enter_context(temporarily_clear_interpreter_stack())
            if "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("default"))
            yield
    finally:
        _CORE._set_tracing_state(state)
        _set_frame(frame)


def _set_frame(compile_: Any) -> Any:
    """Lets functions that are called be compiled by a function, or not; returns the function before."""
    return set_eval_frame(compile_)


vars(_set_frame)["_torchdynamo_disable"] = True  # else to trace it is a warning


@contextmanager
def _of_thread() -> Iterator[None]:
    """Takes away what stands between a call of PyTorch and what it does: devices, gradients, precision, overrides."""
    place = torch._GLOBAL_DEVICE_CONTEXT
    device, types = getattr(place, "device_context", None), [(kind, torch.get_autocast_dtype(kind)) for kind in _TYPES]
    functions = [_pop_mode() for _ in range(_CORE._len_torch_function_stack())]
    hooks = []
    while (hook := _CORE._autograd._top_saved_tensors_default_hooks(True)) is not None:
        _CORE._autograd._pop_saved_tensors_default_hooks()
        hooks.append(hook)
    place.device_context = None
    try:
        with (
            _CORE._EnableTorchFunction(),
            _disable_current_modes(),
            _CORE._DisableAutocast(),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autograd.forward_ad._set_fwd_grad_enabled(True),
        ):
            for kind, dtype in _TYPES.items():
                torch.set_autocast_dtype(kind, dtype)
            yield
    finally:
        for kind, dtype in types:
            torch.set_autocast_dtype(kind, dtype)
        place.device_context = device
        for hook in reversed(hooks):
            _CORE._autograd._push_saved_tensors_default_hooks(*hook)
        for mode in reversed(functions):
            _push_mode(mode)


_TYPES = {"cpu": torch.bfloat16, "cuda": torch.float16}
"""What autocast computes in, where a model that enters it does not say."""


@contextmanager
def _of_numbers() -> Iterator[None]:
    """Lets NumPy warn as it does by itself, and no thread of the caller's team take small numbers for zero."""
    before = dict[int, bool]()
    if _flushes():
        threads.each(lambda k: before.update({k: _flushes()}))
        threads.each(lambda _: torch.set_flush_denormal(False))
    try:
        with np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"):
            yield
    finally:
        if before:
            threads.each(lambda k: torch.set_flush_denormal(before.get(k, True)))


def _flushes() -> bool:
    """Returns whether this thread takes numbers that are too small to be normal for zero."""
    return sys.float_info.min / 2 == 0.0


@contextmanager
def _generators() -> Iterator[None]:
    """Leaves PyTorch's own generators as they were."""
    with ExitStack() as stack:
        with _GENERATORS:
            stack.enter_context(torch.random.fork_rng(_devices()))
        try:
            yield
        finally:
            with _GENERATORS:
                stack.close()


@contextmanager
def generators() -> Iterator[None]:
    """Leaves PyTorch's own generators as they were, and keeps runs in other threads from them and Python's until then.

    For code of a user's that may draw, after a seed or while its draws are watched.
    """
    with _GENERATORS, torch.random.fork_rng(_devices()):
        yield


_GENERATORS = threading.RLock()
"""Held by who seeds, watches or restores the generators that all threads of a process share."""


def _devices() -> Iterable[int]:
    return range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []


# -------------------------------------------------------------------------------------------------- of the process


class _Switch(NamedTuple):
    """One mode of the process."""

    read: Callable[[], Any]
    write: Callable[[Any], object]
    """Takes what `read` gives."""
    own: Any
    """What it is in a run."""


def _native(name: str, own: Any, writer: str = "") -> list[_Switch]:
    """Returns a switch of PyTorch's core by its name; none where a version of PyTorch does not have it."""
    read, write = getattr(_CORE, f"_get_{name}", None), getattr(_CORE, f"_set_{writer or name}", None)
    return [] if read is None or write is None else [_Switch(read, write, own)]


def _each(name: str, own: Any) -> list[_Switch]:
    """Returns a switch whose writer takes the parts of what is read one by one."""
    return [_Switch(s.read, lambda value, s=s: s.write(*value), s.own) for s in _native(name, own)]


_PRECISIONS = {
    ("generic", "all"): "none",
    **{(backend, "all"): "none" for backend in ("cuda", "mkldnn")},
    **{(backend, "matmul"): "none" for backend in ("cuda", "mkldnn")},
    **{("cuda", part): "ieee" for part in ("conv", "rnn")},  # PyTorch's own choice, TF32, keeps 10 bits of 23
    **{("mkldnn", part): "none" for part in ("conv", "rnn")},
}
"""How float32 is computed where, each after what it follows while it is "none"."""


def _precision() -> tuple[str, list[str]]:
    """Returns the older and the newer settings of float32; the newer are "none" then, so that each's own is read."""
    found = []
    for place in _PRECISIONS:
        found.append(_CORE._get_fp32_precision_getter(*place))
        _CORE._set_fp32_precision_setter(*place, "none")
    return _CORE._get_float32_matmul_precision(), found


def _set_precision(value: tuple[str, list[str]]) -> None:
    older, newer = value
    _CORE._set_float32_matmul_precision(older)
    for place, word in zip(_PRECISIONS, newer, strict=True):
        _CORE._set_fp32_precision_setter(*place, word)


def _set_deterministic(value: tuple[bool, bool]) -> None:
    _CORE._set_deterministic_algorithms(value[0], warn_only=value[1])  # torch's own function imports its compiler


def _switches() -> list[_Switch]:
    """Returns the modes of the process that there are now."""
    einsum = torch.backends.opt_einsum
    found = [
        _Switch(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        _Switch(
            lambda: (_CORE._get_deterministic_algorithms(), _CORE._get_deterministic_algorithms_warn_only()),
            _set_deterministic,
            (True, True),  # a user's model may have operations that have no deterministic form
        ),
        _Switch(
            lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
            lambda value: torch.set_anomaly_enabled(*value),
            (False, True),
        ),
        _Switch(_precision, _set_precision, ("highest", [*_PRECISIONS.values()])),
        _Switch(
            einsum.set_flags,
            lambda value: einsum.set_flags(*value),
            (True, "auto") if einsum.is_available() else (None,),
        ),
        _Switch(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled, True),
        _Switch(_CORE._check_sparse_tensor_invariants, _CORE._set_check_sparse_tensor_invariants, False),
        _Switch(is_quiet, set_quiet, True),
        _Switch(lambda: parametrize._cache_enabled, lambda value: setattr(parametrize, "_cache_enabled", value), 0),
    ]
    for name in ("overwrite_module_params_on_conversion", "swap_module_params_on_conversion"):
        found.append(_Switch(getattr(torch.__future__, f"get_{name}"), getattr(torch.__future__, f"set_{name}"), False))
    if "torch._inductor.config" in sys.modules:
        compiler = sys.modules["torch._inductor.config"]
        found.append(_Switch(lambda: compiler.deterministic, lambda on: setattr(compiler, "deterministic", on), False))
    if torch.cuda.is_initialized() and torch.cuda.get_sync_debug_mode():  # to set it is a warning
        found.append(_Switch(torch.cuda.get_sync_debug_mode, torch.cuda.set_sync_debug_mode, 0))
    return [*found, *_of_kernels()]


def _of_kernels() -> list[_Switch]:
    """Returns the modes that choose among kernels that do the same."""
    plain: dict[str, Any] = {
        "deterministic_fill_uninitialized_memory": False,
        "cudnn_enabled": True,
        "cudnn_benchmark": False,
        "cudnn_deterministic": False,
        "cudnn_depthwise_kernel": "auto",
        "mkldnn_enabled": True,
        "mkldnn_deterministic": False,
        "nnpack_enabled": True,
        "miopen_immediate": False,
        "cublas_allow_fp16_accumulation": False,
        "math_sdp_allow_fp16_bf16_reduction": False,
        "linalg_preferred_backend": _CORE._LinalgBackend.Default,
        "blas_preferred_backend": _CORE._BlasBackend.Default,
    }
    attention = {"flash": True, "fa3": False, "mem_efficient": True, "math": True, "cudnn": True, "overrideable": True}
    found = [_native(name, own) for name, own in plain.items()]
    found += [_native(f"{name}_sdp_enabled", own, f"sdp_use_{name}") for name, own in attention.items()]
    found += [_each(f"cublas_allow_{kind}_reduced_precision_reduction", (True, True)) for kind in ("fp16", "bf16")]
    return [switch for each in found for switch in each]


class _Shared:
    """The modes of the process: the run's from when the first one begins until none is left."""

    def __init__(self) -> None:
        """Changes nothing yet."""
        self.lock, self.inside, self.before = threading.Lock(), 0, list[tuple[_Switch, Any]]()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Lets the modes be the run's inside; within a run, also what code of a user's has changed is undone."""
        with self.lock:
            if self.inside == 0:
                self.before = [(switch, switch.read()) for switch in _switches()]
            self.inside += 1
            self._set(own=True)
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                self._set(own=self.inside > 0)

    def _set(self, own: bool) -> None:
        for switch, before in self.before:
            switch.write(switch.own if own else before)


_SHARED = _Shared()
