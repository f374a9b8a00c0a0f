"""Figures: the curves of runs, drawn from the files that they left, and how their data are split."""

import io
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from batchednodes import config
from batchednodes.config import sweep
from batchednodes.config.names import named
from batchednodes.figures import curves, splits
from batchednodes.figures.curves import Curve
from batchednodes.numerics.values import shown
from batchednodes.results import comparison
from batchednodes.results.folder.inside import BorderError, Inside
from batchednodes.results.folder.paths import ALONE, CONFIG, FIGURES, METRICS, check_absent, make

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

FORMATS = ("png", "pdf", "svg")
"""Formats of pictures."""

_LONGEST = 60
"""Characters of the name of a folder of joint pictures, at most."""


@dataclass(frozen=True)
class Drawn:
    """What `plot` has drawn."""

    paths: list[Path]
    """The pictures."""
    splits: list[str]
    """How the data are split, in words, and how heterogeneous: a line for each split of the picture."""


def plot(runs: Sequence[Path], out: Path | None, formats: Sequence[str] = ("png", "pdf"), force: bool = False) -> Drawn:
    """Draws the curves of runs together, and how their data are split over the nodes.

    Args:
        runs: folders that `train` left, or files of settings, of which the split alone is drawn.
        out: folder for the pictures; None: that of `folder`.
        formats: of each picture, of `FORMATS`.
        force: whether pictures that are there are replaced.

    Raises:
        ValueError: a folder holds no metrics, a file no settings with data to split, a format is none, or a picture is
            there already.
    """
    check_formats(formats)
    found, dealt = _curves(runs), _splits(runs)
    place = folder(runs) if out is None else Inside(out)
    place.status()
    names = ["curves"] * bool(found) + ["split"] * bool(dealt)
    check_absent(place.path, [f"{name}.{kind}" for name in names for kind in formats if not force])
    with matplotlib.rc_context({"pdf.fonttype": 42, "savefig.dpi": 160}):
        figures = ([curves.draw(found)] if found else []) + ([splits.draw(dealt)] if dealt else [])
        make(place.outer)
        paths = [_saved(figure, place, name, formats, force) for name, figure in zip(names, figures, strict=True)]
    return Drawn([path for pair in paths for path in pair], [split.words for split in dealt])


def check_formats(formats: Sequence[str]) -> None:
    """Raises ValueError where a format is not known."""
    for kind in formats:
        if kind not in FORMATS:
            raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {shown(kind)}")


def folder(runs: Sequence[Path]) -> Inside:
    """Returns where pictures go by themselves: of one run into it, of several, or of settings, into the working folder.

    Example:
        >>> from pathlib import Path
        >>> from batchednodes.figures.plots import folder
        >>> str(folder([Path("runs/mine-1")])), str(folder([Path("runs/mine-1"), Path("runs/mine-2")]))
        ('runs/mine-1/figures', 'figures/mine-1+mine-2')
    """
    folders = [run for run in runs if not run.is_file()]
    if len(folders) == 1:
        return Inside(folders[0]) / FIGURES
    joint = "+".join(Path(os.path.abspath(run)).name for run in folders)
    joint = joint if len(joint) <= _LONGEST else f"{joint[:_LONGEST]}~{zlib.crc32(os.fsencode(joint)):08x}"
    return Inside(Path(FIGURES) / joint)


def _curves(runs: Sequence[Path | tuple[str, pd.DataFrame]]) -> list[Curve]:
    """Returns the curves of folders of runs, and of metrics by their name; files of settings have none."""
    found: list[Curve] = []
    names = _names([run for run in runs if isinstance(run, Path)])
    for run in runs:
        if isinstance(run, tuple):
            found += curves.of_rows(run[1].to_dict("records"), run=run[0] if len(runs) > 1 else "")
        elif not run.is_file():
            found += curves.of_rows(_read(run), _alone(run), names[run] if len(runs) > 1 else "")
    return found


def _names(runs: Sequence[Path]) -> dict[Path, str]:
    """Returns the last words of paths, or the paths where these are alike."""
    last = [Path(os.path.abspath(run)).name for run in runs]
    return {run: name if last.count(name) == 1 else str(run) for run, name in zip(runs, last, strict=True)}


def figure(*runs: Path | tuple[str, pd.DataFrame]) -> Figure:
    """Returns the picture of the curves of runs.

    Example:
        >>> import batchednodes
        >>> from batchednodes.figures import plots
        >>> result = batchednodes.train({"network.nodes": 3, "run.until": 2})
        >>> [axes.get_ylabel() for axes in plots.figure(("mine", result.metrics)).axes]
        ['test loss', 'consensus distance', 'staleness [updates]']

    Args:
        runs: folders that `train` left, or names with metrics of results.

    Raises:
        ValueError: a folder holds no metrics.
    """
    return curves.draw(_curves(runs))


def _saved(figure: Figure, folder: Inside, name: str, formats: Sequence[str], force: bool) -> list[Path]:
    """Writes a picture in some formats; returns the paths."""
    files = [folder / f"{name}.{kind}" for kind in formats]
    try:
        folder.make()
        save(figure, files, force)
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
        yield replace(point.config, device="cpu"), named(({"run": str(run)} if several else {}) | swept)


def _read(run: Path) -> list[dict[str, Any]]:
    """Returns the rows of metrics of a run."""
    return [comparison.checked(row) for row in comparison.rows(run, METRICS)]


def _alone(run: Path) -> list[dict[str, Any]]:
    """Returns the rows of the same nodes without gossip; none where they were not run."""
    rows = comparison.rows(run, ALONE) if (Inside(run) / ALONE).is_file() else []
    return [comparison.checked(row) for row in rows]


def save(figure: Figure, files: Sequence[Inside], force: bool = False) -> None:
    """Writes a picture into each of some files, in the format of its suffix; force: whether they may be there."""
    for file in files:
        drawn = io.BytesIO()
        figure.savefig(drawn, format=file.path.suffix[1:])
        write(file, drawn.getvalue(), force)


def write(file: Inside, content: bytes, force: bool) -> None:
    """Writes a file; force: whether one may be there."""
    if force:
        file.replace([content])
    else:
        file.create(content)
