"""Figures: the curves of runs, drawn from the files that they left.

Letters: n nodes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_LINES = ("-", "--", "-.", ":")
"""One style for each run, so that a print in grey can be read."""

_NODES = {"loss": ("loss_min", "loss_max", "loss_max"), "accuracy": ("accuracy_min", "accuracy_max", "accuracy_min")}
"""Panel: lowest and highest node, and the worst."""

_PANELS = {
    "loss": "loss_mean",
    "accuracy": "accuracy_mean",
    "consensus": "consensus_distance",
    "staleness": "staleness_mean",
}
"""Panel and the key that must be there for it."""

_LABELS = {
    "loss": "test loss",
    "accuracy": "test accuracy",
    "consensus": "consensus distance",
    "staleness": "mean staleness [updates]",
}


def plot(runs: Sequence[Path], out: Path | None) -> list[Path]:
    """Draws runs together, and returns the paths of the PNG and the PDF.

    Args:
        runs: folders that `train` left.
        out: folder for the pictures; None: `figures` in the first run's folder.

    Raises:
        ValueError: a folder holds no metrics, or a picture is there already.
    """
    frames = {str(run): _read(run) for run in runs}
    panels = [p for p, key in _PANELS.items() if any(f[key].notna().to_numpy().any() for f in frames.values())]
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, (2.7 + 0.25 * len(frames)) * lines), layout="constrained")
    places = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, panel in zip(places, panels, strict=False):
        for k, (name, frame) in enumerate(frames.items()):
            _draw(axes, panel, frame, _LINES[k % len(_LINES)], f"C{k}", f"{name}: " if len(frames) > 1 else "")
        axes.set(xlabel="simulated time [s]", ylabel=_LABELS[panel])
        axes.grid(alpha=0.3)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize="x-small", frameon=False)
    for axes in places[len(panels) :]:
        axes.remove()
    return _save(figure, out or runs[0] / "figures")


def _read(run: Path) -> pd.DataFrame:
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"DIR must be the folder of a run, got {str(run)!r} without metrics.jsonl")
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    if not rows:
        raise ValueError(f"DIR must be the folder of a run with at least one mark, got {str(run)!r} with none")
    return pd.DataFrame([row for row in rows if row["network"] == 0], dtype=float)


def _draw(axes: Axes, panel: str, frame: pd.DataFrame, line: str, colour: str, prefix: str) -> None:
    t = frame["time"]
    if panel in _NODES:
        low, high, worst = _NODES[panel]
        axes.fill_between(t, frame[low], frame[high], color=colour, alpha=0.15, linewidth=0)
        axes.plot(t, frame[f"{panel}_mean"], line, color=colour, label=f"{prefix}mean node")
        axes.plot(t, frame[worst], line, color=colour, linewidth=0.7, label=f"{prefix}worst node")
        axes.plot(t, frame[f"{panel}_mean_model"], line, color="black", linewidth=0.9, label=f"{prefix}average model")
        if panel == "loss" and (frame[low].to_numpy() > 0).all():
            axes.set_yscale("log")
    elif panel == "consensus":
        axes.plot(t, frame["consensus_distance"], line, color=colour, label=f"{prefix}over nodes")
    else:
        axes.plot(t, frame["staleness_mean"], line, color=colour, label=f"{prefix}measured")
        if frame["staleness_theory"].notna().to_numpy().any():
            axes.plot(t, frame["staleness_theory"], ":", color="black", label=f"{prefix}exact law, long run")


def _save(figure: Figure, folder: Path) -> list[Path]:
    paths = [folder / f"curves.{kind}" for kind in ("png", "pdf")]
    for path in paths:
        if path.exists():
            raise ValueError(f"--out must not hold {path.name} yet, got {str(folder)!r}; nothing is ever overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        for path in paths:
            figure.savefig(path, dpi=160)
    return paths
