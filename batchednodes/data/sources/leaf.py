r"""Data of LEAF: JSON files in which each user has samples of its own, so that each user is a node.

Notation: u users, m samples of one user, c channels, h height, w width.

Reference:
    S. Caldas et al., "LEAF: a benchmark for federated settings", arXiv 1812.01097, 2018.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from batchednodes.data.paths import check_folder, check_member
from batchednodes.data.sources.base import Classes, Dataset, DataSizes, FeaturesAs, Source, check_rows, stay_integers
from batchednodes.data.sources.holdout import Rows, Standardize, check_holdout, dataset, held_out
from batchednodes.data.sources.images import EXTENSIONS, Frame, Size, check_frame, frame_of
from batchednodes.data.sources.labels import unseen
from batchednodes.data.sources.table_columns import Learned
from batchednodes.data.sources.users import Users, check_users, nodes_of
from batchednodes.data.sources.words import COMMON, Vocabulary, Words
from batchednodes.numerics.values import shown

_FORM = '{"users": [...], "user_data": {user: {"x": [...], "y": [...]}}}'

T = TypeVar("T")

People = dict[str, dict[str, np.ndarray]]
"""Name of a user -> samples x [m, ...] and targets y [m, ...], as the files hold them."""


@dataclass(frozen=True)
class Leaf(Source):
    """Data that LEAF's scripts wrote: users with samples of their own, who are the nodes.

    Samples are numbers (FEMNIST, synthetic), texts of one length, whose letters become their places in the sorted
    alphabet of all files (Shakespeare), names of images (CelebA), or texts whose words become their numbers in a
    vocabulary: tweets, cut or filled up to 25 words (Sent140), and sequences of ten words of comments (Reddit). Targets
    are integers, which are labels; real numbers; letters of that alphabet; or the next words of each sequence. Test
    rows are those of the users that are nodes; where none of these has any, since users were split, all of them.

    Example:
        >>> import json, os
        >>> from batchednodes.data import Leaf
        >>> os.makedirs("femnist/train")
        >>> data = {name: {"x": [[0.5, 1.0]] * 4, "y": [0, 1, 0, 1]} for name in ("ann", "bob", "eve")}
        >>> with open("femnist/train/all.json", "w") as file:
        ...     json.dump({"users": [*data], "num_samples": [4, 4, 4], "user_data": data}, file)
        ...
        >>> os.rename("femnist/train", "femnist-all")  # without folders train and test, rows are held out
        >>> sizes = Leaf("femnist-all", test_fraction=0.25).sizes(2)  # two of the three users
        >>> sizes.samples, sizes.test_samples, sizes.features, sizes.outputs
        (6, 2, (2,), 2)
    """

    path: str
    """Folder with the folders `train` and `test` of JSON files, or with such files; a relative path starts at the
    working directory."""

    users: Users = "first"
    """Which users with training rows are nodes, where there are more than `network.nodes`: the `first` in the files,
    some that are `sampled`, or all, `merged` into groups."""

    users_seed: int | None = None
    """Seed of the draw of sampled users, in [0, 2^63); null: 0. All replicas have the same."""

    images: str | None = None
    """Folder of the images that samples name; null: they name none."""

    size: Size = None
    """[height, width] to which all images are scaled, bilinearly; null: all have the size of the first."""

    channels: int | None = None
    """1 (grey) or 3 (red, green, blue), to which all images are converted; null: those of the first."""

    words: int | None = None
    """Numbers of words at most: 0 is padding, 1 any other word, from 2 on the most common ones in the training files of
    all users; at least 3; null: 10,000, where samples are texts of words."""

    vocabulary: str | None = None
    """JSON file {"vocab": ["word", ...]}, as LEAF's `embs.json`, whose words have their places as numbers, padding and
    all other words the next one; null: `words` says which have."""

    classes: Classes = "auto"
    """Whether targets are labels 0, 1, ...; `auto`: integers are, real numbers are not."""

    test_fraction: float = 0.2
    """Share of the rows held out for testing where there is no folder `test`, in proportion for each node
    [dimensionless]; between 0 and 1."""

    test_seed: int | None = None
    """Seed of the draw of those rows; in [0, 2^63); null: that of the network."""

    standardize: Standardize = "none"
    """Rows over which features are shifted and scaled to mean 0 and standard deviation 1: `none`, the training rows
    (`train`), or `all`; those of images by channel."""

    features_as: FeaturesAs = "auto"
    """What features are to be: `real`; `integers`, which a module of your own gets as int64; `auto`: integers, as
    letters are, stay integers. A module that takes no integers, and models that come with batchednodes, get reals all
    the same."""

    def __post_init__(self) -> None:
        check_holdout(self.test_fraction, self.test_seed, None, "path")
        check_users(self.users, self.users_seed)
        check_frame(self.size, self.channels)
        if self.words is not None and self.words < 3:
            raise ValueError(f"words must be at least 3, got {self.words}")
        if self.words is not None and self.vocabulary is not None:
            raise ValueError(f"words must be left out where vocabulary names a file, got {self.words}")
        for key in [key for key in ("size", "channels") if self.images is None and getattr(self, key) is not None]:
            raise ValueError(f"{key} must be null where images names no folder, got {shown(getattr(self, key))}")

    def demands_integers(self) -> bool:
        return self.features_as == "integers"

    def sizes(self, n: int) -> DataSizes:
        """Returns the sizes; the files are read."""
        rows, *test = self._rows(n)
        samples, integers = len(rows.features), rows.features.dtype.kind == "i"
        tested = len(test[0].features) if test else held_out(samples, self.test_fraction)
        values = [part.targets for part in (rows, *test)]
        notes = () if rows.classes is None or values[0].ndim > 1 else unseen(values, "path")
        learned, first = Learned(values, rows.classes, notes), rows.features[0] if integers else None
        train = samples if test else samples - tested
        return learned.sizes(train, tested, rows.features.shape[1:], integers, first)

    def load(self, n: int, seed: int) -> Dataset:
        rows, *test = self._rows(n)
        chosen = seed if self.test_seed is None else self.test_seed
        return dataset(rows, test[0] if test else None, self.test_fraction, chosen, self.standardize)

    def _rows(self, n: int) -> list[Rows]:
        """Returns the training rows of n nodes and, where these are given, their test rows."""
        check_folder(self.path, "folder of LEAF", "path")
        folders = [os.path.join(self.path, name) for name in ("train", "test")]
        words = Words()
        parts = [_people(folder, words) for folder in folders if os.path.isdir(folder)] or [_people(self.path, words)]
        listed = self._numbered(parts, words)
        node = dict(zip(parts[0], nodes_of(self.users, len(parts[0]), n, self.users_seed).tolist(), strict=True))
        kept = [[user for user in part if node.get(user, -1) >= 0] for part in parts]
        if len(parts) > 1 and not kept[1]:  # users were split: those of the test rows train nowhere
            kept[1] = [*parts[1]]
        letters, frame = self._letters(parts), self._frame(parts[0])
        y, classes = self._targets(parts, kept, letters, listed)
        made = list[Rows]()
        for part, users, targets in zip(parts, kept, y, strict=True):
            x = self._features(_joined(part, users, "x"), letters, frame)
            try:
                check_rows(x, targets, classes)
            except ValueError as error:
                raise ValueError(f"path must hold usable data, got {shown(self.path)}, where {error}") from None
            owner = np.repeat([node.get(user, -1) for user in users], [len(part[user]["y"]) for user in users])
            made.append(Rows(x, targets, classes, owner))
        return made

    def _numbered(self, parts: list[People], words: Words) -> Vocabulary | None:
        """Puts the numbers of words in place of their places; returns which these are, None where there are no words.

        Raises:
            ValueError: some samples are texts of words and others are not, or settings of words are given without any.
        """
        if not words.places:
            for key in [key for key in ("words", "vocabulary") if getattr(self, key) is not None]:
                got = f"{shown(getattr(self, key))} for others in {shown(self.path)}"
                raise ValueError(f"{key} must be left out where samples are no texts of words, got {got}")
            return None
        people = [one for part in parts for one in part.values()]
        lengths = {one["x"].shape[1:] for one in people}
        if words.users < len(people) or len(lengths) > 1 or len({one["y"].ndim for one in people}) > 1:
            raise ValueError(f"path must hold texts of words of one kind and length, got others in {shown(self.path)}")
        texts = (one["x"] for one in parts[0].values())
        found = Vocabulary.of(words, texts, self.vocabulary, self.words or COMMON)
        for one in people:
            one["x"] = found.number[one["x"]]
            one["y"] = found.number[one["y"]] if one["y"].ndim > 1 else one["y"]
        return found

    def _letters(self, parts: list[People]) -> Int64[np.ndarray, " letters"] | None:
        """Returns the letters of all texts, in their order; None where samples are no texts."""
        first = next(iter(parts[0].values()))["x"]
        if first.dtype.kind != "U" or self.images is not None:
            return None
        texts = [
            one[key] for part in parts for one in part.values() for key in ("x", "y") if one[key].dtype.kind == "U"
        ]
        if str(first[0]).lower().endswith(EXTENSIONS):
            raise ValueError(
                f"images must be the folder of the images that samples name, got null with {str(first[0])!r}"
            )
        return np.unique(np.concatenate([np.unique(_codes("".join(text))) for text in texts]))

    def _frame(self, part: People) -> Frame | None:
        """Returns what all images are brought to; None where samples name none."""
        if self.images is None:
            return None
        check_folder(self.images, "folder of images", "images")
        first = os.path.join(self.images, str(next(iter(part.values()))["x"][0]))
        return self._image(first, lambda: frame_of(first, self.size, self.channels))

    def _image(self, file: str, work: Callable[[], T]) -> T:
        """Returns what some work on an image gives; its message, if it fails, names the file."""
        try:
            check_member(file, "images")
            return work()
        except ValueError as error:
            raise ValueError(f"images must hold images alike, got {shown(file)}, with {error}") from None

    def _features(self, x: np.ndarray, letters: np.ndarray | None, frame: Frame | None) -> np.ndarray:
        """Returns the features of some users' samples."""
        if frame is not None:
            files = [os.path.join(self.images or "", str(name)) for name in x]
            return np.stack([self._image(file, partial(frame.pixels, file)) for file in files])
        if letters is not None:
            lengths = np.char.str_len(x)
            if (lengths != lengths[0]).any():
                fix = "pad or cut them, or write features as numbers into an .npz file"
                raise ValueError(f"path must hold texts of one length, got {lengths.min()} to {lengths.max()}: {fix}")
            x = np.searchsorted(letters, _codes("".join(x)).reshape(len(x), -1))
        if x.dtype.kind not in "iuf":
            raise ValueError(f"path must hold samples of numbers or texts, got {x.dtype} in {shown(self.path)}")
        stays = stay_integers(self.features_as, x.dtype, self.standardize)
        return x.reshape(len(x), *(x.shape[1:] or (1,))).astype(np.int64 if stays else np.float64)

    def _targets(
        self, parts: list[People], kept: list[list[str]], letters: np.ndarray | None, words: Vocabulary | None
    ) -> tuple[list[np.ndarray], int | None]:
        """Returns the targets of the users that are kept, and how many labels all users have; None: they are real."""
        whole = [_joined(part, [*part], "y") for part in parts]
        some = [_joined(part, users, "y") for part, users in zip(parts, kept, strict=True)]
        if words is not None and whole[0].ndim > 1:
            return some, words.size
        kinds = {y.dtype.kind for y in whole}
        if kinds == {"U"}:
            if letters is not None and all((np.char.str_len(y) == 1).all() for y in whole):
                return [np.searchsorted(letters, _codes("".join(y))) for y in some], len(letters)
            names = np.unique(np.concatenate(whole))
            return [np.searchsorted(names, y) for y in some], len(names)
        if not kinds <= {"i", "u", "f"}:
            raise ValueError(f"path must hold targets that are numbers or texts, got others in {shown(self.path)}")
        if self.classes is False or (self.classes == "auto" and "f" in kinds):
            return [y.reshape(len(y), -1).astype(np.float64) for y in some], None
        if any((y != np.rint(y)).any() for y in whole):
            raise ValueError(f"path must hold whole targets with classes=true, got others in {shown(self.path)}")
        return [y.astype(np.int64) for y in some], 1 + max(int(y.max()) for y in whole)


# ------------------------------------------------------------------------------------------------------------ files


def _people(folder: str, words: Words) -> People:
    """Returns the samples of all users with any, in the order of the files' names and of users in them."""
    files = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    if not files:
        raise ValueError(f"path must hold .json files of LEAF, {_FORM}, got none in {shown(folder)}")
    found: People = {}
    for name in files:
        file = os.path.join(folder, name)
        check_member(file, "path")
        for user, one in _users(file, words):
            if user in found:
                raise ValueError(f"path must hold each user once, got {shown(user)} twice in {shown(folder)}")
            if len(one["y"]):
                found[user] = one
    if not found:
        raise ValueError(f"path must hold users with samples, got none in {shown(folder)}")
    return found


def _users(file: str, words: Words) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields name and samples of each user of a file; of texts of words the places of these."""
    try:
        with open(file, encoding="utf-8") as text:
            data = json.load(text)
        pairs = [(str(user), data["user_data"][user]) for user in data["users"]]
        pairs = [(user, {key: one[key] for key in ("x", "y")}) for user, one in pairs]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ValueError(f"path must hold JSON files {_FORM}, got {shown(file)}: {reason}") from None
    for user, one in pairs:
        try:
            texts = words.read(one)
        except (ValueError, TypeError) as error:
            got = f"{error}, of user {shown(user)} in {shown(file)}"
            raise ValueError(f"path must hold sequences of as many words, got {got}") from None
        try:
            arrays = texts or {key: np.array(values) for key, values in one.items()}
        except ValueError:  # rows of several lengths
            arrays = {key: np.array(None) for key in one}
        shapes = {array.shape[:1] for array in arrays.values()}
        if len(shapes) > 1 or () in shapes:
            got = f"others of user {shown(user)} in {shown(file)}"
            raise ValueError(f"path must hold as many samples of one shape in x as targets in y, got {got}")
        yield user, arrays


def _joined(part: People, users: list[str], key: str) -> np.ndarray:
    """Returns the samples, or the targets, of some users, one after the other."""
    arrays = [part[user][key] for user in users]
    for user, one in zip(users, arrays, strict=True):
        if one.shape[1:] != arrays[0].shape[1:] or (one.dtype.kind == "U") != (arrays[0].dtype.kind == "U"):
            got = f"{_said(arrays[0])} of user {shown(users[0])} and {_said(one)} of {shown(user)}"
            raise ValueError(f"path must hold {key} of one shape and kind, got {got}")
    return np.concatenate(arrays)


def _said(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {list(array.shape[1:])}"


def _codes(text: str) -> np.ndarray:
    """Returns the numbers of letters in Unicode."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
