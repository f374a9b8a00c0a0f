"""What PyTorch must know of pretended devices before its first gradient in a process: it then starts their threads.

And what Triton's interpreter must know of NumPy.
"""

import functools
import importlib.util

import torch
from torch.utils import backend_registration

NAME = "pretended"

COUNT = 2
"""Devices that there are."""


class _Module(backend_registration._DummyBackendModule):
    def device_count(self) -> int:
        return COUNT

    def is_available(self) -> bool:
        return False  # to who looks for devices by himself, as nn.DataParallel does


@functools.cache
def register() -> None:
    """Makes PyTorch know the devices, and Triton 3.6 that NumPy 2.4 turns no array of one number into a number."""
    if importlib.util.find_spec("triton") is not None:  # it has no build for some platforms
        from triton.runtime import interpreter  # its import reads whether kernels are interpreted

        plain = interpreter._patch_lang_tensor

        def patched(tensor, scope):
            plain(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

        interpreter._patch_lang_tensor = patched
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    torch.ones(1, requires_grad=True).sum().backward()
