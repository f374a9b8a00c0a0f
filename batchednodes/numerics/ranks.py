r"""Ranks: the processes that torchrun has started for one run, and what they say to each other.

All is torch.distributed: gloo between hosts, NCCL between CUDA devices. In one process nothing of it is imported.

Notation: R ranks.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import distributed as dist
else:
    np = deferred("numpy")
    torch = deferred("torch")
    dist = deferred("torch.distributed")


def size() -> int:
    """Returns the number of processes that torchrun has started for this run; 1: it has not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def several() -> bool:
    """Returns whether this process is one of several ranks of a run."""
    return size() > 1


def again() -> bool:
    """Returns whether torchrun has started the ranks of a run anew, after one of them had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


def number() -> int:
    """Returns the number of this process among them: 0, 1, ..."""
    return int(os.environ.get("RANK", "0"))


def of_machine() -> tuple[int, int]:
    """Returns the number of this process among those of its machine, and how many they are."""
    return int(os.environ.get("LOCAL_RANK") or 0), int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def cores() -> int:
    """Returns how many cores this process may use, all ranks of this machine together."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Account:
    """What a rank has said to others so far."""

    bytes: int = 0
    """Bytes of rows sent to other ranks."""
    exchanges: int = 0
    """Collectives that brought them."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """Some ranks that hold a part of a batch together, this one among them."""

    rank: int
    """Number of this one."""
    size: int
    """R."""
    group: "dist.ProcessGroup | None" = None
    """Theirs in torch.distributed; None: that of all."""
    account: Account = field(default_factory=Account)

    def exchange(self, send: "torch.Tensor", sent: Sequence[int], received: Sequence[int]) -> "torch.Tensor":
        """Returns bytes from each rank, one after the other, for bytes to each.

        Args:
            send: of type uint8, contiguous, on the device of the models.
            sent: how many go to each rank.
            received: how many come from each; all know it, so that nothing is asked.
        """
        out = send.new_empty(sum(received))
        dist.all_to_all_single(out, send, [*received], [*sent], group=self.group)
        self.account.bytes += sum(sent) - sent[self.rank]
        self.account.exchanges += 1
        return out

    def total(self, numbers: "torch.Tensor") -> "torch.Tensor":
        """Returns the sum over ranks of some numbers, on all of them; of int64, float32 or float64."""
        found = numbers.clone()
        dist.all_reduce(found, dist.ReduceOp.SUM, group=self.group)
        return found

    def largest(self, numbers: "torch.Tensor") -> "torch.Tensor":
        """Returns the largest over ranks of each of some numbers, on all of them; of the same types."""
        found = numbers.clone()
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.group)
        return found

    def joined(self, rows: "torch.Tensor", counts: Sequence[int]) -> "torch.Tensor":
        """Returns the rows of all ranks, one after the other, on all of them.

        Args:
            rows: this rank's.
            counts: how many each rank has.
        """
        flat = rows.contiguous().flatten().view(torch.uint8)
        each = flat.numel() // max(1, counts[self.rank])
        if counts[self.rank] == 0:
            each = rows.element_size() * math.prod(rows.shape[1:])
        got = self.exchange(flat.repeat(self.size), [flat.numel()] * self.size, [each * count for count in counts])
        return got.view(rows.dtype).view(sum(counts), *rows.shape[1:])

    def agreed(self, value: int) -> int:
        """Returns the largest of what all ranks give, on all of them; hosts wait for each other."""
        return int(self.largest(torch.tensor([value], dtype=torch.int64))[0])

    def told(self, thing: Any) -> Any:
        """Returns what the first rank gives, on all of them; plain data."""
        box = [thing]
        dist.broadcast_object_list(box, group=self.group, group_src=0, device=torch.device("cpu"))
        return box[0]

    def told_arrays(self, source: int, arrays: "Sequence[np.ndarray] | None") -> "list[np.ndarray]":
        """Returns some arrays of one dimension that one rank gives, on all of them; seven at most.

        Args:
            source: its number among these.
            arrays: of numbers of any type; None but on that rank.
        """
        head = np.zeros(15, np.int64)
        if arrays is not None:
            head[: 1 + 2 * len(arrays)] = [len(arrays), *(part for a in arrays for part in (ord(a.dtype.char), a.size))]
        self._tell(source, head)
        kinds, sizes = [np.dtype(chr(code)) for code in head[1 : 2 * head[0] : 2]], head[2 : 1 + 2 * head[0] : 2]
        found = [np.empty(size, kind) for size, kind in zip(sizes.tolist(), kinds, strict=True)]
        for k, out in enumerate(found):
            if arrays is not None:
                out[:] = arrays[k]
            self._tell(source, out)
        return found

    def _tell(self, source: int, array: "np.ndarray") -> None:
        """Puts what one rank has in an array into that of all."""
        if array.size:
            dist.broadcast(torch.from_numpy(array.view(np.uint8)), group=self.group, group_src=source)

    def collected(self, thing: Any) -> list[Any] | None:
        """Returns what each rank gives, on the first; None on the others; plain data."""
        found = [None] * self.size if self.rank == 0 else None
        dist.gather_object(thing, found, group=self.group, group_dst=0)
        return found

    def barrier(self) -> None:
        """Waits until all ranks have come here."""
        self.agreed(0)


class Pending:
    """A number that ranks give at each step, and have agreed on one step later: so none waits for another."""

    def __init__(self, ranks: Ranks) -> None:
        """Begins with 0."""
        self.ranks, self.work, self.sent = ranks, None, None

    def next(self, value: int) -> int:
        """Returns the largest of what ranks gave at their call before this one; 0 at the first.

        Args:
            value: this rank's, for the next call; not negative.
        """
        found = self.settle()
        self.sent = torch.tensor([value], dtype=torch.int64)
        self.work = dist.all_reduce(self.sent, dist.ReduceOp.MAX, group=self.ranks.group, async_op=True)
        return found

    def settle(self) -> int:
        """Returns the same, and gives nothing new."""
        if self.work is None or self.sent is None:
            return 0
        self.work.wait()
        found, self.work = int(self.sent[0]), None
        return found
