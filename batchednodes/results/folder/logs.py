"""Record: what a run leaves behind in its folder, files and TensorBoard curves."""

import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.tensorboard.summary import custom_scalars, histogram_raw, hparams, scalar, text

from batchednodes.numerics.values import shown
from batchednodes.results.checkpoints.header import check_metrics
from batchednodes.results.folder.inside import BorderError, Inside
from batchednodes.results.folder.paths import METRICS
from batchednodes.results.folder.plain_json import parsed
from batchednodes.results.folder.tensorboard import Board
from batchednodes.results.metrics import catalogue
from batchednodes.results.metrics.catalogue import Metric
from batchednodes.results.metrics.evaluator import Observation

_TAGS = catalogue.tags()
"""Key of metrics.jsonl (or of the throughput) and its curve."""

_HISTOGRAM = 1e20
"""Larger values are left out of histograms, which show nothing beside them."""

_BUCKETS = 64
"""Buckets of a histogram, at most; TensorBoard shows about 30."""

_LONG, _CELL = 20_000, 1000
"""Characters of a config before and after what TensorBoard leaves out, and of one setting in its table."""

_NEEDED = ("network", "time", "n", "updates")
"""Keys of a row of metrics from which a run that goes on computes."""

_LAYOUT = {
    "batchednodes": {
        title: ["Multiline", [f"^{re.escape(_TAGS[key])}$" for key in keys]]
        for title, keys in catalogue.SCALARS.items()
    }
}
"""Custom scalars of TensorBoard: curves that belong into one chart."""


@dataclass(eq=False)
class RunLogs:
    """The files that one run appends to: metrics.jsonl, and one of TensorBoard for each network."""

    folder: Inside
    boards: tuple[Board, ...]
    """In folders named after their networks; none, if TensorBoard's files could not be written."""
    size: int
    """Length of metrics.jsonl [B]."""
    digest: "hashlib._Hash"
    """Checksum of that part of it."""
    tags: dict[str, str]
    """Key and curve of each metric that has one."""

    @staticmethod
    def open(
        folder: Inside,
        labels: list[str],
        config: str | None,
        mark: int = 0,
        metrics: tuple[int, str] = (0, ""),
        own: Sequence[Metric] = (),
    ) -> "RunLogs":
        """Opens the record of a run where it left off; what was recorded later is cut off.

        Args:
            folder: of the run.
            labels: folder of each network's curves inside it; "" is the folder itself.
            config: settings to show in TensorBoard; None: they are there.
            mark: number of the next mark; TensorBoard drops what it knows of this one and later ones.
            metrics: length [B] and checksum of what metrics.jsonl must begin with.
            own: metrics of the user's own.

        Raises:
            ValueError: metrics.jsonl begins with something else, or leads out of the folder.
        """
        digest = hashlib.sha256(check_metrics(folder, metrics))
        record = RunLogs(folder, (), metrics[0], digest, _TAGS | {one.key: one.tag for one in own if one.tag})
        record._cut()
        with record._curves():
            for label in labels:
                record.boards += (Board(folder / label, mark),)
            shown = text("config", f"```yaml\n{_excerpt(config)}\n```") if config is not None else None
            for board in record.boards if shown is not None else ():
                board.add(shown, mark)
                board.add(custom_scalars(_LAYOUT), mark)
        return record

    def rows(self, last: int | None = None) -> list[dict[str, Any]]:
        """Returns the rows of metrics so far, or the last of them; numbers that were not finite are None."""
        if not self.size:
            return []
        lines = self._file.read(self.size).splitlines()
        try:
            return [_row(line) for line in lines[0 if last is None else -last :]]
        except ValueError as error:
            raise ValueError(f"{self._file} must hold rows of metrics, got one that is damaged: {error}") from None

    @property
    def metrics(self) -> tuple[int, str]:
        """Length [B] and checksum of metrics.jsonl."""
        return self.size, self.digest.hexdigest()

    def observe(self, mark: int, observations: list[Observation], speed: dict[str, float]) -> None:
        """Appends one mark to metrics.jsonl and to TensorBoard, where its step is the number of the mark.

        Raises:
            OSError: metrics.jsonl cannot be written; what it held before is whole.
        """
        rows = [json.dumps(strict(observation.row), allow_nan=False) + "\n" for observation in observations]
        lines = "".join(rows).encode()
        try:
            self._file.write(lines, self.size)
        except OSError as error:
            with suppress(OSError, BorderError):
                self._cut()
            raise OSError(f"{self._file} cannot be written: {error.strerror}") from error
        self.size += len(lines)
        self.digest.update(lines)
        with self._curves():
            for board, observation in zip(self.boards, observations, strict=bool(self.boards)):
                first, *others = _shown(observation, speed, self.tags)
                for part in others:
                    first.MergeFrom(part)  # one event of many values is far cheaper than many events
                board.add(first, mark)
            for board in self.boards:
                board.flush()

    def finish(self, summary: dict[str, Any], settings: list[dict[str, Any]]) -> None:
        """Writes TensorBoard's hyperparameters of each network with its final metrics."""
        named = {key: tag for key, tag in self.tags.items() if not tag.startswith(("progress/", "throughput/"))}
        with self._curves():
            for board, own, row in zip(self.boards, settings, summary["networks"], strict=bool(self.boards)):
                final = {named[k]: float(v) for k, v in row.items() if k in named and v is not None}
                for part in hparams(_flat(own), final):
                    board.add(part)

    def close(self) -> None:
        """Closes the files of TensorBoard."""
        with self._curves():
            for board in self.boards:
                board.close()

    def _cut(self) -> None:
        """Drops what metrics.jsonl holds beyond its length."""
        if self._file.status() is not None:
            self._file.cut(self.size)

    @property
    def _file(self) -> Inside:
        return self.folder / METRICS

    @contextmanager
    def _curves(self) -> Iterator[None]:
        """Goes on without TensorBoard, with a warning, where its files cannot be written."""
        try:
            yield
        except OSError as error:
            boards, self.boards = self.boards, ()
            for board in boards:
                board.abandon()
            warnings.warn(
                f"TensorBoard's files in {self.folder} cannot be written: {error.strerror}; the run goes on without "
                "them, metrics.jsonl has every number",
                stacklevel=3,
            )


def _row(line: bytes) -> dict[str, Any]:
    """Returns a row of metrics of this run.

    Raises:
        ValueError: it is none.
    """
    row: Any = parsed(line)
    row = catalogue.renamed(row) if isinstance(row, dict) else row
    needed = [row.get(key) for key in _NEEDED] if isinstance(row, dict) else [None]
    if not all(type(value) in (int, float) for value in needed) or row["n"] < 1:
        raise ValueError(f"a row of metrics must have numbers {', '.join(_NEEDED)}, got {shown(row)}")
    if not isinstance(row.get("staleness_integral", ""), int | float | None):
        raise ValueError(f"staleness_integral must be a number or null, got {shown(row.get('staleness_integral'))}")
    return row


def _shown(observation: Observation, speed: dict[str, float], tags: dict[str, str]) -> Iterator[Any]:
    """Yields the curves, the histograms over nodes, and those of staleness over sources and over pairs."""
    for key, value in (observation.row | speed).items():
        if key in tags and value is not None:
            yield scalar(tags[key], value)
    spreads, stale = {f"nodes/{name}": values for name, values in observation.over_nodes.items()}, observation.staleness
    if stale is not None:
        spreads |= {"nodes/staleness": stale.of_node, "sources/staleness": stale.of_source}
        yield _of_counts("staleness/pairs", stale.pairs, 1 << stale.shift)
    for tag, values in spreads.items():
        shown = values[np.abs(values) < _HISTOGRAM]
        if shown.size:
            yield _of_values(tag, shown)


def _of_values(tag: str, values: np.ndarray) -> Any:
    """Returns a histogram with buckets of equal width from the smallest to the largest value."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        limits, counts = [low], [values.size]
    else:
        places = ((values - low) / (high - low) * _BUCKETS).astype(np.int64).clip(max=_BUCKETS - 1)
        limits = np.linspace(low, high, _BUCKETS + 1)[1:].tolist()
        counts = np.bincount(places, minlength=_BUCKETS).tolist()
    squares = float(values @ values)
    return histogram_raw(tag, low, high, values.size, float(values.sum()), squares, limits, counts)


def _of_counts(tag: str, counts: np.ndarray, width: int) -> Any:
    """Returns a histogram of the numbers 0, width, 2 width, ... from how often each occurs."""
    numbers = width * np.arange(counts.size, dtype=np.float64)
    step = -(-counts.size // _BUCKETS)
    bars = np.add.reduceat(counts, np.arange(0, counts.size, step)).tolist()
    limits = (width * (step * np.arange(1.0, len(bars) + 1) - 0.5)).tolist()  # halfway between two numbers
    low, high = numbers[counts > 0][[0, -1]].tolist()
    total, squares = float(counts @ numbers), float(counts @ numbers**2)
    return histogram_raw(tag, low, high, int(counts.sum()), total, squares, limits, bars)


def _excerpt(config: str) -> str:
    """Returns settings without the middle of what is too long for a browser."""
    if len(config) <= 2 * _LONG:
        return config
    return f"{config[:_LONG]}\n# ... {len(config) - 2 * _LONG:,} characters are left out ...\n{config[-_LONG:]}"


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str | int | float]:
    """Returns nested settings as one level, "gossip.clock.rate": value, with text for what is not a number."""
    out: dict[str, str | int | float] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value if isinstance(value, bool | int | float) else str(value)[:_CELL]
    return out


def strict(value: Any) -> Any:
    """Returns a JSON value in which each number that is not finite is null: JSON has no word for it.

    Example:
        >>> from batchednodes.results.folder.logs import strict
        >>> strict({"loss_mean": float("nan"), "nodes": 10})
        {'loss_mean': None, 'nodes': 10}
    """
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, list):
        return [strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(file: Inside, content: dict[str, Any]) -> None:
    """Writes a JSON file under another name, then renames it; errors as of `Inside.replace`."""
    file.replace([(json.dumps(strict(content), indent=2, allow_nan=False) + "\n").encode()])
