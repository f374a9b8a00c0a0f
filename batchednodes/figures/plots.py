"""Figures: the curves of runs, drawn from the files that they left, and how their data are split.

Notation: n nodes.
"""

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from batchednodes import config
from batchednodes.config import sweep
from batchednodes.figures import splits
from batchednodes.numerics.values import shown
from batchednodes.results import comparison
from batchednodes.results.folder.inside import BorderError, Inside
from batchednodes.results.folder.paths import CONFIG, FIGURES, METRICS, check_absent, make
from batchednodes.results.folder.plain_json import parsed
from batchednodes.results.metrics import catalogue

PAPER: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.4,
    "legend.frameon": False,
    "savefig.dpi": 300,
}
"""Style of figures in print, at most 7.2 in wide; fonts are embedded as TrueType."""

_LINES = ("-", "--", "-.")
"""Styles of runs in turn, so that a print in grey can be read; dots are for averages and laws."""

_INTERVALS = ("consensus_distance", "staleness_mean")
"""Keys whose interval over replicas is drawn; loss and accuracy show the range over nodes."""


@dataclass(frozen=True)
class Drawn:
    """What `plot` has drawn."""

    paths: list[Path]
    """The pictures."""
    splits: list[str]
    """How the data are split, in words, and how heterogeneous: a line for each split of the picture."""


def plot(runs: Sequence[Path], out: Path | None) -> Drawn:
    """Draws the curves of runs together, and how their data are split over the nodes, as PNG and PDF.

    Args:
        runs: folders that `train` left, or files of settings, of which the split alone is drawn.
        out: folder for the pictures; None: `figures` in the folder of the first run, or in the working folder.

    Raises:
        ValueError: a folder holds no metrics, a file no settings with data to split, or a picture is there already.
    """
    folders = [run for run in runs if not run.is_file()]
    found = {
        ", ".join(part for part in (str(run) if len(runs) > 1 else "", name) if part): frame
        for run in folders
        for name, frame in _read(run).items()
    }
    dealt = _splits(runs)
    place = Inside(folders[0]) / FIGURES if out is None and folders else Inside(out or Path(FIGURES))
    place.status()
    names = ["curves"] * bool(found) + ["split"] * bool(dealt)
    check_absent(place.path, [f"{name}.{kind}" for name in names for kind in ("png", "pdf")])
    with matplotlib.rc_context({"pdf.fonttype": 42, "savefig.dpi": 160}):
        figures = ([curves(found)] if found else []) + ([splits.draw(dealt)] if dealt else [])
        make(place.outer)
        paths = [_saved(figure, place, name) for name, figure in zip(names, figures, strict=True)]
    return Drawn([path for pair in paths for path in pair], [split.words for split in dealt])


def _saved(figure: Figure, folder: Inside, name: str) -> list[Path]:
    """Writes a picture as PNG and PDF; returns the paths."""
    files = [folder / f"{name}.{kind}" for kind in ("png", "pdf")]
    try:
        folder.make()
        save(figure, files)
    except OSError as error:
        got = f"{shown(str(folder))}: {error.strerror}"
        raise ValueError(f"--out must be a folder that can be written, got {got}") from error
    return [file.path for file in files]


def _splits(runs: Sequence[Path]) -> list[splits.Split]:
    """Returns the splits of the first networks whose data are split in different ways.

    Raises:
        ValueError: a file of settings cannot be used. A run is drawn without its split where its data are gone.
    """
    found: dict[str, splits.Split] = {}
    for run in runs:
        try:
            for chosen, name in _settings(run, len(runs) > 1):
                if len(found) < splits.MOST and splits.key(chosen) not in found and splits.has_picture(chosen):
                    found[splits.key(chosen)] = splits.deal(chosen, name)
        except (ValueError, OSError) as error:
            if run.is_file() or isinstance(error, BorderError):
                raise
            warnings.warn(f"the split of {shown(str(run))} is not drawn: {error}", stacklevel=2)
    if not found and all(run.is_file() for run in runs):
        rule = "CONFIG must have labels or a task.partition, whose split can be drawn"
        raise ValueError(f"{rule}, got {shown(str(runs[0]))} with neither")
    return [*found.values()]


def _settings(run: Path, several: bool) -> Iterator[tuple[config.Config, str]]:
    """Yields the settings of each network of a run, or of a file of settings, with a name that tells them apart."""
    chosen = config.load(run if run.is_file() else comparison.check_file(run, CONFIG, "run").path)
    points = sweep.points(chosen)
    for point in points:
        swept = {key: value for key, value in point.settings.items() if not key.startswith("task.partition")}
        parts = [str(run) if several else "", *(f"{key.rsplit('.', 1)[-1]} = {value}" for key, value in swept.items())]
        name = ", ".join(part for part in parts if part)
        yield replace(point.config, device="cpu"), name


def curves(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Returns the picture of runs, by name: loss, accuracy, consensus and staleness, whichever there are.

    Args:
        frames: rows of metrics in order of time.
    """
    panels = [p for p in _panels(frames.values()) if any(_some(f, _roles(p)["mean"]) for f in frames.values())]
    if not panels:
        raise ValueError("DIR must be the folder of a run with measures to draw, got none: no loss, accuracy, ...")
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3 * lines + 0.2 * len(frames)), layout="constrained")
    places = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, panel in zip(places, panels, strict=False):
        for k, frame in enumerate(frames.values()):
            _draw(axes, panel, frame, _LINES[k % len(_LINES)], f"C{k}", shade=len(frames) < 3)
        if panel == "staleness":
            axes.set_ylim(bottom=0)
        axes.set(xlabel="simulated time [s]", ylabel=catalogue.PANELS.get(panel, panel))
        axes.grid(alpha=0.3)
        shown = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        axes.legend(
            shown.values(),
            shown.keys(),
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=3,
            fontsize="x-small",
            frameon=False,
        )
    for axes in places[len(panels) :]:
        axes.remove()
    if len(frames) > 1:
        handles = [Line2D([], [], color=f"C{k}", linestyle=_LINES[k % len(_LINES)]) for k in range(len(frames))]
        figure.legend(
            handles,
            [name.replace("$", r"\$") for name in frames],
            loc="outside lower center",
            ncols=columns,
            fontsize="small",
            frameon=False,
        )
    return figure


def _read(run: Path) -> dict[str, pd.DataFrame]:
    """Returns the metrics of each setting of a run by its name, as means over its replicas."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(comparison.text_of(run, METRICS, "run").split("\n"), 1):
        if not line:
            continue
        try:
            rows.append(comparison.checked(parsed(line)))
            if rows[-1]["time"] is None:
                raise ValueError("time must be a number, got none")
        except ValueError as error:
            place = f"got {shown(str(run))}, where line {number} is damaged"
            raise ValueError(f"DIR must hold a whole metrics.jsonl, {place}: {error}") from None
    if not rows:
        raise ValueError(f"DIR must be the folder of a run with at least one mark, got {shown(str(run))} with none")
    return frames(rows)


def frames(rows: Iterable[Mapping[Any, Any]]) -> dict[str, pd.DataFrame]:
    """Returns rows of metrics as what `curves` draws: for each setting, by its name, the means over its replicas."""
    settings: dict[str, list[dict[str, Any]]] = {}
    for row in map(comparison.checked, rows):
        name = ", ".join(f"{key.rsplit('.', 1)[-1]} = {value}" for key, value in row.items() if "." in key)
        settings.setdefault(name, []).append({key: row[key] for key in (*comparison.MEASURES, *comparison.own(row))})
    return {name: _over_replicas(pd.DataFrame(group, dtype=float)) for name, group in settings.items()}


def _over_replicas(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the means over replicas at each time, and the half-widths of their 95% intervals; NaN for one replica."""
    replicas = frame.groupby("time")
    means = replicas.mean()
    assert isinstance(means, pd.DataFrame)
    for key in (*_INTERVALS, *(key for key in frame if key not in comparison.MEASURES)):
        halves = [comparison.half_width(values.to_numpy(float)) for _, values in replicas[key]]
        means[f"{key}_half_width"] = np.array(halves, dtype=float)
    return means.reset_index()


def _draw(axes: Axes, panel: str, frame: pd.DataFrame, line: str, colour: str, shade: bool) -> None:
    """Draws one run; shade: whether quantiles of staleness are a band, not a line, which many runs would hide."""
    t, of = frame["time"], _roles(panel)
    if of["mean"] not in frame:  # of another run
        return
    if "average" in of:
        axes.fill_between(t, frame[of["low"]], frame[of["high"]], color=colour, alpha=0.1, linewidth=0)
        axes.plot(t, frame[of["mean"]], line, color=colour, label="mean node")
        axes.plot(t, frame[of["worst"]], line, color=colour, linewidth=0.6, label="worst node")
        axes.plot(t, frame[of["average"]], ":", color=colour, label="average model")
        if panel == "loss" and (frame[of["low"]].to_numpy() > 0).all():
            axes.set_yscale("log")
    else:
        _mean(axes, frame, of["mean"], line, colour, "mean between marks" if "law" in of else "over nodes")
    if "law" in of and _some(frame, of["law"]):  # else no law is known
        axes.plot(t, frame[of["law"]], ":", color=colour, label="exact law")
    if "tail" in of and _some(frame, of["tail"]):  # else a run of an earlier version
        middle, tail = frame[of["middle"]], frame[of["tail"]]
        if shade:
            axes.fill_between(t, middle, tail, color=colour, alpha=0.1, linewidth=0, label="median to 99% of pairs")
        else:
            axes.plot(t, tail, line, color=colour, linewidth=0.6, label="99% of pairs")


def _panels(frames: Iterable[pd.DataFrame]) -> list[str]:
    """Returns the panels there may be, those of the user's own metrics last."""
    keys = dict.fromkeys(str(key) for frame in frames for key in frame)
    halves = {f"{key}_half_width" for key in keys}
    return [*catalogue.PANELS, *(key for key in keys if key not in halves and key not in comparison.MEASURES)]


def _roles(panel: str) -> dict[catalogue.Role, str]:
    """Returns the key that has each role in a panel; a metric of the user's own is alone in its own."""
    return catalogue.roles(panel) if panel in catalogue.PANELS else {"mean": panel}


def _some(frame: pd.DataFrame, key: str) -> bool:
    """Whether there is anything to draw of a metric."""
    return key in frame and bool(frame[key].notna().to_numpy().any())


def _mean(axes: Axes, frame: pd.DataFrame, key: str, line: str, colour: str, label: str) -> None:
    """Draws a curve, and the 95% interval over replicas around it where there are several."""
    t, mean = frame["time"], frame[key]
    axes.plot(t, mean, line, color=colour, label=label)
    half = frame.get(f"{key}_half_width")
    if half is not None and half.notna().any():
        axes.fill_between(t, mean - half, mean + half, color=colour, alpha=0.25, linewidth=0)


def save(figure: Figure, files: Sequence[Inside]) -> None:
    """Writes a picture into each of some new files, in the format of its suffix."""
    for file in files:
        drawn = io.BytesIO()
        figure.savefig(drawn, format=file.path.suffix[1:])
        file.create(drawn.getbuffer())
