"""Live bytes: how much memory the tensors take, at most, that some work makes and has not dropped yet."""

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts, while it is entered, what operations make; what there was before counts for nothing.

    Example:
        >>> import torch
        >>> from batchednodes.numerics.live_bytes import LiveBytes
        >>> x = torch.zeros(1000)
        >>> with LiveBytes() as live:
        ...     y = (x + 1) * 2 - x.view(10, 100).flatten()
        ...
        >>> live.most  # two sums of 1,000 numbers at once
        8000
    """

    def __init__(self) -> None:
        super().__init__()
        self.most, self.now = 0, 0
        self.known = dict[int, tuple[StorageWeakRef, int]]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Says that no compiler need be told to leave this out: to load one takes longer than to load PyTorch."""
        return False

    def __torch_dispatch__(self, func: Any, types: object, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        for t in tree_leaves((args, kwargs)):
            self._note(t, 0)
        out = func(*args, **kwargs)
        for t in tree_leaves(out):
            self._note(t, None)
        self.most = max(self.most, self.now)
        return out

    def _note(self, t: object, size: int | None) -> None:
        """Notes the memory of a tensor that is not known yet; size: what it counts for, None: what it takes [B]."""
        if not isinstance(t, Tensor) or t.is_meta:
            return
        storage = t.untyped_storage()
        for key in [key for key, (held, _) in self.known.items() if held.expired()]:
            self.now -= self.known.pop(key)[1]
        if storage._cdata not in self.known:
            counted = storage.nbytes() if size is None else size
            self.known[storage._cdata] = StorageWeakRef(storage), counted
            self.now += counted
