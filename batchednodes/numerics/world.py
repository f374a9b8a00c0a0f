r"""World: how the ranks of a run meet, and how they end together where one of them fails.

torchrun keeps a store of a few words for all ranks. A rank that fails leaves there why, before it ends, so that others
can tell what broke: one of them says it. Who waits for a rank that has ended hears of it from gloo at once; who waits
for one that hangs gives up after a while.

Notation: R ranks.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from batchednodes.numerics import ranks
from batchednodes.numerics.expressions import shown
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.ranks import Ranks

if TYPE_CHECKING:
    import torch
    from torch import distributed as dist
else:
    torch = deferred("torch")
    dist = deferred("torch.distributed")

LIMIT = "BATCHEDNODES_RANKS_TIMEOUT"
"""Variable of the environment: the time after which a rank that waits for another one gives up [s]."""

_LIMIT = 300.0
"""That time, where the variable is not set [s]."""

_POLL = 0.05
"""Time between two looks at what ranks have left in the store [s]."""

_GRACE = 5.0
"""Time that a rank has to end by itself after another one has failed, and the first one to say why [s]."""

_MOMENT = 1.0
"""Time that rank 0 has to say what it finds as others do [s]."""

_PLACE = re.compile(r"^\[[^]]*\] *")
"""Where in the sources of gloo an error comes from, as its messages begin."""

_OURS = (ranks.__name__, "torch.distributed")
"""Modules whose errors are those of a connection, or of another rank."""


class LostRankError(ConnectionError):
    """Another rank has failed, or cannot be reached, so that this one cannot go on."""


def limit() -> timedelta:
    """Returns the time after which a rank that waits for another one gives up.

    Raises:
        ValueError: the variable that says so holds no positive number.
    """
    text = os.environ.get(LIMIT, str(_LIMIT))
    with suppress(ValueError):
        seconds = float(text)
        if 0 < seconds < 1e9:
            return timedelta(seconds=seconds)
    raise ValueError(f"{LIMIT} must be a positive number of seconds, got {shown(text)}")


class Board:
    """What ranks leave for each other in the store: who is here, and why one fails."""

    def __init__(self) -> None:
        """Connects to the store.

        Raises:
            ValueError: no launcher has said where it is, or it cannot be reached.
        """
        self.rank, self.size = ranks.number(), ranks.size()
        try:
            meeting = dist.rendezvous("env://", timeout=limit())  # pyright: ignore[reportPrivateImportUsage]
            store, *_ = next(iter(meeting))
        except (ValueError, RuntimeError) as error:
            rule = "ranks must be started by torchrun, or by --ranks on one machine"
            raise ValueError(f"{rule}, got WORLD_SIZE={self.size}, and: {_first_line(error)}") from None
        turn = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # what processes before this one left is over
        self.store = dist.PrefixStore(f"batchednodes-{turn}", store)  # pyright: ignore[reportPrivateImportUsage]

    def meet(self) -> int:
        """Waits until all ranks are here; returns how often they have been.

        Raises:
            LostRankError: one has failed, or does not come.
        """
        turn = self.store.add(f"met-{self.rank}", 1)
        here, until = [f"here-{turn}-{rank}" for rank in range(self.size)], time.monotonic() + limit().total_seconds()
        self.store.set(here[self.rank], "")
        while not self.store.check(here):
            if (why := self.failure()) is not None:
                raise LostRankError(why)
            if time.monotonic() > until:
                missing = [str(rank) for rank, key in enumerate(here) if not self.store.check([key])]
                raise LostRankError(f"ranks must meet within {limit().total_seconds():g} s, got none of {missing}")
            time.sleep(_POLL)
        self.store.set("met", "")
        return turn

    def fail(self, why: str) -> None:
        """Leaves why this rank fails; the first reason of all ranks stays."""
        self.store.compare_set("failed", "", f"rank {self.rank}: {why}" if self.rank else why)

    def failure(self) -> str | None:
        """Returns why a rank has failed; None: none has."""
        return self.store.get("failed").decode() if self.store.check(["failed"]) else None

    def speaks(self, patience: float = 0.0) -> bool:
        """Returns whether this rank is to say why the run ends: one does.

        Args:
            patience: time that rank 0 has to do it before this one [s].
        """
        until = time.monotonic() + (patience if self.rank else 0.0)
        while time.monotonic() < until and not self.store.check(["said"]):
            time.sleep(_POLL)
        return self.store.compare_set("said", "", str(self.rank)).decode() == str(self.rank)

    @property
    def met(self) -> bool:
        """Whether the ranks have met, so that they wait for each other."""
        return self.store.check(["met"])


class World:
    """All ranks of a run."""

    def __init__(self, cuda: bool) -> None:
        """Meets the other ranks; waits for them.

        Args:
            cuda: whether the models are on CUDA devices, one a rank.

        Raises:
            ValueError: they were not started by torchrun, or the like.
            LostRankError: one has failed, or does not come.
        """
        self.board = Board()
        turn, kinds = self.board.meet(), "cpu:gloo,cuda:nccl" if cuda else "gloo"
        group, self.own = None, not dist.is_initialized()
        if self.own:
            store = dist.PrefixStore(str(turn), self.board.store)  # pyright: ignore[reportPrivateImportUsage]
            dist.init_process_group(
                kinds, store=store, rank=self.board.rank, world_size=self.board.size, timeout=limit()
            )
        else:  # by the user's script, with what it needs itself
            group = _group(range(self.board.size), kinds)
        self.all, self.left = Ranks(self.board.rank, self.board.size, group), threading.Event()
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def parts(self, sizes: Sequence[int], apart: bool = False) -> tuple[int, Ranks]:
        """Returns which of some groups this rank is in, and the ranks of that group; all ranks must call it.

        Args:
            sizes: how many ranks each group has, in order; together R.
            apart: whether they are to speak beside others of the same ranks, of memory of the host.
        """
        bounds = np.cumsum([0, *sizes]).tolist()
        if len(sizes) == 1 and not apart:
            return 0, self.all
        kinds = "gloo"
        if not apart and "nccl" in dist.get_backend_config(self.all.group):
            kinds = "cpu:gloo,cuda:nccl"
        groups = [_group(range(a, b), kinds) for a, b in pairwise(bounds)]
        mine = int(np.searchsorted(bounds, self.all.rank, side="right")) - 1
        return mine, Ranks(self.all.rank - bounds[mine], sizes[mine], groups[mine])

    def blamed(self, error: BaseException) -> LostRankError | None:
        """Returns what to say where another rank broke what this one was at; None where the error is its own."""
        if not isinstance(error, RuntimeError) or not _is_of_connection(error):
            return None
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            with suppress(RuntimeError):  # the store may be gone, too
                if (why := self.board.failure()) is not None:
                    return LostRankError(why)
            time.sleep(_POLL)
        got = _PLACE.sub("", _first_line(error)).partition(". This is typically")[0]
        waited = f"a rank has not answered for {limit().total_seconds():g} s ({LIMIT}), or"
        what = waited if "imed out" in got else "a rank"
        return LostRankError(f"{what} has ended without a word: {got}")

    def close(self, error: BaseException | None = None) -> None:
        """Leaves the other ranks; after an error, which is left for them, it would wait for what they owe it."""
        if error is None:
            self.left.set()
            if self.own:
                dist.destroy_process_group()
            return
        with suppress(RuntimeError):
            self.board.fail(_first_line(error))
        self.left.set()

    def _watch(self) -> None:
        """Ends this process where another rank has failed, and this one does not hear of it where it waits."""
        with suppress(RuntimeError, ValueError):
            board = Board()
            while not self.left.wait(1.0):
                if (why := board.failure()) is not None and not self.left.wait(_GRACE):
                    if board.speaks(_MOMENT):
                        _write(f"error: {why}\n")
                    os._exit(2)


@contextmanager
def world(cuda: bool) -> Iterator[World | None]:
    """Meets the other ranks of this run, and yields them; None where there are none.

    Args:
        cuda: whether the models are on CUDA devices, one a rank.

    Raises:
        LostRankError: another rank has failed, or does not come, or answer.
    """
    if ranks.size() == 1:
        yield None
        return
    made = World(cuda)
    try:
        yield made
    except BaseException as error:
        other = made.blamed(error)
        made.close(other or error)
        if other is not None:
            raise other from error
        raise
    made.close()


def end(message: str, say: Callable[[str], object], lost: bool) -> NoReturn:
    """Ends this process, which has failed, at once, so that others hear of it; one rank says why.

    Args:
        message: why.
        say: prints a message.
        lost: whether another rank has failed.
    """
    try:
        board = Board()
        board.fail(message)
        speaks = board.speaks(_MOMENT if board.met and not lost else _GRACE)
        message = f"rank {board.rank}: {message}" if board.rank and not lost else message
    except (RuntimeError, ValueError):  # there is no store, or it is gone
        speaks = ranks.number() == 0 or not lost
    if speaks:
        say(message)
    os._exit(2)


def _group(members: Sequence[int], kinds: str) -> "dist.ProcessGroup":
    """Returns a group of some ranks; all ranks must call it."""
    made = dist.new_group([*members], timeout=limit(), backend=kinds)
    return made  # pyright: ignore[reportReturnType]


def _is_of_connection(error: RuntimeError) -> bool:
    """Returns whether an error comes from what ranks say to each other."""
    trace, name = error.__traceback__, ""
    while trace is not None:
        name, trace = str(trace.tb_frame.f_globals.get("__name__")), trace.tb_next
    return name.startswith(_OURS)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:1000]


def _write(text: str) -> None:
    with suppress(OSError):
        os.write(2, text.encode(errors="backslashreplace"))
