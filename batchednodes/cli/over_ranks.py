"""Runs over ranks: how `--ranks` starts them on this machine, and what a rank prints, and returns.

torchrun takes any code but 0 for a failure, after which it may start all ranks again. So a run that halted, with a
checkpoint, is none: its ranks return 0, and its summary says so. Those that `--ranks` started return what one process
would.
"""

import ctypes
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from batchednodes.cli.console import say
from batchednodes.numerics import ranks
from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from batchednodes.numerics import devices, world
else:
    torchrun = deferred("torch.distributed.run")
    devices = deferred("batchednodes.numerics.devices")
    world = deferred("batchednodes.numerics.world")

_STARTED = "BATCHEDNODES_RANKS"
"""Variable of the environment that ranks have which `--ranks` has started."""

_PATIENCE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Variable of torchrun: the time that ranks have to end, with a checkpoint, once they are asked to [s]."""

_A_CORE = 8
"""The most ranks that a core is given; more would only take memory."""

_DEATH = 1
"""What Linux calls the signal that a process gets when that which started it has ended."""


def check(count: int | None, device: str) -> None:
    """Checks that as many ranks can be started on this machine.

    Args:
        count: of them; None: it is not asked for.
        device: that of the settings.

    Raises:
        ValueError: they cannot.
    """
    if count is None:
        return
    if ranks.several():
        raise ValueError(f"--ranks must be left out where torchrun has started ranks, got {count}")
    if count > (most := _A_CORE * ranks.cores()):
        raise ValueError(
            f"--ranks must be at most {_A_CORE} a core of this machine, {most}, got {count}; each is a process"
        )
    there = 0 if device == "cpu" else devices.count()
    if count > 1 and there and (count > there or ":" in device):
        raise ValueError(
            f"--ranks must be at most the number of CUDA devices of this machine, {there}, with device=auto, got "
            f"{count} with device={device}; use fewer ranks, or device=cpu"
        )


def check_alone(what: str, count: int | None) -> None:
    """Checks that what runs in one process only is not asked of several.

    Args:
        what: it is.
        count: of ranks that are asked for; None: none are.

    Raises:
        ValueError: it is.
    """
    if (count or 1) > 1 or ranks.several():
        raise ValueError(
            f"ranks must be 1 for {what}, which makes many runs in one process, got {max(count or 1, ranks.size())}; "
            "leave out --ranks, or torchrun"
        )


def launch(count: int) -> NoReturn:
    """Runs this command again as some ranks of this machine, which torchrun starts; ends with the code of the first."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, ranks.cores() // count)))
    os.environ.setdefault(_PATIENCE, "600")  # the second Ctrl-C ends all at once
    os.environ[_STARTED] = str(os.getpid())
    logging.disable(logging.CRITICAL)  # ranks say what there is to say
    asked = ["--standalone", "--nproc-per-node", str(count), "--module", "batchednodes", *_without(sys.argv[1:])]
    from torch.distributed.elastic.multiprocessing import SignalException  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415

    try:
        torchrun.run(torchrun.parse_args(asked))
    except SignalException as halted:
        sys.exit(128 + halted.sigval)
    except ChildFailedError as failed:
        sys.exit(_code(failed))
    sys.exit(0)


def _without(arguments: Sequence[str]) -> list[str]:
    """Returns arguments without the number of ranks.

    Example:
        >>> from batchednodes.cli.over_ranks import _without
        >>> _without(["train", "c.yaml", "--ranks", "4", "seed=1"])
        ['train', 'c.yaml', 'seed=1']
    """
    kept, skipped = list[str](), False
    for one in arguments:
        if not skipped and not one.startswith("--ranks"):
            kept.append(one)
        skipped = one == "--ranks"
    return kept


def _code(failed: "ChildFailedError") -> int:
    """Returns the code of the command whose ranks did not all return 0; says which was ended by a signal."""
    codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
    rank, first = failed.get_first_failure()
    if first.exitcode < 0:
        say("error", f"rank {rank} was ended by {signal.Signals(-first.exitcode).name}")
        return 2
    return codes[0] if codes.get(0, 0) > 0 else first.exitcode


def begin() -> None:
    """Lets a rank that is not the first print nothing, and one that `--ranks` has started end with what started it."""
    if os.environ.get(_STARTED) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH, signal.SIGKILL)
    if ranks.number():
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (as long as the process)


def halted(code: int) -> int:
    """Returns the exit code of a run that halted, with which one process would end."""
    return code if not ranks.several() or (os.environ.get(_STARTED) and ranks.number() == 0) else 0


def fail(message: str, error: BaseException, known: bool) -> NoReturn:
    """Ends a rank at once; one of all says why.

    Args:
        message: why.
        error: that ended it.
        known: whether it is one that a user can cause.
    """
    if not known:
        message = "".join(traceback.format_exception(error)).rstrip()
    world.end(message, _say if ranks.number() else _say_first, isinstance(error, world.LostRankError))


def _say_first(message: str) -> None:
    say("error", message)
    with suppress(OSError, ValueError):
        sys.stderr.flush()


def _say(message: str) -> None:
    with suppress(OSError):
        os.write(2, f"error: {message}\n".encode(errors="backslashreplace"))
