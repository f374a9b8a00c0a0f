"""Border: what lies in the folder of a run is reached without leaving that folder.

A folder may come from anywhere, with a link, a pipe or a device in place of any file. So every name below it is looked
up in a folder that is open, no link is followed, and what is neither a plain file nor a folder is refused. The folder
itself may be a link, or lie below one: its path is the user's own.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from batchednodes.numerics.values import shown

PARTIAL = ".partial"
"""End of the name of a file that is being written."""

Buffer = bytes | bytearray | memoryview

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How folders and files are opened; who opens a pipe does not wait."""


class BorderError(ValueError):
    """Something in the folder of a run that leads out of it, or is no file."""


@dataclass(frozen=True)
class Inside:
    """A file or folder, which need not be there, below a folder whose path is the user's; or that folder itself.

    Example:
        >>> from pathlib import Path
        >>> from batchednodes.results.folder.inside import Inside
        >>> Path("run").mkdir()
        >>> note = Inside(Path("run")) / "notes.txt"
        >>> note.create(b"ring, 100 nodes")
        >>> note.read(), str(note), note.is_file()
        (b'ring, 100 nodes', 'run/notes.txt', True)
    """

    outer: Path
    """The folder of the user's choice."""
    parts: tuple[str, ...] = ()
    """Names below it."""

    def __truediv__(self, names: str) -> "Inside":
        return Inside(self.outer, (*self.parts, *(name for name in names.split("/") if name)))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """The path, for people to read."""
        return self.outer.joinpath(*self.parts)

    @property
    def name(self) -> str:
        """The last name."""
        return self.parts[-1]

    # ------------------------------------------------------------------------------------------------------- looking

    def status(self) -> os.stat_result | None:
        """Returns what the system says of a file or folder; None: nothing is there.

        Raises:
            BorderError: it, or a folder on the way to it, is a link, a pipe or a device.
        """
        with _nothing_where_missing():
            if not self.parts:
                return os.stat(self.outer)
            with self._above() as above:
                return self._look(above)
        return None

    def is_file(self) -> bool:
        """Returns whether a plain file is there; errors as of `status`."""
        seen = self.status()
        return seen is not None and stat.S_ISREG(seen.st_mode)

    def is_folder(self) -> bool:
        """Returns whether a folder is there; errors as of `status`."""
        seen = self.status()
        return seen is not None and stat.S_ISDIR(seen.st_mode)

    def check_sole(self) -> None:
        """Checks that a file which is there has no second name, under which what is written into it would be read.

        Raises:
            BorderError: it has.
        """
        seen = self.status()
        if seen is not None:
            self._check_sole(seen)

    def names(self) -> list[str]:
        """Returns the names in a folder, sorted; none where there is no folder."""
        with _nothing_where_missing(), (self / "_")._above() as handle:
            return sorted(os.listdir(handle))
        return []

    # ------------------------------------------------------------------------------------------------------- reading

    def handle(self, flags: int = os.O_RDONLY) -> int:
        """Returns an open file, whose number the caller closes.

        Raises:
            BorderError: it leads out of the folder, or would be written and has a second name.
            OSError: it cannot be opened.
        """
        with self._above() as above:
            self._look(above)
            handle = os.open(self.name, flags | _FILE, 0o666, dir_fd=above)
        try:
            seen = os.fstat(handle)
            if stat.S_ISDIR(seen.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._check(seen.st_mode)
            if flags & (os.O_WRONLY | os.O_RDWR):
                self._check_sole(seen)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def read(self, most: int = -1) -> bytes:
        """Returns the content of a file, or its first bytes; errors as of `handle`."""
        with open(self.handle(), "rb") as file:
            return file.read(
                most if most < 0 else min(most, os.fstat(file.fileno()).st_size)
            )  # it asks for memory first

    # ------------------------------------------------------------------------------------------------------- writing

    def make(self) -> None:
        """Makes a folder, and those above it; the user's own must be there.

        Raises:
            BorderError: one of them is a link, a pipe or a device.
            OSError: it cannot be made.
        """
        for k in range(len(self.parts)):
            each = Inside(self.outer, self.parts[: k + 1])
            with each._above() as above, suppress(FileExistsError):
                os.mkdir(each.name, dir_fd=above)
        with (self / "_")._above():
            pass

    def write(self, content: Buffer, place: int | None = None) -> None:
        """Writes into a file at a place [B], at its end where none is given; makes one if it is to begin at 0.

        Errors as of `handle`.
        """
        flags = os.O_APPEND if place is None else 0
        with open(self.handle(os.O_WRONLY | flags | (0 if place else os.O_CREAT)), "wb") as file:
            if place is not None:
                file.seek(place)
            file.write(content)

    def date(self, moment: float) -> None:
        """Says when a file was written last [s since 1970]; errors as of `handle`."""
        handle = self.handle(os.O_WRONLY)
        try:
            os.utime(handle, (moment, moment))
        finally:
            os.close(handle)

    def cut(self, size: int) -> None:
        """Cuts a file that is longer off; errors as of `handle`."""
        handle = self.handle(os.O_WRONLY)
        try:
            os.ftruncate(handle, size)
        finally:
            os.close(handle)

    def create(self, content: Buffer) -> None:
        """Writes a file where none is.

        Raises:
            OSError: there is something, or it cannot be written.
        """
        with self._above() as above, open(_new(self.name, above), "wb") as file:
            file.write(content)

    def replace(self, blocks: Iterable[Buffer]) -> None:
        """Writes a file as `replacing` does, block by block."""
        with self.replacing() as file:
            for block in blocks:
                file.write(block)

    @contextmanager
    def replacing(self) -> Iterator[BinaryIO]:
        """Opens a file under another name, to be written, then gives it its own; both outlast a loss of power.

        Raises:
            BorderError: what is there leads out of the folder, or what has the other name does.
            OSError: it cannot be written; what was there before still is, and nothing else.
        """
        part = Inside(self.outer, (*self.parts[:-1], self.name + PARTIAL))
        try:
            part.remove()  # of a process that was killed
            with self._above() as above:
                self._look(above)
                with part._removed_after_errors(above), open(_new(part.name, above), "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(part.name, self.name, src_dir_fd=above, dst_dir_fd=above)
                os.fsync(above)
        except OSError as error:
            raise OSError(error.errno, f"{self} cannot be written: {error.strerror}") from error

    def sync(self) -> None:
        """Makes a file, and its name, outlast a loss of power; errors as of `handle`."""
        handle = self.handle()
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        with self._above() as above:
            os.fsync(above)

    # ------------------------------------------------------------------------------------------ renaming and removing

    def rename(self, name: str, lasting: bool = False) -> None:
        """Gives a file or folder another name in the same folder, of which a plain file loses it.

        Args:
            name: the other one.
            lasting: whether it outlasts a loss of power.

        Raises:
            BorderError: one of them is a link, a pipe or a device.
            OSError: it cannot be renamed.
        """
        with self._above() as above:
            for each in (self, Inside(self.outer, (*self.parts[:-1], name))):
                each._look(above)
            os.replace(self.name, name, src_dir_fd=above, dst_dir_fd=above)
            if lasting:
                os.fsync(above)

    def remove(self) -> None:
        """Removes a plain file, if one is there.

        Raises:
            BorderError: it is a link, a pipe or a device.
            OSError: it is a folder, or cannot be removed.
        """
        with suppress(FileNotFoundError), self._above() as above:
            if self._look(above) is not None:
                os.unlink(self.name, dir_fd=above)

    def remove_folder(self, whole: bool = False) -> None:
        """Removes a folder that is empty, or with all that is in it; links in it go, not what they name.

        Raises:
            BorderError: it is a link, a pipe or a device.
            OSError: it is no folder, not empty, or cannot be removed.
        """
        with self._above() as above:
            self._look(above)
            if whole:
                shutil.rmtree(self.name, dir_fd=above)
            else:
                os.rmdir(self.name, dir_fd=above)

    # ------------------------------------------------------------------------------------------------------ the border

    @contextmanager
    def _above(self) -> Iterator[int]:
        """Opens the folder that the last name is in."""
        try:
            handle = os.open(self.outer, _FOLDER)
        except ValueError as error:  # a null byte in the path
            raise FileNotFoundError(errno.ENOENT, str(error)) from None
        try:
            for k, part in enumerate(self.parts[:-1]):
                try:
                    inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
                except OSError:
                    Inside(self.outer, self.parts[: k + 1])._look(handle)  # which says so if it is a link
                    raise
                os.close(handle)
                handle = inner
            yield handle
        finally:
            os.close(handle)

    def _look(self, above: int) -> os.stat_result | None:
        """Returns what the system says of the last name in the folder above; None: nothing is there."""
        try:
            seen = os.stat(self.name, dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(seen.st_mode):
            target = os.readlink(self.name, dir_fd=above)
            self._refuse(f"a link to {shown(target)}", "put what it names in its place, or remove it")
        self._check(seen.st_mode)
        return seen

    def _check(self, mode: int) -> None:
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            what = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
            self._refuse(what, "remove it")

    def _check_sole(self, seen: os.stat_result) -> None:
        if stat.S_ISREG(seen.st_mode) and seen.st_nlink > 1:
            self._refuse("a file with a second name elsewhere (a hard link)", "put a copy in its place")

    def _refuse(self, what: str, fix: str) -> None:
        raise BorderError(
            f"the folder of a run must hold files and folders of its own, got {shown(str(self))}, {what}; nothing "
            f"outside the folder is touched: {fix}"
        )

    @contextmanager
    def _removed_after_errors(self, above: int) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with suppress(OSError):
                os.unlink(self.name, dir_fd=above)
            raise


@contextmanager
def _nothing_where_missing() -> Iterator[None]:
    """Lets an error say that nothing is there."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise


def _new(name: str, above: int) -> int:
    """Returns a new file, open, in a folder that is open."""
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o666, dir_fd=above)
