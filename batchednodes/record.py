"""Record: what a run leaves behind in its folder, files and TensorBoard curves."""

import itertools
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from batchednodes.metrics import Observation

_CURVES = {
    "loss_mean": "loss/node_mean",
    "loss_max": "loss/node_worst",
    "loss_min": "loss/node_best",
    "loss_mean_model": "loss/average_model",
    "accuracy_mean": "accuracy/node_mean",
    "accuracy_min": "accuracy/node_worst",
    "accuracy_max": "accuracy/node_best",
    "accuracy_mean_model": "accuracy/average_model",
    "consensus_distance": "consensus/distance",
    "staleness_mean": "staleness/mean",
    "staleness_max": "staleness/max",
    "staleness_now": "staleness/at_mark",
    "staleness_theory": "staleness/exact_law",
    "time": "progress/simulated_time",
    "updates": "progress/updates",
    "gossips": "progress/gossips",
    "gossip_rate_mean": "gossip/rate_mean",
    "gossip_rate_max": "gossip/rate_max",
    "events_per_second": "throughput/events_per_second",
    "updates_per_second": "throughput/updates_per_second",
}
"""Key of metrics.jsonl (or of the throughput) and its curve."""


def _chart(*tags: str) -> list[Any]:
    return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]


_HISTOGRAM = 1e20
"""TensorBoard's histograms have no buckets beyond."""

_LAYOUT = {
    "batchednodes": {
        "accuracy over nodes": _chart("accuracy/node_mean", "accuracy/node_worst", "accuracy/average_model"),
        "loss over nodes": _chart("loss/node_mean", "loss/node_worst", "loss/average_model"),
        "staleness and its exact law": _chart("staleness/mean", "staleness/exact_law"),
    }
}
"""Custom scalars of TensorBoard: curves that belong into one chart."""


def next_folder(name: str) -> Path:
    """Returns the first of runs/<name>-1, runs/<name>-2, ... that does not exist."""
    numbers = itertools.count(1)
    return next(folder for k in numbers if not (folder := Path("runs") / f"{name}-{k}").exists())


def new_folder(folder: Path) -> Path:
    """Makes the folder of a run.

    Raises:
        ValueError: the folder exists, or cannot be made.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ValueError(f"--out must not exist yet, got {str(folder)!r}; nothing is ever overwritten") from error
    except OSError as error:
        raise ValueError(f"--out must be a folder that can be made, got {str(folder)!r}: {error.strerror}") from error
    return folder


@dataclass(frozen=True)
class Record:
    """The folder of one run, and its open TensorBoard files: one for each network, in a folder named after it."""

    folder: Path
    boards: tuple[SummaryWriter, ...]

    @staticmethod
    def open(folder: Path, config: str, labels: list[str]) -> "Record":
        """Starts the record of a run in its new folder, with the resolved settings as YAML.

        Args:
            folder: of the run.
            config: its settings.
            labels: folder of each network's curves inside it; "" is the folder itself.
        """
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        boards = tuple(SummaryWriter(str(folder / label)) for label in labels)
        for board in boards:
            board.add_text("config", f"```yaml\n{config}\n```")
            board.add_custom_scalars(_LAYOUT)
        return Record(folder, boards)

    def observe(self, mark: int, observations: list[Observation], speed: dict[str, float]) -> None:
        """Appends one mark to metrics.jsonl and to TensorBoard, where its step is the number of the mark."""
        lines = [json.dumps(strict(observation.row), allow_nan=False) + "\n" for observation in observations]
        with (self.folder / "metrics.jsonl").open("a") as metrics:
            metrics.writelines(lines)
        for board, observation in zip(self.boards, observations, strict=True):
            for key, value in (observation.row | speed).items():
                if key in _CURVES and value is not None:
                    board.add_scalar(_CURVES[key], value, mark)
            for name, values in observation.over_nodes.items():
                shown = values[np.abs(values) < _HISTOGRAM]
                if shown.size:
                    board.add_histogram(f"nodes/{name}", shown, mark)
            board.flush()

    def finish(self, summary: dict[str, Any], settings: list[dict[str, Any]]) -> None:
        """Writes summary.json, and TensorBoard's hyperparameters of each network with its final metrics."""
        shown = {key: tag for key, tag in _CURVES.items() if not tag.startswith(("progress/", "throughput/"))}
        for board, own, row in zip(self.boards, settings, summary["networks"], strict=True):
            final = {shown[k]: float(v) for k, v in row.items() if k in shown and v is not None}
            writer = board.file_writer
            assert writer is not None
            for part in hparams(_flat(own), final):
                writer.add_summary(part)
        write_json(self.folder / "summary.json", summary)

    def close(self) -> None:
        """Closes the files of TensorBoard."""
        for board in self.boards:
            board.close()


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str | int | float]:
    """Returns nested settings as one level, "gossip.clock.rate": value, with text for what is not a number."""
    out: dict[str, str | int | float] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value if isinstance(value, bool | int | float) else str(value)
    return out


def strict(value: Any) -> Any:
    """Returns a JSON value in which each number that is not finite is null: JSON has no word for it."""
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, list):
        return [strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file under another name, then renames it."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(strict(content), indent=2, allow_nan=False) + "\n")
    temporary.replace(path)
