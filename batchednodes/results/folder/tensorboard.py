r"""Board: a file of TensorBoard events.

Events and checksums are those of libraries. The file is our own, for TensorBoard's writer keeps a thread and an open
file for each, computes checksums byte by byte in Python, and follows links; a sweep may have thousands of files. The
format is that of TensorFlow's records:

    length of data [8 bytes], checksum of the length [4], data (an event) [length], checksum of the data [4]
"""

import itertools
import math
import os
import re
import socket
import struct
import time
from contextlib import suppress
from typing import Any

from crc32c import crc32c
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

from batchednodes.results.folder.inside import BorderError, Inside

_NUMBERS = itertools.count()
"""Distinguishes files that one process opens within a second."""

_NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\..*")
"""Name of a file of events, and the time of its making [s]. Readers take files in the order of their names, as text."""

_LATEST = 10**10 - 1
"""The latest time of such a name [s]."""


class Board:
    """A new file of events in a folder, which it makes; what is added is on disk at the next `flush`."""

    def __init__(self, folder: Inside, step: int = 0) -> None:
        """Begins a file, the first one or one that follows others, whatever the clock said then.

        Args:
            folder: of the file.
            step: of the first event; TensorBoard drops what older files of the folder say of it and later ones.
        """
        folder.make()
        now = time.time()
        self.now = max(now, _end(folder))  # a clock may have been set back
        self.late = self.now - now
        name = f"{int(self.now):010d}.{socket.gethostname()}.{os.getpid():010d}.{next(_NUMBERS):010d}"
        self.file, self.waiting, self.empty = folder / f"events.out.tfevents.{name}", bytearray(), True
        self._write(file_version="brain.Event:2")
        self._write(step=step, session_log=SessionLog(status=SessionLog.START))

    def add(self, summary: Any, step: int = 0) -> None:
        """Appends one summary, as `torch.utils.tensorboard.summary` makes it; step is at least 0."""
        self.empty = False
        self._write(step=step, summary=summary)

    def flush(self) -> None:
        """Hands what was added to the operating system, so that TensorBoard sees it.

        The file is open only now: a sweep may have more networks than a process may have open files.
        """
        if self.waiting and not self.empty:
            self.file.write(self.waiting)
            self.waiting.clear()
            if self.late:  # the clock of the file system has been set back, too
                self.file.date(self.now)

    def close(self) -> None:
        """Writes what is left."""
        self.flush()

    def abandon(self) -> None:
        """Forgets what could not be written."""
        self.waiting.clear()

    def _write(self, **what: Any) -> None:
        self.now = max(self.now, time.time() + self.late)
        data = Event(wall_time=self.now, **what).SerializeToString()
        length = struct.pack("<Q", len(data))
        self.waiting.extend(length + _checksum(length) + data + _checksum(data))


def _end(folder: Inside) -> float:
    """Returns a time after those of all files of events in a folder, and of what is in them [s]; 0: there is none."""
    times = [0.0]
    for name in folder.names():
        found = _NAME.fullmatch(name)
        if found:
            times.append(int(found[1]) + 1.0)
            with suppress(BorderError):  # what is no file is not read as one
                seen = (folder / name).status()
                times.append(float(math.ceil(seen.st_mtime)) if seen is not None else 0.0)
    return max(moment for moment in times if moment <= _LATEST)


def _checksum(data: bytes) -> bytes:
    """Returns the masked CRC-32C of TensorFlow's records."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
