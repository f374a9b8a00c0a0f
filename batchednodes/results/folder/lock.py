"""Lock: one process at a time works in the folder of a run.

The operating system holds the lock and drops it with the process, however that ends: a file that a dead process left is
not a lock any more. The file says who holds it, for people to read. Of filelock it takes the lock of an open file, not
`FileLock`, which opens the file itself: it would follow links out of the folder, and empty what the file says.
"""

import json
import os
import socket
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from types import TracebackType

from filelock import lock_descriptor

from batchednodes.numerics import ranks
from batchednodes.numerics.values import shown
from batchednodes.results.folder.inside import BorderError, Inside
from batchednodes.results.folder.paths import LOCK
from batchednodes.results.folder.plain_json import parsed

_LONGEST = 1 << 12
"""The longest text that is read of who holds a lock [B]."""


class Lock:
    """A hold on a folder, from its making to `close`."""

    def __init__(self, folder: Inside) -> None:
        """Takes the lock.

        Raises:
            ValueError: another process, or this one, holds it; the message says which. Or what has its name leads out
                of the folder, or is a folder.
            OSError: the file cannot be written.
        """
        self.folder = folder
        while True:
            try:
                self.handle = self._file.handle(os.O_RDWR | os.O_CREAT)
            except IsADirectoryError:
                raise ValueError(f"{str(self._file)!r} must be a file, got a folder; remove it") from None
            except OSError as error:
                raise OSError(error.errno, f"{self._file} cannot be written: {error.strerror}") from error
            try:
                self._take()
            except BaseException:
                os.close(self.handle)
                raise
            if self._is_there():
                break
            os.close(self.handle)  # its last holder removed it between our opening and locking it
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat("T", "seconds")}
        with suppress(OSError):  # a full disk leaves the hold, which does not depend on what the file says
            os.ftruncate(self.handle, 0)
            os.pwrite(self.handle, (json.dumps(about) + "\n").encode(), 0)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drops the lock and removes its file."""
        with suppress(OSError, BorderError):  # where nothing can be written any more, the file stays, and says nothing
            if self._is_there():
                self._file.remove()
        os.close(self.handle)

    def moved(self, folder: Inside) -> None:
        """Takes note that the folder has another name now."""
        self.folder = folder

    @property
    def _file(self) -> Inside:
        return self.folder / LOCK

    def _take(self) -> None:
        if not lock_descriptor(self.handle, blocking=False):
            raise ValueError(
                f"{str(self.folder)!r} must not be in use, got a run in it by {_holder(self._file)}; wait for it or "
                "stop it"
            )

    def _is_there(self) -> bool:
        """Returns whether the file that we hold is still the one with that name."""
        seen = self._file.status()
        return seen is not None and os.path.samestat(os.fstat(self.handle), seen)


def locked(folder: Inside) -> AbstractContextManager[object]:
    """Holds a folder for a run: a process alone, or the first of its ranks; errors as of `Lock`."""
    return Lock(folder) if ranks.number() == 0 else nullcontext()


def _holder(file: Inside) -> str:
    """Returns who holds a lock, in words."""
    try:
        about = parsed(file.read(_LONGEST))
        pid, host, since = (str(about[name]) for name in ("pid", "host", "since"))
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
    return f"process {_short(pid)} on {_short(host)} since {_short(since)}"


def _short(text: str) -> str:
    """Returns a text that may be anything as it is, if it is a short line."""
    return text if len(text) < 80 and text.isprintable() else shown(text)
