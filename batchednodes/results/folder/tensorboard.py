r"""Board: a file of TensorBoard events.

TensorBoard's own writer has a thread for each file and computes checksums byte by byte in Python: at a mark of many
networks that takes longer than everything else. The format is that of TensorFlow's records:

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
from typing import Any, no_type_check

import numpy as np
from numba import njit

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
        self._write(_field(3, b"brain.Event:2"))  # the version of the format
        self._write(_STEP + _varint(step) + _field(7, b"\x08\x01"))  # a session starts

    def add(self, summary: Any, step: int = 0) -> None:
        """Appends one summary, as `torch.utils.tensorboard.summary` makes it; step is at least 0."""
        self.empty = False
        self._write(_STEP + _varint(step) + _field(5, summary.SerializeToString()))

    def flush(self) -> None:
        """Hands what was added to the operating system, so that TensorBoard sees it.

        The file is open only now: a sweep may have more networks than a process may have open files.
        """
        if self.waiting and not self.empty:
            self.file.write(self.waiting)
            self.waiting.clear()

    def close(self) -> None:
        """Writes what is left."""
        self.flush()

    def abandon(self) -> None:
        """Forgets what could not be written."""
        self.waiting.clear()

    def _write(self, what: bytes) -> None:
        self.now = max(self.now, time.time() + self.late)
        data = _TIME + struct.pack("<d", self.now) + what
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


_TIME, _STEP = b"\x09", b"\x10"
"""Keys of an event's fields 1 (wall time, eight bytes) and 2 (step, a varint) in the encoding of protocol buffers."""


def _field(number: int, content: bytes) -> bytes:
    """Returns a field of bytes of a protocol buffer."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Returns an integer in groups of seven bits, the lowest first; all but the last have the eighth bit set."""
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def _checksum(data: bytes) -> bytes:
    """Returns the masked CRC-32C of TensorFlow's records."""
    crc = int(_crc(np.frombuffer(data, np.uint8)))
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@njit(nogil=True, cache=True)
@no_type_check
def _crc(data):  # noqa: ANN001, ANN202
    """Returns the CRC-32C (Castagnoli) of some bytes, four bits at a time."""
    table = np.empty(16, np.uint32)
    for k in range(16):
        value = np.uint32(k)
        for _ in range(4):
            value = np.uint32(
                (value >> np.uint32(1)) ^ (np.uint32(0x82F63B78) if value & np.uint32(1) else np.uint32(0))
            )
        table[k] = value
    crc = np.uint32(0xFFFFFFFF)
    for byte in data:
        crc ^= np.uint32(byte)
        for _ in range(2):
            crc = np.uint32(table[crc & np.uint32(15)] ^ (crc >> np.uint32(4)))
    return crc ^ np.uint32(0xFFFFFFFF)
