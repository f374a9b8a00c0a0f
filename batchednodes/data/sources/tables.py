"""Tables in files: text with separated values, and Parquet."""

import csv
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
from jaxtyping import Int64

from batchednodes.data.paths import check_file
from batchednodes.data.sources.base import Classes, Dataset, DataSizes, FeaturesAs, Source, refuse_standardized
from batchednodes.data.sources.holdout import Standardize, check_holdout, dataset
from batchednodes.data.sources.optional import extra
from batchednodes.data.sources.table_columns import COLUMNS, Frame, Roles, Table, is_integer, table_rows, table_sizes
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.quiet import filtered
from batchednodes.numerics.values import shown

if TYPE_CHECKING:
    import pandas
else:
    pandas = deferred("pandas")

_LINE = 16 << 20
"""The longest first line that is read [B]."""

_CELLS = 1 << 22
"""Cells that are read at once to see whether they are integers."""

_INTEGERS = ("int16", "int32", "int64", "uint16", "uint32")
"""Names of Arrow for what stays integers; see `is_integer`."""

_DENSE, _LOOSE = 100, 1 << 28
"""The most by which a Parquet file may have been compressed, and the bytes [B] from which this counts."""


@dataclass(frozen=True)
class Csv(Source):
    """A table in a text file: a sample a line, numbers separated by commas, one column of them learned.

    Targets that are integers or texts are names of classes, numbered in their sorted order; real numbers make a
    regression. Features are numbers; a cell that is empty, or not finite, is refused by row and column.

    Example:
        >>> import pandas as pd
        >>> from batchednodes.data import Csv
        >>> pets = pd.DataFrame({"length": [1.5, 0.5, 1.75, 0.25], "kind": ["cat", "mouse", "cat", "mouse"]})
        >>> pets.to_csv("pets.csv", index=False)
        >>> data = Csv("pets.csv", target="kind", test_fraction=0.25).load(1, seed=0)
        >>> sorted(zip(data.features[:, 0].tolist(), data.targets.tolist()))  # cats are 0, mice 1; one row is held out
        [(0.5, 1), (1.5, 0), (1.75, 0)]
    """

    path: str
    """The file, in UTF-8; a relative path starts at the working directory."""

    target: str = "last"
    """The column that is learned: its name in the first line, else its index as text ("0" is the first), or `first` or
    `last`."""

    header: bool | Literal["auto"] = "auto"
    """Whether the first line names the columns; `auto`: where it has no number; where some cells are numbers
    and one is a text above a number, either must be said."""

    separator: str = ","
    """What stands between two cells: one character; a space means any number of spaces and tabs."""

    ignore: tuple[str, ...] = ()
    """Columns that are not read, as names or indices."""

    node: str | None = None
    """Column that says who owns each row, as name or index: its values, sorted, are nodes 0, 1, ...; null: nobody."""

    classes: Classes = "auto"
    """Whether targets are names of classes; `auto`: integers and texts are, real numbers are not."""

    test_path: str | None = None
    """A second file of the same form, whose rows are tested on; null: a part of the first."""

    test_fraction: float = 0.2
    """Share of the rows held out for testing where `test_path` is null, in proportion for each node or label
    [dimensionless]; between 0 and 1."""

    test_seed: int | None = None
    """Seed of the draw of those rows; in [0, 2^63); null: that of the network."""

    standardize: Standardize = "none"
    """Rows over which features are shifted and scaled to mean 0 and standard deviation 1: `none`, the training rows
    (`train`), or `all`."""

    features_as: FeaturesAs = "auto"
    """What features are to be: `real`; `integers`, which a module of your own gets as int64; `auto`: integers where
    all columns are integers and none is standardised. A module that takes no integers, and models that come with
    batchednodes, get reals all the same."""

    def __post_init__(self) -> None:
        check_holdout(self.test_fraction, self.test_seed, self.test_path, "test_path")
        _check_integers(self.features_as, self.standardize)
        if len(self.separator) != 1 or self.separator in '"\r\n\0' or not self.separator.isascii():
            raise ValueError(f'separator must be one ASCII character, as "," or "\\t", got {shown(self.separator)}')

    def sizes(self, n: int) -> DataSizes:
        """Returns the sizes; of the files, only the target is kept."""
        return table_sizes(self._tables(), self._roles(), self.test_fraction)

    def load(self, n: int, seed: int) -> Dataset:
        rows, *test = table_rows(self._tables(), self._roles())
        chosen = seed if self.test_seed is None else self.test_seed
        return dataset(rows, test[0] if test else None, self.test_fraction, chosen, self.standardize)

    def _roles(self) -> Roles:
        return Roles(self.target, self.ignore, self.node, self.classes, _rule(self.features_as, self.standardize))

    def demands_integers(self) -> bool:
        return self.features_as == "integers"

    def _tables(self) -> list[Table]:
        first = _text(self.path, "path", self.separator, self.header)
        if self.test_path is None:
            return [first]
        return [first, _text(self.test_path, "test_path", self.separator, self.header)]


@dataclass(frozen=True)
class Parquet(Source):
    """A table in a Parquet file: a sample a row, columns of numbers, one column learned; needs `batchednodes[parquet]`.

    Targets that are integers or texts are names of classes, numbered in their sorted order; real numbers make a
    regression. Features are numbers; a cell that is empty, or not finite, is refused by row and column.

    Example:
        >>> import pandas as pd
        >>> from batchednodes.data import Parquet
        >>> pd.DataFrame({"length": [1.5, 0.5, 1.75], "kind": ["cat", "mouse", "cat"]}).to_parquet("pets.parquet")
        >>> sizes = Parquet("pets.parquet", target="kind").sizes(2)
        >>> sizes.features, sizes.outputs
        ((1,), 2)
    """

    path: str
    """The file; a relative path starts at the working directory."""

    target: str = "last"
    """The column that is learned: its name, else its index as text ("0" is the first), or `first` or `last`."""

    ignore: tuple[str, ...] = ()
    """Columns that are not read, as names or indices."""

    node: str | None = None
    """Column that says who owns each row, as name or index: its values, sorted, are nodes 0, 1, ...; null: nobody."""

    classes: Classes = "auto"
    """Whether targets are names of classes; `auto`: integers and texts are, real numbers are not."""

    test_path: str | None = None
    """A second file of the same columns, whose rows are tested on; null: a part of the first."""

    test_fraction: float = 0.2
    """Share of the rows held out for testing where `test_path` is null, in proportion for each node or label
    [dimensionless]; between 0 and 1."""

    test_seed: int | None = None
    """Seed of the draw of those rows; in [0, 2^63); null: that of the network."""

    standardize: Standardize = "none"
    """Rows over which features are shifted and scaled to mean 0 and standard deviation 1: `none`, the training rows
    (`train`), or `all`."""

    features_as: FeaturesAs = "auto"
    """What features are to be: `real`; `integers`, which a module of your own gets as int64; `auto`: integers where
    all columns are integers of 16 bits or more and none is standardised. A module that takes no integers, and models
    that come with batchednodes, get reals all the same."""

    def __post_init__(self) -> None:
        check_holdout(self.test_fraction, self.test_seed, self.test_path, "test_path")
        _check_integers(self.features_as, self.standardize)

    def sizes(self, n: int) -> DataSizes:
        """Returns the sizes; of the files, only the target is read."""
        return table_sizes(self._tables(), self._roles(), self.test_fraction)

    def load(self, n: int, seed: int) -> Dataset:
        rows, *test = table_rows(self._tables(), self._roles())
        chosen = seed if self.test_seed is None else self.test_seed
        return dataset(rows, test[0] if test else None, self.test_fraction, chosen, self.standardize)

    def _roles(self) -> Roles:
        return Roles(self.target, self.ignore, self.node, self.classes, _rule(self.features_as, self.standardize))

    def demands_integers(self) -> bool:
        return self.features_as == "integers"

    def _tables(self) -> list[Table]:
        given = {"path": self.path, "test_path": self.test_path}
        return [_parquet(path, key) for key, path in given.items() if path is not None]


def _check_integers(rule: FeaturesAs, standardize: Standardize) -> None:
    if rule == "integers":
        refuse_standardized(standardize)


def _rule(rule: FeaturesAs, standardize: Standardize) -> FeaturesAs:
    """Returns what features are to be where they may be standardised."""
    return "real" if rule == "auto" and standardize != "none" else rule


# ------------------------------------------------------------------------------------------------------------- text


def _text(path: str, key: str, separator: str, header: bool | Literal["auto"]) -> Table:
    """Returns the table of a text file, of which the first lines are read."""
    check_file(path, "text", key)
    skipped, lines = _first_lines(path, key)
    cells = [_cells(line, separator, path, key) for line in lines]
    named = _is_header(cells, path) if header == "auto" else header
    names = cells[0] if named else [str(k) for k in range(len(cells[0]))]
    if len(names) > COLUMNS:
        got = f"{len(names):,} in {shown(path)}"
        raise ValueError(f"{key} must hold at most {COLUMNS:,} columns, got {got}; use kind npz for wide data")
    form = _Form(path, key, separator, skipped + named, len(names))
    return Table(names, path, key, form.read, form.integers)


def _first_lines(path: str, key: str) -> tuple[int, list[str]]:
    """Returns how many blank lines a file begins with, and up to two lines after them."""
    skipped, found = 0, list[str]()
    try:
        with open(path, encoding="utf-8-sig", newline=None) as file:
            while len(found) < 2 and (line := file.readline(_LINE)):
                if line.strip():
                    found.append(line)
                elif not found:
                    skipped += 1
    except UnicodeDecodeError:
        raise ValueError(f"{key} must be a text file in UTF-8, got {shown(path)}, which is not") from None
    if not found:
        raise ValueError(f"{key} must hold a table, got {shown(path)}, which is empty")
    if len(found[0]) >= _LINE:
        raise ValueError(f"{key} must hold lines of less than {_LINE >> 20} MiB, got a longer one in {shown(path)}")
    return skipped, found


def _cells(line: str, separator: str, path: str, key: str) -> list[str]:
    if separator == " ":
        return line.split()
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
    except csv.Error as error:
        raise ValueError(f"{key} must hold lines of cells, got {shown(path)}, whose first has none: {error}") from None


def _is_header(lines: list[list[str]], path: str) -> bool:
    """Returns whether the first of some lines names the columns."""
    number = [[_is_number(cell) for cell in cells] for cells in lines]
    if not any(number[0]):
        return True
    below = number[1] if len(number) > 1 else []
    mixed = next((k for k, pair in enumerate(zip(*number, strict=False)) if pair == (False, True)), None)
    if below and mixed is not None:
        got = f"auto and the first lines of {shown(path)}, {shown(lines[0][mixed])} above {shown(lines[1][mixed])}"
        raise ValueError(f"header must be true or false where the first line may be either, got {got}")
    return False


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class _Form:
    """How a text file is read."""

    path: str
    key: str
    separator: str
    skipped: int
    width: int

    def read(self, places: list[int] | None) -> Frame:
        """Returns the columns at some places; None: all."""
        frame = self._read(places, None, lambda frame: frame)
        read = range(self.width) if places is None else sorted(places)
        return {place: column for place, (_, column) in zip(read, frame.items(), strict=True)}

    def integers(self, places: list[int]) -> Int64[np.ndarray, " d"] | None:
        """Returns the first row of columns that all hold integers, else None; reads no further than to what is none."""
        return self._read(places, max(1, _CELLS // len(places)), _first)

    def _read(self, places: list[int] | None, rows: int | None, work: Callable[[Any], Any]) -> Any:
        """Returns what some work makes of the columns at some places.

        Args:
            places: None: all.
            rows: that are read at once, of which the work gets one frame after the other; None: all, in one frame.
            work: done before the file is closed.
        """
        separator = r"\s+" if self.separator == " " else self.separator
        read_csv = pandas.read_csv  # imports pandas, whose own warnings are no fault of the file's
        try:
            with open(self.path, "rb") as file, filtered("error"):
                found = read_csv(
                    file,
                    sep=separator,
                    header=None,
                    names=list(range(self.width)),
                    usecols=places,
                    index_col=False,
                    skiprows=self.skipped,
                    na_filter=False,
                    skipinitialspace=True,
                    low_memory=False,
                    chunksize=rows,
                )
                return work(found)
        except UnicodeDecodeError:
            raise ValueError(f"{self.key} must be a text file in UTF-8, got {shown(self.path)}, which is not") from None
        except Exception as error:  # whatever a damaged file makes the reader raise
            self._refuse(error)

    def _refuse(self, error: Exception) -> NoReturn:
        reason = " ".join(str(error).replace("Error tokenizing data. C error:", "").split())
        if isinstance(error, MemoryError) or "out of memory" in reason:
            raise MemoryError(reason) from None
        if isinstance(error, Warning):  # pandas would leave cells out
            reason = "more cells in the lines below"
        raise ValueError(
            f"{self.key} must hold lines of {self.width} cells, as its first, got {reason[:200]} in {shown(self.path)}"
        ) from None


def _first(parts: "Iterable[pandas.DataFrame]") -> Int64[np.ndarray, " d"] | None:
    """Returns the first row of some parts of a table, if they hold integers that stay so; else None."""
    first = None
    for part in parts:
        if not all(is_integer(kind) for kind in part.dtypes):
            return None
        first = part.iloc[0].to_numpy(np.int64) if first is None else first
    return first


# ---------------------------------------------------------------------------------------------------------- parquet


def _parquet(path: str, key: str) -> Table:
    """Returns the table of a Parquet file, of which the schema is read."""
    check_file(path, "Parquet", key)
    parquet = extra("pyarrow.parquet", "parquet", "parquet")
    try:
        file = parquet.ParquetFile(path)
        names, rows = list(file.schema_arrow.names), file.metadata.num_rows
    except Exception:  # as above
        raise ValueError(f"{key} must be a Parquet file, got {shown(path)}, which is damaged or none") from None
    size = 8 * rows * len(names)
    if len(names) > COLUMNS or len(set(names)) < len(names):
        raise ValueError(
            f"{key} must hold at most {COLUMNS:,} columns, each with its own name, got {len(names):,} with "
            f"{len(set(names)):,} names in {shown(path)}"
        )
    if size > max(_LOOSE, _DENSE * os.path.getsize(path)):
        got = f"{size >> 20} MiB in {os.path.getsize(path) >> 10} KiB in {shown(path)}"
        raise ValueError(f"{key} must hold numbers compressed at most {_DENSE}-fold, got {got}; use kind npz")

    def read(places: list[int] | None) -> Frame:
        chosen = range(len(names)) if places is None else places
        try:
            frame = file.read(columns=[names[place] for place in chosen]).to_pandas(ignore_metadata=True)
        except MemoryError:
            raise
        except Exception:  # as above
            raise ValueError(f"{key} must hold readable columns, got {shown(path)}, which is damaged") from None
        return {place: frame[names[place]] for place in chosen}

    def integers(places: list[int]) -> Int64[np.ndarray, " d"] | None:
        if not all(str(file.schema_arrow.field(place).type) in _INTEGERS for place in places):
            return None
        try:
            batch = next(file.iter_batches(1, columns=[names[place] for place in places]))
            row = batch.to_pandas(ignore_metadata=True)
        except Exception:  # as above; and empty cells
            return None
        return _first([row[[names[place] for place in places]]])

    return Table(names, path, key, read, integers)
