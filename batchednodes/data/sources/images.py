r"""Images in folders, a folder for each class, as torchvision's ImageFolder reads them.

Notation: c channels, h height, w width.
"""

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float32
from PIL import Image

from batchednodes.data.paths import check_folder, check_member
from batchednodes.data.sources.base import Dataset, DataSizes, Source
from batchednodes.data.sources.holdout import Rows, Standardize, check_holdout, dataset, held_out
from batchednodes.data.sources.labels import unseen
from batchednodes.data.sources.mapped import MappedRows, Memory
from batchednodes.data.sources.table_columns import Learned
from batchednodes.numerics.quiet import filtered
from batchednodes.numerics.values import shown

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Usual endings of files of images, in small letters."""
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is opened; none of them runs another program."""

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's names of pixels of 8 bits a channel."""

_SIDE = 100_000
"""The largest height and width."""

Size = tuple[int, ...] | None
"""Height and width of all images; None: that of the first."""


# ----------------------------------------------------------------------------------------------------------- pixels


@dataclass(frozen=True)
class Frame:
    """What all images of a data set are brought to."""

    channels: int
    """Grey (1), or red, green and blue (3)."""

    height: int
    """Rows of pixels."""

    width: int
    """Pixels of a row."""

    resize: bool
    """Whether other sizes are scaled to this one; if not, they are refused."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape [c, h, w] of one image."""
        return self.channels, self.height, self.width

    def pixels(self, source: str | bytes) -> Float32[np.ndarray, "c h w"]:
        """Returns the pixels of one image, in [0, 1]; what it says of transparency is left out.

        Args:
            source: its file, or the content of one.

        Raises:
            ValueError: it cannot be read, or is of another size; the message does not name it.
        """
        image = _image(source)
        if not self.resize and image.size != (self.width, self.height):
            size = f"{image.size[1]} x {image.size[0]} pixels where the first has {self.height} x {self.width}"
            raise ValueError(f"{size}: give size=[height, width]")
        image = image.convert("RGBA") if "transparency" in image.info else image
        image = image.convert("L" if self.channels == 1 else "RGB")
        if image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        values = np.asarray(image, np.uint8).reshape(self.height, self.width, self.channels)
        return values.transpose(2, 0, 1) / np.float32(255)


def _image(source: str | bytes, load: bool = True) -> Image.Image:
    """Returns an image, or only what its header says."""
    try:
        with filtered("ignore"):  # of what no pixel depends on
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=_FORMATS) as image:
                if load and image.mode in _MODES:
                    image.load()
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers of all formats raise
        reason = f"more than {Image.MAX_IMAGE_PIXELS:,} pixels" if "bomb" in type(error).__name__.lower() else "damage"
        raise ValueError(f"{reason}, or no image of {', '.join(_FORMATS)}") from None
    if image.mode not in _MODES:
        raise ValueError(f"pixels of Pillow's mode {image.mode}: convert it to 8 bits a channel")
    return image


def frame_of(first: str | bytes, size: Size, channels: int | None) -> Frame:
    """Returns what all images are brought to: what the settings say, else what the first image is.

    Raises:
        ValueError: the first image cannot be read.
    """
    image = _image(first, load=False)
    height, width = size or (image.size[1], image.size[0])
    return Frame(channels or (1 if image.mode in ("1", "L", "LA") else 3), height, width, size is not None)


def check_frame(size: Size, channels: int | None) -> None:
    """Raises ValueError unless size is null or [height, width], and channels null, 1 or 3."""
    if size is not None and (len(size) != 2 or not 1 <= min(size) <= max(size) <= _SIDE):
        raise ValueError(f"size must be [height, width], each 1 to {_SIDE:,} pixels, or null, got {shown(list(size))}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grey), 3 (red, green, blue) or null, got {channels}")


# ---------------------------------------------------------------------------------------------------------- folders


@dataclass(frozen=True)
class ImageFolder(Source):
    """Images in a folder for each class, `path/class/image.png`, as floats [channels, height, width] in [0, 1].

    Classes are numbered in the sorted order of their folders' names; images may lie in folders inside those. BMP, GIF,
    JPEG, PNG, PPM, TIFF and WebP are read, by their usual endings; other files are not looked at.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from batchednodes.data import ImageFolder
        >>> for kind in ("cats", "mice"):
        ...     Path("pets", kind).mkdir(parents=True)
        ...     Image.new("RGB", (8, 8)).save(f"pets/{kind}/1.png")
        ...
        >>> ImageFolder("pets").sizes(1).features
        (3, 8, 8)
    """

    path: str
    """The folder of the classes' folders; a relative path starts at the working directory."""

    size: Size = None
    """[height, width] to which all images are scaled, bilinearly; null: all have the size of the first."""

    channels: int | None = None
    """1 (grey) or 3 (red, green, blue), to which all images are converted; null: those of the first."""

    test_path: str | None = None
    """A second folder of folders of the same names, whose images are tested on; null: a part of the first."""

    test_fraction: float = 0.2
    """Share of the images held out for testing where `test_path` is null, in proportion for each class [dimensionless];
    between 0 and 1."""

    test_seed: int | None = None
    """Seed of the draw of those images; in [0, 2^63); null: that of the network."""

    standardize: Standardize = "none"
    """Images over which each channel is shifted and scaled to mean 0 and standard deviation 1: `none`, the training
    images (`train`), or `all`."""

    memory: Memory = "loaded"
    """Where the training images are: `loaded`, in memory; `mapped`, in their files, from which those of minibatches are
    read and decoded ahead: for data larger than memory, with the same results. Test images are loaded."""

    def __post_init__(self) -> None:
        check_holdout(self.test_fraction, self.test_seed, self.test_path, "test_path")
        check_frame(self.size, self.channels)

    def sizes(self, n: int) -> DataSizes:
        """Returns the sizes from the names of the files and the header of the first image."""
        folders = self._folders()
        train, *tests = (len(folder.files) for folder in folders)
        test = tests[0] if tests else held_out(train, self.test_fraction)
        shape = self._frame(folders[0]).shape
        found = _learned(folders).sizes(train if tests else train - test, test, shape)
        return replace(found, mapped=self.memory == "mapped")

    def load(self, n: int, seed: int) -> Dataset:
        folders = self._folders()
        frame, learned = self._frame(folders[0]), _learned(folders)
        first, *others = folders
        stays = MappedRows(partial(_some_pixels, first, frame), np.arange(len(first.files)))
        images = (stays if self.memory == "mapped" else _pixels(first, frame), *(_pixels(one, frame) for one in others))
        rows, *test = (Rows(x, y, learned.classes) for x, y in zip(images, learned.values, strict=True))
        chosen = seed if self.test_seed is None else self.test_seed
        return dataset(rows, test[0] if test else None, self.test_fraction, chosen, self.standardize)

    def _folders(self) -> "list[_Folder]":
        first = _listed(self.path, "path")
        if self.test_path is not None:
            return [first, _listed(self.test_path, "test_path")]
        if len(first.files) < 2:
            raise ValueError(f"path must hold at least 2 images, one to test on, got 1 in {shown(self.path)}")
        return [first]

    def _frame(self, folder: "_Folder") -> Frame:
        try:
            return frame_of(folder.files[0], self.size, self.channels)
        except ValueError as error:
            raise ValueError(f"path must hold images, got {shown(folder.files[0])}, with {error}") from None


@dataclass(frozen=True, eq=False)
class _Folder:
    """The images of a folder, as yet unread."""

    key: str
    files: list[str]
    names: list[str]
    """Class of each file."""


def _listed(path: str, key: str) -> _Folder:
    """Returns the files and classes of a folder, in sorted order; each class has an image."""
    check_folder(path, "folder of folders of images", key)
    found = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
    images = {name: sorted(_images(os.path.join(path, name), key)) for name in found}
    empty = [name for name, files in images.items() if not files]
    if not found or empty:
        got = f"{shown(empty[0])} without one" if found else "none"
        fix = f"put images ({', '.join(EXTENSIONS)}) into {key}/class/"
        raise ValueError(f"{key} must hold a folder of images for each class, got {got} in {shown(path)}: {fix}")
    return _Folder(
        key, [file for name in found for file in images[name]], [name for name in found for _ in images[name]]
    )


def _learned(folders: Sequence[_Folder]) -> Learned:
    """Returns the labels of the images of some folders: the names of all classes in sorted order."""
    classes = sorted({name for folder in folders for name in folder.names})
    number = {name: label for label, name in enumerate(classes)}
    labels = [np.array([number[name] for name in folder.names], np.int64) for folder in folders]
    return Learned(labels, len(classes), unseen(labels, "test_path", classes))


def _images(folder: str, key: str) -> list[str]:
    """Returns the images in a folder and those inside it; links to folders inside are not followed."""
    images = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
    ]
    for image in images:
        check_member(image, key)
    return images


def _pixels(folder: _Folder, frame: Frame) -> Float32[np.ndarray, "S c h w"]:
    """Returns the pixels of all images of a folder."""
    x = np.empty((len(folder.files), *frame.shape), np.float32)
    for k, file in enumerate(folder.files):
        try:
            x[k] = frame.pixels(file)
        except ValueError as error:
            raise ValueError(f"{folder.key} must hold images alike, got {shown(file)}, with {error}") from None
    return x


def _some_pixels(folder: _Folder, frame: Frame, rows: np.ndarray) -> Float32[np.ndarray, "m c h w"]:
    """Returns the pixels of some images of a folder, by their numbers."""
    return _pixels(replace(folder, files=[folder.files[row] for row in rows]), frame)
