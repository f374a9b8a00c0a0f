"""Callbacks: who is told of a run while it goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchednodes.config import Config

Row = dict[str, Any]
"""One network at one mark, with the keys of metrics.jsonl."""


@dataclass(frozen=True)
class Begun:
    """A run that begins, or goes on."""

    settings: Config
    """Of the run."""
    networks: dict[str, Config]
    """Settings of each network by its label, "" where there is one; the number of a network is its place here."""
    folder: Path | None
    """Where its files lie; None: it leaves none."""
    rows: Sequence[Row]
    """Those of the marks so far, of a run that goes on; empty at the start."""


class Callback:
    """Is told what happens in a run; derive from it, and define what you want to hear.

    A callback sees the run and cannot change it: results are the same with and without. What it raises ends the run,
    whose folder is left such that `batchednodes.resume` goes on from the last checkpoint.

    Example:
        >>> import batchednodes
        >>> class Printer(batchednodes.Callback):
        ...     def mark(self, rows):
        ...         print(rows[0]["time"], rows[0]["updates"])
        ...
        >>> settings = {"network.nodes": 3, "run.until": 2}
        >>> batchednodes.train(settings, callbacks=[Printer()]).summary["status"]
        0.0 0
        1.0 2
        2.0 4
        'finished'
    """

    def start(self, run: Begun) -> None:
        """Is called before the first event, also of a run that goes on."""

    def mark(self, rows: Sequence[Row]) -> None:
        """Is called at each mark with one row of metrics for each network."""

    def checkpoint(self, time: float, path: Path) -> None:
        """Is called when a checkpoint of the state at a simulated time [s] is made; its file may not be whole yet."""

    def end(self, summary: dict[str, Any]) -> None:
        """Is called at the end with the content of summary.json, also of a run that was interrupted or diverged."""
