r"""Arrays in files of their own: a folder of .npy files in place of an archive, and arrays that stay where they are.

Nothing is executed: arrays of Python objects are refused before anything is read.
"""

import os
import zipfile
from dataclasses import dataclass
from typing import IO

import numpy as np

from batchednodes.data.paths import check_member
from batchednodes.numerics.inputs import located
from batchednodes.numerics.values import shown

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Versions of the format that are read, and what reads their headers."""

_LOCAL, _NAME, _EXTRA = 30, slice(26, 28), slice(28, 30)
"""Bytes of the header of a member of a zip archive, and where it says how long name and extra field are; then these."""


@dataclass(frozen=True)
class _Info:
    """Sizes of a file in bytes, by the names that they have in `zipfile.ZipInfo`."""

    file_size: int
    compress_size: int


@dataclass(frozen=True)
class NpyFolder:
    """A folder of .npy files, read as `zipfile.ZipFile` reads an archive of them.

    Example:
        >>> import os
        >>> import numpy as np
        >>> from batchednodes.data.sources.npy import NpyFolder
        >>> os.mkdir("arrays")
        >>> np.save("arrays/features.npy", np.zeros((4, 2)))
        >>> NpyFolder("arrays").namelist()
        ['features.npy']
    """

    path: str
    """The folder."""

    def __enter__(self) -> "NpyFolder":
        return self

    def __exit__(self, *_: object) -> None:
        """Closes nothing: each file is opened by itself."""

    def place(self, name: str) -> str:
        """Returns the path of a file, which is a regular one."""
        path = os.path.join(self.path, name)
        check_member(path, "path")
        return path

    def namelist(self) -> list[str]:
        """Returns the names of the .npy files."""
        return sorted(name for name in os.listdir(self.path) if name.endswith(".npy"))

    def getinfo(self, name: str) -> _Info:
        """Returns the size of a file."""
        size = os.path.getsize(self.place(name))
        return _Info(size, size)

    def open(self, name: str) -> IO[bytes]:
        """Opens a file."""
        return open(self.place(name), "rb")


def mapped(path: str, archive: zipfile.ZipFile | NpyFolder, name: str) -> np.ndarray:
    """Returns an array whose header is known to be good, and whose numbers stay in its file.

    Raises:
        ValueError: it is compressed, or its rows do not lie one after the other.
    """
    member = f"{name}.npy"
    if isinstance(archive, NpyFolder):
        file, begin = archive.place(member), 0
    else:
        info, file = archive.getinfo(member), located(path)
        if info.compress_type != zipfile.ZIP_STORED:
            fix = "write it with numpy.savez, or as .npy files in a folder, or use memory=loaded"
            raise ValueError(f"path must hold uncompressed arrays with memory=mapped, got {shown(path)}: {fix}")
        with open(file, "rb") as raw:
            raw.seek(info.header_offset)
            header = raw.read(_LOCAL)
        begin = info.header_offset + _LOCAL
        begin += int.from_bytes(header[_NAME], "little") + int.from_bytes(header[_EXTRA], "little")
    with open(file, "rb") as raw:
        raw.seek(begin)
        shape, is_turned, dtype = HEADERS[np.lib.format.read_magic(raw)](raw)
        if is_turned and len(shape) > 1:
            fix = "write numpy.ascontiguousarray of it, or use memory=loaded"
            got = f"{shown(name)} with its columns one after the other"
            raise ValueError(f"path must hold rows that lie one after the other with memory=mapped, got {got}: {fix}")
        return np.memmap(file, dtype, "r", raw.tell(), shape)
