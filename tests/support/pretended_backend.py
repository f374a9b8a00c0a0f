"""What PyTorch must know of pretended devices before its first gradient in a process: it then starts their threads."""

import functools

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
    """Makes PyTorch know the devices, once for the process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    torch.ones(1, requires_grad=True).sum().backward()
