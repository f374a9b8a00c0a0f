"""Start: what a process must have before the first of its libraries is loaded: streams, and room for them.

Nothing is imported here that takes time, or memory.
"""

import atexit
import gc
import mmap
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

WORDS = re.compile(
    r"allocate memory|(not enough|out of) memory|bad_alloc|ALLOC_FAILED|memory object|can't start new thread"
    r"|failed to map segment",
    re.IGNORECASE,
)
"""How the loader of libraries, torch, what is under it, and Python where a thread's stack does not fit, say that memory
ended."""

LIGHT = 384 << 20
"""Address space for the libraries that every command loads: NumPy, SciPy and Numba [B]."""

_BESIDE = 512 << 20
"""Address space that PyTorch takes beside its own files: what it imports, and its first threads [B]."""


class MemoryEndedError(MemoryError):
    """Memory does not hold the program itself; says so in one message."""


def open_streams() -> None:
    """Lets standard streams that are closed lead nowhere, so that no file of a run gets a number of theirs."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            stream = open(number, "w" if number else "r", encoding="utf-8")  # noqa: SIM115  (as long as the process)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def rest_collector() -> None:
    """Lets the collector of cyclic garbage rest while libraries are loaded: it would look at all of them many times."""
    gc.disable()


def wake_collector() -> None:
    """Lets the collector work again, if it rests: before anything computes, whose memory must be free afterwards."""
    if not gc.isenabled():
        gc.collect()
        gc.freeze()  # libraries stay until the end, and are looked at no more
        gc.enable()


def leave_collector() -> None:
    """Lets a process that has computed nothing end without looking at all that is loaded once more."""
    if "triton" in sys.modules:  # its bindings complain of what a process leaves
        gc.unfreeze()
        gc.enable()
    elif not gc.isenabled():
        gc.freeze()


def end_at_once(work: Callable[[], None]) -> None:
    """Does what a process is there for, and ends it without clearing up what libraries hold.

    That takes a second of a core for each rank, if Triton is loaded, and all must be gone within a few. Errors leave as
    they do elsewhere.
    """
    code = 0
    try:
        work()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            raise
        code = ended.code or 0
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def check_light() -> None:
    """Checks that there is room for the libraries that every command loads; some end the process where there is none.

    Raises:
        MemoryEndedError: there is none.
    """
    _check(LIGHT, "NumPy, SciPy and Numba")


def check_torch() -> None:
    """Checks that there is room for PyTorch, if it is not loaded yet.

    Raises:
        MemoryEndedError: there is none.
    """
    if "torch" not in sys.modules:
        found = find_spec("torch")
        files = Path(found.origin).parent.glob("lib/*.so*") if found is not None and found.origin else ()
        _check(_BESIDE + sum(path.stat().st_size for path in files), "PyTorch")


def _check(size: int, what: str) -> None:
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()  # space, but no memory
    except (OSError, MemoryError):
        raise MemoryEndedError(_message(f"no {size >> 20:,} MiB of address space for {what}")) from None


def ended(error: BaseException) -> str | None:
    """Returns the message about memory that ended while something was loaded; None for another error."""
    if isinstance(error, MemoryEndedError):
        return str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or WORDS.search(str(cause)):
            last = (str(cause).strip().splitlines() or [type(cause).__name__])[-1]
            return _message(last[:200])
        cause = cause.__cause__ or cause.__context__
    return None


def _message(got: str) -> str:
    return f"memory must hold the program itself, got: {got}; raise the limit (ulimit -v), or end other programs"


def say(text: str) -> None:
    """Writes a line to standard error, where there may be no memory, or no reader."""
    with suppress(OSError):
        os.write(2, f"error: {text}\n".encode(errors="backslashreplace"))
