"""Record: what a run appends to while it goes on: rows of metrics, and the same as curves of TensorBoard."""

import hashlib
import itertools
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch.utils.tensorboard.summary import hparams

from batchednodes.numerics.values import shown
from batchednodes.results.checkpoints.header import check_metrics
from batchednodes.results.folder import curves
from batchednodes.results.folder.inside import BorderError, Inside
from batchednodes.results.folder.paths import ALONE, ISOLATED, METRICS
from batchednodes.results.folder.plain_json import parsed
from batchednodes.results.folder.tensorboard import Board
from batchednodes.results.metrics import catalogue
from batchednodes.results.metrics.catalogue import Metric
from batchednodes.results.metrics.observed import Observation

_TAGS = catalogue.tags()
"""Key of metrics.jsonl (or of the throughput) and its curve."""

_NEEDED = ("network", "time", "n", "updates")
"""Keys of a row of metrics from which a run that goes on computes."""


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
        metrics: tuple[int, str] = (0, ""),
        own: Sequence[Metric] = (),
    ) -> "RunLogs":
        """Opens the record of a run where it left off; what was recorded later is cut off.

        Args:
            folder: of the run.
            labels: folder of each network's curves inside it; "" is the folder itself.
            config: settings to show in TensorBoard; None: they are there.
            metrics: length [B] and checksum of what metrics.jsonl must begin with.
            own: metrics of the user's own.

        Raises:
            ValueError: metrics.jsonl begins with something else, or leads out of the folder.
        """
        digest = hashlib.sha256(check_metrics(folder, metrics))
        record = RunLogs(folder, (), metrics[0], digest, _TAGS | {one.key: one.tag for one in own if one.tag})
        record._cut()
        rows = record.rows() if labels else []
        after = curves.step(rows[-1]["time"]) + 1 if rows else 0  # TensorBoard drops what it knows from there on
        with record._curves():
            for label in labels:
                record.boards += (Board(folder / label, after),)
            for row in rows:
                if 0 <= row["network"] < len(labels) and curves.update_step(row) >= after:
                    _append(record.boards[row["network"]], curves.by_updates(row), curves.update_step(row))
            told = [] if config is None else curves.settings(config)
            for board in record.boards:
                for part in told:
                    board.add(part, after)
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

    def observe(self, observations: list[Observation], speed: dict[str, float]) -> None:
        """Appends one mark to metrics.jsonl and to TensorBoard, where its step is the simulated time [ms].

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
                row = observation.row
                parts = itertools.chain(curves.scalars(row | speed, self.tags), curves.histograms(observation))
                _append(board, parts, curves.step(row["time"]))
                _append(board, curves.by_updates(row), curves.update_step(row))
            for board in self.boards:
                board.flush()

    def finish(self, summary: dict[str, Any], settings: list[dict[str, Any]]) -> None:
        """Writes TensorBoard's hyperparameters of each network, those that vary, with its final metrics."""
        own = {key: tag for key, tag in self.tags.items() if key not in _TAGS}
        named = {key: _TAGS[key] for key in curves.FINAL} | own
        with self._curves():
            for board, varied, row in zip(
                self.boards, curves.varied(settings), summary["networks"], strict=bool(self.boards)
            ):
                final = {tag: float(row[key]) for key, tag in named.items() if row.get(key) is not None}
                for part in hparams(varied, final):
                    board.add(part)

    def show_isolated(self, labels: list[str]) -> None:
        """Writes curves of the same nodes without gossip, from the rows that their run left, as runs of TensorBoard."""
        place, file = self.folder / ISOLATED, self.folder / ALONE
        if not file.is_file():
            return
        rows = [_row(line) for line in file.read().splitlines()]
        with self._curves(), suppress(FileNotFoundError):
            place.remove_folder(whole=True)  # of a run that has been extended since
        with self._curves():
            boards = [Board(place / label) for label in labels]
            for row in rows:
                board = boards[row["network"]]
                _append(board, curves.scalars(row, self.tags), curves.step(row["time"]))
                _append(board, curves.by_updates(row), curves.update_step(row))
            for board in boards:
                board.close()

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


def _append(board: Board, parts: Iterable[Any], step: int) -> None:
    """Adds parts of a summary as one event, which is far cheaper than many; none, if there are no parts."""
    found = [*parts]
    for part in found[1:]:
        found[0].MergeFrom(part)
    if found:
        board.add(found[0], step)


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
