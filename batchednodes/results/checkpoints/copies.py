"""Copies of a state in memory of the host, from which a checkpoint is written while the run goes on."""

import numpy as np
import torch
from torch import Tensor

from batchednodes.algorithms.state import OWN, State
from batchednodes.numerics import devices
from batchednodes.numerics.memory import exhausted


class Copies:
    """Memory for a copy of a state, which is used again and again."""

    def __init__(self, wanted: bool) -> None:
        """Takes no memory yet; wanted: whether there are to be copies at all."""
        self.wanted, self.tensors = wanted, dict[str, Tensor]()

    def reserve(self, state: State) -> None:
        """Gets memory for a copy of each tensor of the state that has none; where it fails, there are to be none."""
        try:
            for name, tensor in state.tensors().items():
                old = self.tensors.get(name)
                if old is None or old.shape != tensor.shape or old.dtype != tensor.dtype:
                    self.tensors[name] = _memory(tensor)
        except (MemoryError, RuntimeError) as error:
            if not exhausted(error):
                raise
            self.wanted, self.tensors = False, {}

    def of(self, state: State) -> State | None:
        """Returns a copy of the state on the host, in memory that the next one will reuse; None: there is no memory.

        A device has made it when it has done all that came before.
        """
        self.reserve(state)
        if not self.wanted:
            return None
        for name, tensor in state.tensors().items():
            self.tensors[name].copy_(tensor, non_blocking=True)
        own = [self.tensors[name] for name in OWN]
        apart = {name: copy for name, copy in self.tensors.items() if name not in OWN}
        return State(*own, fields=apart, travels=frozenset(state.travelling()), on_edges=state.on_edges)


def _memory(tensor: Tensor) -> Tensor:
    """Returns memory on the host for a copy of a tensor."""
    if devices.is_cuda(tensor.device):
        return devices.pinned(tuple(tensor.shape), tensor.dtype)
    if tensor.numel() == 0:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    raw = np.empty(tensor.numel() * tensor.element_size(), np.uint8)  # NumPy asks for huge pages
    raw.fill(0)  # the system gives memory when it is first written, which takes longer than to copy
    return torch.from_numpy(raw).view(tensor.dtype).view(tensor.shape)
