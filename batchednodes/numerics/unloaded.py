"""The compiler of PyTorch, left unloaded where gradients only ask it to stand aside: it loads longer than PyTorch."""

import sys
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import torch


class _Unloaded:
    """Stands for a module until one of its names is used that is not known here, which loads it."""

    def __init__(self, name: str, **known: Any) -> None:
        self._name = name
        vars(self).update(known)

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


def load_compiler() -> None:
    """Loads it now: optimizers of PyTorch do at their first step, when there may be no memory left."""
    import_module("torch._dynamo")


def leave_compiler_unloaded() -> None:
    """Lets `torch.func.grad` run without `torch._dynamo`, if nobody has loaded that.

    It asks the compiler to keep off what it differentiates, which one that is not loaded does by itself. Whoever needs
    it for anything else loads it as ever, and finds it in its own place.
    """
    if "torch._dynamo" not in sys.modules:
        autograd = _Unloaded("torch._dynamo.compiled_autograd", _disable=nullcontext)
        package: Any = torch
        package._dynamo = _Unloaded("torch._dynamo", compiled_autograd=autograd)
