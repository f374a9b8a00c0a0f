"""The table of nodes as a file: a NumPy array of records that grows, and that `numpy.load` reads at any time.

    header [512 bytes], row, row, ...

The header says how many rows there are; it is written after them, so that a reader never sees half a mark.
"""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import shown
from batchednodes.results.folder.inside import BorderError, Inside
from batchednodes.results.folder.paths import ALONE_ROWS, NODE_ROWS
from batchednodes.results.metrics.node_table import COLUMNS

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = deferred("pandas")

_HEADER, _MAGIC = 512, b"\x93NUMPY\x01\x00"
"""Length of the header [B], and how it begins."""

_BLOCK = 1 << 24
"""Bytes that are read at once."""


@dataclass(eq=False)
class NodeFile:
    """The rows of one run, which are appended."""

    file: Inside
    rows: int
    digest: "hashlib._Hash"
    """Checksum of the rows."""

    @staticmethod
    def open(folder: Inside, known: tuple[int, str]) -> "NodeFile":
        """Opens the file of a run where it left off; what was written later is cut off.

        Args:
            folder: of the run.
            known: rows, and checksum of them, that the file must begin with.

        Raises:
            ValueError: it begins with something else, or leads out of the folder.
        """
        made = NodeFile(folder / NODE_ROWS, known[0], check_nodes(folder, known))
        if made.file.status() is not None:
            made._cut()
        made.file.write(_header(made.rows), 0)
        return made

    @property
    def known(self) -> tuple[int, str]:
        """Number of rows, and checksum."""
        return self.rows, self.digest.hexdigest()

    def append(self, tables: list[np.ndarray]) -> None:
        """Appends the rows of one mark.

        Raises:
            OSError: they cannot be written; what the file held before is whole.
        """
        content = b"".join(table.tobytes() for table in tables)
        try:
            self.file.write(content, _end(self.rows))
            self.file.write(_header(self.rows + len(content) // COLUMNS.itemsize), 0)
        except OSError as error:
            with suppress(OSError, BorderError):
                self._cut()
            raise OSError(f"{self.file} cannot be written: {error.strerror}") from error
        self.rows += len(content) // COLUMNS.itemsize
        self.digest.update(content)

    def _cut(self) -> None:
        self.file.cut(_end(self.rows))


def read(folder: Inside, name: str = NODE_ROWS) -> np.ndarray:
    """Returns the rows of a run, which stay on disk until they are looked at.

    Args:
        folder: of the run.
        name: of the file in it, `NODE_ROWS`, or `ALONE_ROWS`, those of its isolated nodes.

    Raises:
        ValueError: there is no such file, or it is damaged.
    """
    file, rule = folder / name, f"DIR must hold a whole {name}"
    try:
        handle = os.fdopen(file.handle(), "rb")
    except OSError as error:
        raise ValueError(f"{rule}, got {shown(str(folder))}: {error.strerror}") from None
    with handle:
        head, size = handle.read(_HEADER), os.fstat(handle.fileno()).st_size
        rows = (size - _HEADER) // COLUMNS.itemsize
        told = int(b"0" + head.rpartition(b"(")[2].partition(b",")[0]) if head.rpartition(b"(")[2][:1].isdigit() else 0
        if told > rows or head != _header(told):
            raise ValueError(f"{rule}, got {shown(str(folder))} with one that is damaged")
        if not told:
            return np.zeros(0, COLUMNS)
        return np.memmap(handle, COLUMNS, "r", _HEADER, (told,))


def keep_isolated(folder: Inside, alone: Inside) -> None:
    """Copies the rows of isolated nodes, whose run is in a folder of its own, into that of the run."""
    with os.fdopen((alone / NODE_ROWS).handle(), "rb") as handle:
        (folder / ALONE_ROWS).replace(iter(lambda: handle.read(_BLOCK), b""))


def check_nodes(folder: Inside, known: tuple[int, str]) -> "hashlib._Hash":
    """Returns the running checksum of the first rows of a run's table of nodes, of known number and checksum.

    Raises:
        ValueError: they have another, or the file cannot be read.
    """
    (rows, checksum), file, digest = known, folder / NODE_ROWS, hashlib.sha256()
    if not rows:
        return digest
    try:
        with os.fdopen(file.handle(), "rb") as handle:
            handle.seek(_HEADER)
            for first in range(_HEADER, _end(rows), _BLOCK):
                digest.update(handle.read(min(_BLOCK, _end(rows) - first)))
    except OSError as error:
        raise ValueError(f"{file} must be as the run left it, got none that can be read: {error.strerror}") from error
    if digest.hexdigest() != checksum:
        raise ValueError(f"{file} must begin as the run left it, got others than its first {rows} rows")
    return digest


def _end(rows: int) -> int:
    """Returns where some rows end [B]."""
    return _HEADER + rows * COLUMNS.itemsize


def _header(rows: int) -> bytes:
    """Returns what NumPy reads before some rows, always as long."""
    words = f"{{'descr': {COLUMNS.descr}, 'fortran_order': False, 'shape': ({rows},)}}"
    room = _HEADER - len(_MAGIC) - 2
    return _MAGIC + room.to_bytes(2, "little") + words.ljust(room - 1).encode() + b"\n"


def frame(rows: np.ndarray | None, what: str, settings: str) -> "pd.DataFrame":
    """Returns rows of nodes as a table.

    Args:
        rows: of nodes; None: there are none.
        what: is asked for, in words.
        settings: that a run must have for that.

    Raises:
        ValueError: there are none.
    """
    if rows is None:
        raise ValueError(f"{what} must be asked of a run with {settings}, got one without")
    return pd.DataFrame(rows)
