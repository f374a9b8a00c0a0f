"""Lock: one process at a time works in the folder of a run.

The operating system holds the lock and drops it with the process, however that ends: a file that a dead process left is
not a lock any more. The file says who holds it, for people to read.

Letters: none.
"""

import fcntl
import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

_NAME = "lock"


class Lock:
    """A hold on a folder, from its making to `close`."""

    def __init__(self, folder: Path) -> None:
        """Takes the lock.

        Raises:
            ValueError: another process, or this one, holds it; the message says which.
            OSError: the file cannot be written.
        """
        self.path = folder / _NAME
        while True:
            try:
                self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise OSError(error.errno, f"{self.path} cannot be written: {error.strerror}") from error
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
        with suppress(OSError):  # where nothing can be written any more, the file stays, and says nothing
            if self._is_there():
                self.path.unlink()
        os.close(self.handle)

    def moved(self, folder: Path) -> None:
        """Takes note that the folder has another name now."""
        self.path = folder / _NAME

    def _take(self) -> None:
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{str(self.path.parent)!r} must not be in use, got a run in it by {_holder(self.path)}; wait for "
                "it or stop it"
            ) from None

    def _is_there(self) -> bool:
        """Returns whether the file that we hold is still the one with that name."""
        try:
            return os.path.samestat(os.fstat(self.handle), os.stat(self.path))
        except FileNotFoundError:
            return False


def _holder(path: Path) -> str:
    """Returns who holds a lock, in words."""
    try:
        about = json.loads(path.read_text())
        return f"process {about['pid']} on {about['host']} since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
