"""Loggers: rows of metrics as other tools want them, from `run.loggers`: a CSV file, Weights & Biases, MLflow.

Both services are used offline: their files lie in the run's folder, `wandb sync` sends them, `mlflow ui` shows them.
TensorBoard's files are those of `results.folder.logs`.
"""

import csv
import importlib.util
import io
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from batchednodes import config
from batchednodes.config import Config
from batchednodes.config.sweep import leaves
from batchednodes.numerics.values import shown
from batchednodes.results.callbacks import Begun, Callback, Row
from batchednodes.results.folder.inside import Inside

CSV, MLFLOW = "metrics.csv", "mlflow.db"
"""Files in the folder of a run."""

_NEEDS = {"wandb": "wandb", "mlflow": "mlflow"}
"""Logger -> the package that it needs, and the extra that brings it."""

_LONGEST = 500
"""Characters of a setting that MLflow keeps."""


def check(settings: Config) -> None:
    """Checks that the packages of all loggers are installed.

    Raises:
        ValueError: one is not, or a logger is named twice.
    """
    names = settings.run.loggers
    if len({*names}) < len(names):
        raise ValueError(f"run.loggers must name each logger once, got {shown([*names])}")
    for name in names:
        if name in _NEEDS and importlib.util.find_spec(_NEEDS[name]) is None:
            raise ValueError(
                f"run.loggers must be of packages that are installed, got {name}: pip install 'batchednodes[{name}]'"
            )


def loggers(names: Sequence[str]) -> list[Callback]:
    """Returns what writes for some loggers, but for TensorBoard."""
    made: dict[str, type[Callback]] = {"csv": CsvLogger, "wandb": WandbLogger, "mlflow": MlflowLogger}
    return [made[name]() for name in names if name in made]


def _numbers(row: Row) -> dict[str, float]:
    """Returns the finite numbers of a row."""
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _settings(one: Config) -> dict[str, Any]:
    """Returns settings on one level, by their full keys."""
    return dict(leaves(config.to_dict(one)))


class CsvLogger(Callback):
    """Writes `metrics.csv`, the rows of metrics.jsonl as a table; null is an empty cell."""

    def __init__(self) -> None:
        """Begins when a run does."""
        self.file: Inside | None = None
        self.columns = list[str]()

    def start(self, run: Begun) -> None:
        if run.folder is not None:
            self.file = Inside(run.folder) / CSV
            self.columns = [*run.rows[0]] if run.rows else []
            self._write(lambda file: file.replace([self._lines(run.rows, head=True)]))

    def mark(self, rows: Sequence[Row]) -> None:
        if self.file is not None:
            head, self.columns = not self.columns, self.columns or [*rows[0]]
            self._write(lambda file: file.write(self._lines(rows, head)))

    def _write(self, write: Callable[[Inside], None]) -> None:
        """Writes into the file; goes on without it, with a warning, where it cannot be written."""
        assert self.file is not None
        try:
            write(self.file)
        except OSError as error:
            warnings.warn(f"{self.file} cannot be written: {error.strerror}; the run goes on without it", stacklevel=2)
            self.file = None

    def _lines(self, rows: Sequence[Row], head: bool) -> bytes:
        text = io.StringIO()
        table = csv.DictWriter(text, self.columns, extrasaction="ignore", lineterminator="\n")
        if head and self.columns:
            table.writeheader()
        table.writerows(rows)
        return text.getvalue().encode()


class WandbLogger(Callback):
    """Writes one run of Weights & Biases for each network, against simulated time, into the run's folder.

    It is offline unless the environment variable WANDB_MODE says otherwise.
    """

    def __init__(self) -> None:
        """Begins when a run does."""
        self.runs = list[Any]()

    def start(self, run: Begun) -> None:
        for label, one in run.networks.items() if run.folder is not None else ():
            wandb: Any = import_module("wandb")
            found = wandb.init(
                project="batchednodes",
                group=run.settings.name,
                name=label or run.settings.name,
                config=_settings(one),
                dir=str(run.folder),
                mode=os.environ.get("WANDB_MODE", "offline"),
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off"),
            )
            found.define_metric("*", step_metric="time")
            self.runs.append(found)
        self.mark(run.rows)

    def mark(self, rows: Sequence[Row]) -> None:
        for row in rows if self.runs else ():
            self.runs[row["network"]].log(_numbers(row))

    def end(self, summary: dict[str, Any]) -> None:
        for run in self.runs:
            run.finish()


class MlflowLogger(Callback):
    """Writes one run of MLflow for each network into `mlflow.db` in the run's folder; a step is a millisecond."""

    def __init__(self) -> None:
        """Begins when a run does."""
        self.mlflow: Any = None
        self.client: Any = None
        self.runs = list[str]()

    def start(self, run: Begun) -> None:
        if run.folder is None:
            return
        self.mlflow = import_module("mlflow")
        self.client = self.mlflow.MlflowClient(tracking_uri=f"sqlite:///{(run.folder / MLFLOW).absolute()}")
        found = self.client.get_experiment_by_name(run.settings.name)
        experiment = found.experiment_id if found else self.client.create_experiment(run.settings.name)
        for label, one in run.networks.items():
            made = self.client.create_run(experiment, run_name=label or run.settings.name).info.run_id
            params = [self.mlflow.entities.Param(key, str(value)[:_LONGEST]) for key, value in _settings(one).items()]
            for first in range(0, len(params), 100):  # as many as one call takes
                self.client.log_batch(made, params=params[first : first + 100])
            self.runs.append(made)
        self.mark(run.rows)

    def mark(self, rows: Sequence[Row]) -> None:
        now = int(1000 * time.time())
        for row in rows if self.runs else ():
            step, values = round(1000 * row["time"]), _numbers(row)
            metrics = [self.mlflow.entities.Metric(_plain(key), value, now, step) for key, value in values.items()]
            self.client.log_batch(self.runs[row["network"]], metrics=metrics)

    def end(self, summary: dict[str, Any]) -> None:
        for run in self.runs:
            self.client.set_terminated(run, "FINISHED" if summary["status"] in ("finished", "stopped") else "KILLED")


def _plain(key: str) -> str:
    """Returns a key of letters that MLflow takes."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in key)
