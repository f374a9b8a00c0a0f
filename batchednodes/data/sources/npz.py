r"""The user's own data: NumPy archives (`numpy.savez`), read without pickle and checked before use.

Notation: n nodes, S training samples, k targets.
"""

import difflib
import math
import os
import zipfile
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from batchednodes.data.paths import check_file
from batchednodes.data.sources.base import Classes, Dataset, DataSizes, FeaturesAs, Source, check_rows, stay_integers
from batchednodes.data.sources.holdout import Rows, Standardize, check_fraction, dataset, held_out
from batchednodes.data.sources.labels import from_one, unseen, whole
from batchednodes.data.sources.mapped import MappedRows, Memory
from batchednodes.data.sources.npy import HEADERS, NpyFolder, mapped
from batchednodes.numerics.inputs import located
from batchednodes.numerics.quiet import filtered
from batchednodes.numerics.values import LARGEST, shown

_REQUIRED = ("features", "targets")
_TEST = ("test_features", "test_targets")
_NAMES = (*_REQUIRED, *_TEST, "node")
_WRITE = "write one with numpy.savez(path, features=..., targets=...)"
_DENSE, _LOOSE = 100, 1 << 28
"""The most by which an array may have been compressed, and the bytes [B] from which this counts: a small file that
unpacks to gigabytes is no data."""

Header = tuple[tuple[int, ...], np.dtype]


@dataclass(frozen=True)
class Npz(Source):
    """Arrays of an .npz file: `features`, `targets`, and where given `node`, `test_features`, `test_targets`.

    Integer targets [S] are labels (classes = largest label + 1), as [S, 1] are; [S, ...] are labels of each token or
    pixel of a sample. Real targets [S] or [S, k] make a regression. Without test arrays, a part of the rows is held out
    at random: in proportion for each node where `node` is given, else for each label, where rows have one. Features
    that do not stay integers become float32 where that is exact for their type, else float64.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data import Npz
        >>> np.savez("mine.npz", features=np.zeros((100, 8, 8)), targets=np.arange(100) % 10)
        >>> sizes = Npz("mine.npz").sizes(5)
        >>> sizes.features, sizes.outputs, sizes.test_samples
        ((8, 8), 10, 20)
    """

    path: str = ""
    """The .npz file, or a folder with features.npy, targets.npy, ...; a relative path starts at the working
    directory."""

    test_fraction: float = 0.2
    """Share of the rows held out for testing [dimensionless]; between 0 and 1. A file with test arrays of its own
    is not split."""

    standardize: Standardize = "none"
    """Rows over which features are shifted and scaled to mean 0 and standard deviation 1: `none`, the training rows
    (`train`), or `all`; features [S, channels, height, width] by channel."""

    features_as: FeaturesAs = "auto"
    """What features are to be: `real`; `integers`, which a module of your own gets as int64; `auto`: integers of 16
    bits or more stay integers, those of 8 bits, as pixels are, become reals. A module that takes no integers, and
    models that come with batchednodes, get reals all the same."""

    classes: Classes = "auto"
    """Whether targets are labels 0, 1, ...; `auto`: integers are, real numbers are not."""

    memory: Memory = "loaded"
    """Where training features are: `loaded`, in memory; `mapped`, in their file, which is not compressed, and from
    which those of minibatches are read ahead: for data larger than memory, with the same results. Test features are
    loaded."""

    def __post_init__(self) -> None:
        check_fraction(self.test_fraction)

    def demands_integers(self) -> bool:
        return self.features_as == "integers"

    def sizes(self, n: int) -> DataSizes:
        """Returns the sizes from the array headers; of the arrays, only labels, and lone real targets, are read."""
        headers = _headers(self.path, self.classes)
        samples, shape = headers["features"][0][0], headers["features"][0][1:]
        test = headers["test_features"][0][0] if "test_features" in headers else held_out(samples, self.test_fraction)
        train = samples if "test_features" in headers else samples - test
        integers, width = self._integers(headers), math.prod(headers["targets"][0][1:])
        first = _whole(self.path, "features", _first(self.path))[0] if integers else None
        if not _labelled(headers, self.classes):
            notes = ()
            if self.classes == "auto" and width == 1:
                notes = whole(self._arrays(headers, ["targets"])["targets"])
            return DataSizes(train, test, shape or (1,), width, False, integers, (), first, notes, self._stays)
        arrays = self._arrays(headers, [name for name in ("targets", "test_targets") if name in headers])
        labels = list(arrays.values())
        notes = (from_one(labels) if labels[0].ndim == 1 else ()) + unseen(labels, "path")
        classes, tokens = _classes(self.path, labels), labels[0].shape[1:]
        return DataSizes(train, test, shape or (1,), classes, True, integers, tokens, first, notes, self._stays)

    def load(self, n: int, seed: int) -> Dataset:
        headers = _headers(self.path, self.classes)
        arrays = self._arrays(headers, [name for name in headers if name != "features" or not self._stays])
        x = self._mapped(headers) if self._stays else arrays["features"]
        y, node = arrays["targets"], arrays.get("node")
        labels = [arrays[name] for name in ("targets", "test_targets") if name in arrays]
        classes = _classes(self.path, labels) if _labelled(headers, self.classes) else None
        for prefix in ("", "test_") if "test_features" in arrays else ("",):
            try:
                check_rows(arrays[f"{prefix}features"] if prefix else x, arrays[f"{prefix}targets"], classes, prefix)
            except ValueError as error:
                raise ValueError(f"path must hold usable data, got {shown(self.path)}, where {error}") from None
        if node is not None:
            _check_nodes(self.path, node, n)
        rows = Rows(x, y, classes, node)
        test = None
        if "test_features" in arrays:
            test = Rows(arrays["test_features"], arrays["test_targets"], classes)
        return dataset(rows, test, self.test_fraction, seed, self.standardize)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all features and targets of the file but those to test on, as models take them."""
        headers = _headers(self.path, self.classes)
        arrays = self._arrays(headers, [*_REQUIRED])
        return arrays["features"], arrays["targets"]

    @property
    def _stays(self) -> bool:
        """Whether training features stay in their file."""
        return self.memory == "mapped"

    def _mapped(self, headers: dict[str, Header]) -> MappedRows:
        """Returns training features that stay in their file."""
        convert = _whole if self._integers(headers) else _real
        with _archive(self.path) as archive:
            there = mapped(self.path, archive, "features")
        return MappedRows(lambda index: convert(self.path, "features", there[index]), np.arange(len(there)))

    def _integers(self, headers: dict[str, Header]) -> bool:
        """Returns whether features stay integers."""
        kinds = [kind for name, (_, kind) in headers.items() if name.endswith("features")]
        return stay_integers(self.features_as, np.result_type(*kinds), self.standardize)

    def _arrays(self, headers: dict[str, Header], names: list[str]) -> dict[str, np.ndarray]:
        """Returns the named arrays, converted to the types of a `Dataset`."""
        integers, labelled, made = self._integers(headers), _labelled(headers, self.classes), dict[str, np.ndarray]()
        with _archive(self.path) as archive:
            for name in names:
                stays = integers if name.endswith("features") else labelled or name == "node"
                made[name] = (_whole if stays else _real)(self.path, name, array(self.path, archive, name))
        return made


def _labelled(headers: dict[str, Header], classes: Classes) -> bool:
    """Returns whether targets are labels."""
    return classes is True or (classes == "auto" and headers["targets"][1].kind != "f")


def fail(path: str, rule: str, got: str, fix: str) -> NoReturn:
    """Raises ValueError for a file that does not hold what it must."""
    raise ValueError(f"path must hold {rule}, got {got} in {shown(path)}: {fix}")


# ---------------------------------------------------------------------------------------------------------- headers


def opened(path: str, write: str) -> zipfile.ZipFile:
    """Returns the archive that a file is.

    Args:
        path: of the file.
        write: how to write one, for messages.

    Raises:
        ValueError: there is no such file, or it is no archive.
    """
    check_file(located(path), ".npz", "path", write)
    try:
        return zipfile.ZipFile(located(path))
    except Exception:  # as above
        raise ValueError(f"path must be an .npz file, got {shown(path)}, which is not a zip archive: {write}") from None


def _archive(path: str) -> zipfile.ZipFile | NpyFolder:
    """Returns the arrays of a file, or of a folder of files, see `opened`."""
    is_folder = os.path.isdir(path) and any(name.endswith(".npy") for name in os.listdir(path))
    return NpyFolder(path) if is_folder else opened(path, _WRITE)


def _headers(path: str, classes: Classes) -> dict[str, Header]:
    """Returns shape and type of each known array, checked against one another, without reading the arrays."""
    with _archive(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        _check_names(path, names)
        headers = {name: header(path, archive, name) for name in _NAMES if name in names}
    _check_types(path, headers)
    _check_shapes(path, {name: shape for name, (shape, _) in headers.items()}, _labelled(headers, classes))
    return headers


def _check_names(path: str, names: list[str]) -> None:
    held = ", ".join(name[:40] for name in sorted(names)[:10]) or "no arrays"
    for name in _REQUIRED:
        if name not in names:
            fail(path, f"an array named {name}", held, _WRITE)
    if len(set(_TEST) & set(names)) == 1:
        fail(path, "both test_features and test_targets, or neither", held, "add the missing one, or drop the other")
    for name in sorted(set(names) - set(_NAMES))[:20]:
        near = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.8)
        if near:
            fail(path, f"arrays named {', '.join(_NAMES)}", f"{shown(name)}", f"did you mean {near[0]!r}?")


def header(path: str, archive: zipfile.ZipFile | NpyFolder, name: str) -> Header:
    """Returns shape and type of an array, whose numbers are all there.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    info = archive.getinfo(f"{name}.npy")
    try:
        with archive.open(f"{name}.npy") as file, filtered("error"):
            shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
            promised = math.prod(shape) * dtype.itemsize
            held = info.file_size - file.tell()
    except Exception:  # whatever a damaged file makes the readers of zip, of headers and of its compression raise
        fail(path, "readable arrays", f"a damaged or unknown header of {shown(name)}", "write the file again")
    if dtype.hasobject:
        fail(
            path,
            "plain arrays of numbers",
            f"the object array {shown(name)}",
            "convert it to one number type (no pickle)",
        )
    if promised != held or (isinstance(archive, zipfile.ZipFile) and info.compress_size > _size(path)):
        fail(path, "whole arrays", f"{held} of the {shown(promised)} bytes of {shown(name)}", "write the file again")
    if held > max(_LOOSE, _DENSE * info.compress_size):
        got = f"{shown(name)} of {held >> 20} MiB in {info.compress_size >> 10} KiB"
        fail(path, f"arrays compressed at most {_DENSE}-fold", got, "write it with numpy.savez")
    return shape, dtype


def _size(path: str) -> int:
    return os.path.getsize(located(path))


def _check_types(path: str, headers: dict[str, Header]) -> None:
    types = {name: dtype for name, (_, dtype) in headers.items()}
    for name, dtype in types.items():
        kinds, words = ("iu", "integers") if name == "node" else ("biuf", "real numbers or integers")
        if dtype.kind not in kinds:
            fail(path, f"{words} in {name}", str(dtype), f"convert {name} to {words}")
    if "test_targets" in types and (types["targets"].kind == "f") != (types["test_targets"].kind == "f"):
        got = f"{types['targets']} and {types['test_targets']}"
        fail(path, "labels or real targets in both targets and test_targets", got, "store both as one type")


def _check_shapes(path: str, shapes: dict[str, tuple[int, ...]], labelled: bool) -> None:
    for name, shape in shapes.items():
        most = 1 if name == "node" else 2 if name.endswith("targets") and not labelled else math.inf
        if not 1 <= len(shape) <= most:
            fail(path, f"one row for each sample in {name}", f"shape {shape}", f"reshape {name}, samples first")
        if 0 in shape:
            fail(path, f"at least one number in {name}", f"shape {shape}", "give samples")
        first = "test_features" if name.startswith("test_") else "features"
        if shape[0] != shapes[first][0]:
            got = f"{shape[0]} and {shapes[first][0]}"
            fail(path, f"as many rows in {name} as in {first}", got, "give one entry for each sample")
    for name in _REQUIRED:
        if "test_features" in shapes and shapes[name][1:] != shapes[f"test_{name}"][1:]:
            got = f"{shapes[name][1:]} and {shapes[f'test_{name}'][1:]}"
            fail(path, f"samples of one shape in {name} and test_{name}", got, "reshape one of them")
    if "test_features" not in shapes and shapes["features"][0] < 2:
        fail(path, "at least 2 rows, one to test on", "1", "give more samples, or test_features and test_targets")


# ----------------------------------------------------------------------------------------------------------- arrays


def array(path: str, archive: zipfile.ZipFile | NpyFolder, name: str) -> np.ndarray:
    """Returns an array whose header is known to be good.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except MemoryError:
        raise
    except Exception:  # as above
        fail(path, "readable arrays", f"damaged data of {shown(name)}", "write the file again")


def _first(path: str) -> np.ndarray:
    """Returns the first sample's features [1, ...]."""
    with _archive(path) as archive:
        try:
            with archive.open("features.npy") as file:
                shape, is_turned, dtype = HEADERS[np.lib.format.read_magic(file)](file)
                if not is_turned:  # the samples lie one after the other
                    count = math.prod(shape[1:])
                    return np.frombuffer(file.read(count * dtype.itemsize), dtype, count).reshape(1, *shape[1:])
        except Exception:  # as above
            fail(path, "readable arrays", "damaged data of 'features'", "write the file again")
        return array(path, archive, "features")[:1]


def _real(path: str, name: str, array: np.ndarray) -> np.ndarray:
    """Returns features, or targets of a regression, as reals [S, ...]."""
    real = np.float32 if np.can_cast(array.dtype, np.float32) else np.float64
    flat = array.ndim == 1 or name.endswith("targets")
    with np.errstate(over="ignore"):  # beyond float64: infinite, which is reported as such
        return np.ascontiguousarray(array.reshape(len(array), -1) if flat else array, dtype=real)


def _whole(path: str, name: str, array: np.ndarray) -> np.ndarray:
    """Returns features that stay integers [S, ...], labels [S] or [S, ...], or nodes [S], as int64."""
    fix = "use features_as=real" if name.endswith("features") else "number them 0, 1, 2, ..."
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        fail(path, f"entries of {name} below 2^63", str(array.max()), fix)
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            wrong = np.flatnonzero((array != np.rint(array)) | ~(np.abs(array) < 2.0**63))
        if wrong.size:
            got = f"{array.flat[wrong[0]]:g} ({wrong.size} of {array.size})"
            fail(path, f"whole numbers in {name} with classes=true", got, "use classes=false for a regression")
    if name.endswith("features"):
        return np.ascontiguousarray(array.reshape(len(array), -1) if array.ndim == 1 else array, dtype=np.int64)
    return array.reshape(len(array) if array.size == len(array) else array.shape).astype(np.int64)


def _classes(path: str, labels: list[np.ndarray]) -> int:
    """Returns the number of labels in some arrays, the first of which are those of the training rows."""
    most = max(int(part.max()) for part in labels)
    if most < 0:
        fail(path, "labels 0, 1, 2, ... in targets", f"{most} as the largest", "number the labels from 0")
    if most >= LARGEST:
        fail(path, f"labels below {LARGEST:,} in targets", str(most), "number the labels 0, 1, 2, ...")
    return most + 1


def _check_nodes(path: str, node: np.ndarray, n: int) -> None:
    wrong = np.flatnonzero((node < 0) | (node >= n))
    if wrong.size:
        got = f"{node[wrong[0]]} at row {wrong[0]} ({wrong.size} of {len(node)} rows)"
        fix = f"number the nodes 0, 1, 2, ..., or set network.nodes to {max(int(node.max()) + 1, 1)}"
        fail(path, f"nodes from 0 to {n - 1} in node (network.nodes is {n})", got, fix)
