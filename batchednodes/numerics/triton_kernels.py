"""What CUDA kernels in Triton are written with: its language, and how they are compiled; nothing where none can run.

It takes as long to import as NumPy and Numba together, so it is left alone without a CUDA device, unless it interprets
or is loaded already.
"""

import os
import sys
from contextlib import suppress
from typing import Any

import torch

from batchednodes.numerics import devices

triton: Any = None
tl: Any = None
if devices.count() or "TRITON_INTERPRET" in os.environ or "triton" in sys.modules:
    with suppress(ImportError):  # PyTorch for CPUs comes without it
        import triton
        import triton.language as tl

constexpr: Any = None if tl is None else tl.constexpr
"""Marks what a kernel is compiled for; Triton's interpreter knows it by this name."""


def jit(kernel: Any, numbers: tuple[str, ...], slices: tuple[str, ...]) -> Any:
    """Returns a kernel that is compiled once for each dtype; None where there is no Triton.

    Args:
        kernel: what is compiled.
        numbers: its arguments that differ from call to call, and are compiled for no value.
        slices: its tensors that begin anywhere in others.
    """
    if triton is None:
        return None
    return triton.jit(do_not_specialize=numbers, do_not_specialize_on_alignment=slices)(kernel)


def takes(x: torch.Tensor) -> bool:
    """Returns whether kernels work on a tensor: it is on a CUDA device, and there is Triton."""
    return triton is not None and devices.is_cuda(x.device)


__all__ = ["constexpr", "jit", "takes", "tl", "triton"]
