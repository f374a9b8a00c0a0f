"""Curves: a picture of runs against time, drawn from rows of metrics: a line each, told apart without colour too."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from batchednodes.config.names import heads, named, words
from batchednodes.results import comparison, ticks
from batchednodes.results.metrics import catalogue

_STYLES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
"""Styles of lines in turn, so that a print in grey can be read."""

_DETAILED = 4
"""The most runs of which worst nodes, laws and intervals are drawn; of more, one line each."""

_SHADED = 2
"""The most runs of which average models, and bands of nodes and pairs, are drawn, which several would hide."""

_ALONE = {"color": "0.55", "linestyle": (0, (4, 2))}
"""How nodes that never gossip are drawn."""


@dataclass(frozen=True)
class Curve:
    """The metrics of one setting of a run, as means over its replicas."""

    settings: dict[str, Any]
    """What tells it from others: its run, and what was swept."""
    frame: pd.DataFrame
    """Rows in order of time, with ends of 95% intervals over replicas, `loss_mean_low` and so on; NaN for one."""
    alone: pd.DataFrame | None = field(default=None, repr=False)
    """The same of nodes that never gossip."""


def of_rows(rows: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]] = (), run: str = "") -> list[Curve]:
    """Returns the curves of the settings of a run.

    Example:
        >>> import batchednodes
        >>> from batchednodes.figures.curves import of_rows
        >>> result = batchednodes.train({"network.nodes": 3, "run.until": 2}, {"sweep": {"gossip.clock.rate": [1, 4]}})
        >>> [curve.settings for curve in of_rows(result.metrics.to_dict("records"))]
        [{'gossip.clock.rate': 1}, {'gossip.clock.rate': 4}]

    Args:
        rows: of metrics, of all marks and networks.
        alone: those of the same nodes without gossip; empty: they were not run.
        run: its name among several; "": it is alone.
    """
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if "." in key]
    found = []
    for members in comparison.groups([{key: row.get(key, "") for key in keys} for row in rows], keys).values():
        chosen = {key: rows[members[0]].get(key) for key in keys}
        networks = {rows[k]["network"] for k in members}
        beside = [row for row in alone if row["network"] in networks]
        frame = _over_replicas([rows[k] for k in members])
        settings = ({"run": run} if run else {}) | chosen
        found.append(Curve(settings, frame, _over_replicas(beside) if beside else None))
    return found


def _over_replicas(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns the means over replicas at each time, and the ends of their 95% intervals."""
    own = [*dict.fromkeys(key for row in rows for key in comparison.own(dict(row)))]
    keys = [key for key in dict.fromkeys(("time", *comparison.MEASURES, *own)) if key in rows[0] or key in own]
    replicas = pd.DataFrame([{key: row.get(key) for key in keys} for row in rows], dtype=float).groupby("time")
    means = replicas.mean()
    assert isinstance(means, pd.DataFrame)
    none = (np.nan, np.nan)
    for key in keys[1:] if len(rows) > len(means) else ():
        ends = [comparison.interval(values.dropna().to_numpy(float), key) or none for _, values in replicas[key]]
        means[[f"{key}_low", f"{key}_high"]] = np.array(ends, dtype=float)
    return means.reset_index()


def draw(curves: Sequence[Curve]) -> Figure:
    """Returns the picture of curves: loss, accuracy, consensus and staleness, whichever there are.

    Colour is for the first setting that differs, the style of lines for the second; the others have a column each.

    Raises:
        ValueError: there is nothing to draw.
    """
    panels = [p for p in _panels(c.frame for c in curves) if any(_some(c.frame, _roles(p)["mean"]) for c in curves)]
    if not panels:
        raise ValueError("DIR must be the folder of a run with measures to draw, got none: no loss, accuracy, ...")
    look = _Look.of(curves)
    parts = look.parts
    across = len(parts) if len(parts) > 1 else min(2, len(panels))
    down = len(panels) if len(parts) > 1 else -(-len(panels) // across)
    figure = Figure(figsize=((3.2 if across > 2 else 4.6) * across, 2.8 * down + 0.5), layout="constrained")
    places = figure.subplots(
        down, across, squeeze=False, sharex=len(parts) > 1, sharey="row" if len(parts) > 1 else "none"
    )
    cells = places if len(parts) > 1 else places.flatten()[:, None]
    for line, panel in zip(cells, panels, strict=False):
        for axes, part in zip(line, parts, strict=True):
            for k in part:
                _draw(axes, panel, curves[k], look.style(k), len(curves))
            _finish(axes, panel, len(curves) > _DETAILED)
            if len(parts) == 1 or panel == panels[-1]:
                axes.set_xlabel("simulated time [s]")
        line[0].set_ylabel(
            catalogue.PANELS.get(panel, panel)
            + (", mean node" if panel in ("loss", "accuracy") and len(curves) > _DETAILED else "")
        )
    for axes, part in zip(cells[0], parts, strict=True):
        if len(parts) > 1:
            axes.set_title(_escaped(named({key: curves[part[0]].settings[key] for key in look.keys[2:]})))
    for axes in places.flatten()[len(panels) :] if len(parts) == 1 else ():
        axes.remove()
    if len(curves) > 1:
        handles, names = look.legend()
        figure.legend(
            handles, names, loc="outside lower center", ncols=min(4, len(names)), fontsize="small", frameon=False
        )
    return figure


@dataclass(frozen=True)
class _Look:
    """How curves are told apart."""

    curves: Sequence[Curve]
    keys: list[str]
    """Settings that differ: the first has colours, the second styles, the others columns."""

    @staticmethod
    def of(curves: Sequence[Curve]) -> "_Look":
        keys = dict.fromkeys(key for curve in curves for key in curve.settings)
        return _Look(curves, [key for key in keys if len({words(c.settings.get(key, "")) for c in curves}) > 1])

    def values(self, place: int) -> list[str]:
        """Returns the values of a key, in words, in order of appearance."""
        key = self.keys[place] if place < len(self.keys) else None
        return [*dict.fromkeys(words(c.settings.get(key, "")) if key else "" for c in self.curves)]

    @property
    def parts(self) -> list[list[int]]:
        """Numbers of the curves of each column."""
        return [
            *comparison.groups(
                [{key: c.settings.get(key, "") for key in self.keys} for c in self.curves], self.keys[2:]
            ).values()
        ]

    def style(self, k: int) -> dict[str, Any]:
        """Returns colour and line of a curve."""
        first, second = (self._rank(k, place) for place in (0, 1))
        count = len(self.values(0))
        line = second if len(self.keys) > 1 else first  # of one setting both, so that grey tells it
        return {"color": _colour(first, count), "linestyle": _STYLES[line % len(_STYLES)]}

    def _rank(self, k: int, place: int) -> int:
        if place >= len(self.keys):
            return 0
        return self.values(place).index(words(self.curves[k].settings.get(self.keys[place], "")))

    def legend(self) -> tuple[list[Line2D], list[str]]:
        """Returns a line and a name for each value of the first two settings."""
        firsts = {self._rank(k, 0): k for k in reversed(range(len(self.curves)))}
        if len(self.keys) < 2:
            lines = [Line2D([], [], **self.style(k)) for _, k in sorted(firsts.items())]
            return lines, [self._name(0, rank) for rank in sorted(firsts)]
        count = len(self.values(0))
        lines = {self._name(0, rank): Line2D([], [], color=_colour(rank, count), linewidth=3) for rank in range(count)}
        for rank, value in enumerate(self.values(1)):
            if value:  # else a run in which it was not swept
                lines[self._name(1, rank)] = Line2D([], [], color="0.2", linestyle=_STYLES[rank % len(_STYLES)])
        return [*lines.values()], [*lines]

    def _name(self, place: int, rank: int) -> str:
        if not self.keys:
            return ""
        value, key = self.values(place)[rank], self.keys[place]
        raw = next(c.settings.get(key) for c in self.curves if words(c.settings.get(key, "")) == value)
        bare = key == "run" or key.endswith(".kind") or isinstance(raw, Mapping)
        return _escaped(value if bare else f"{heads(self.keys)[place]} {value}")


def _colour(rank: int, count: int) -> Any:
    """Returns one of some colours, the darker the earlier."""
    return colormaps["viridis"](0.85 * rank / (count - 1) if count > 1 else 0.2)


def _escaped(name: str) -> str:
    return name.replace("$", r"\$")


def _draw(axes: Axes, panel: str, curve: Curve, style: dict[str, Any], many: int) -> None:
    """Draws one curve in a panel, in as much detail as there is room for beside many."""
    frame, of = curve.frame, _roles(panel)
    if of["mean"] not in frame:  # of another run
        return
    t, colour, detailed = frame["time"], style["color"], many <= _DETAILED
    name = "mean node" if "average" in of else "mean between marks" if "law" in of else "over nodes"
    axes.plot(t, frame[of["mean"]], **style, label=name)
    if "average" in of and many <= _SHADED:
        axes.fill_between(
            t, frame[of["low"]], frame[of["high"]], color=colour, alpha=0.1, linewidth=0, label="all nodes"
        )
        axes.plot(t, frame[of["average"]], ":", color=colour, label="average model")
    elif detailed and "average" not in of and _some(frame, f"{of['mean']}_low"):
        low, high = frame[f"{of['mean']}_low"], frame[f"{of['mean']}_high"]
        axes.fill_between(t, low, high, color=colour, alpha=0.25, linewidth=0, label="95% over replicas")
    if detailed and "average" in of:
        axes.plot(t, frame[of["worst"]], color=colour, linestyle=style["linestyle"], linewidth=0.6, label="worst node")
    if detailed and "law" in of and _some(frame, of["law"]):  # else no law is known
        axes.plot(t, frame[of["law"]], ":", color=colour, label="exact law")
    if detailed and "tail" in of and _some(frame, of["tail"]):  # else a run of an earlier version
        middle, tail = frame[of["middle"]], frame[of["tail"]]
        if many <= _SHADED:
            axes.fill_between(t, middle, tail, color=colour, alpha=0.1, linewidth=0, label="median to 99% of pairs")
        else:
            axes.plot(t, tail, color=colour, linestyle=style["linestyle"], linewidth=0.6, label="99% of pairs")
    if curve.alone is not None and many == 1 and "law" not in of and _some(curve.alone, of["mean"]):
        axes.plot(curve.alone["time"], curve.alone[of["mean"]], **_ALONE, label="isolated nodes")


def _finish(axes: Axes, panel: str, plain: bool) -> None:
    """Gives a panel its axes and, unless all lines are of one kind, a legend."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines] or [np.ones(1)])
    values = values[np.isfinite(values)]
    if panel in ("loss", "suboptimality") and values.size and values.min() > 0:
        axes.set_yscale("log")
        ticks.plain(axes.yaxis)
    elif panel == "staleness" and values.size:
        axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])  # a line at 0 is inside
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    shown: dict[str, Any] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        shown.setdefault(label, handle)
    if not plain and shown:
        place = {
            "loc": "lower center",
            "bbox_to_anchor": (0.5, 1.0),
            "ncols": 3,
            "fontsize": "x-small",
            "frameon": False,
        }
        axes.legend(shown.values(), shown.keys(), **place)


def _panels(frames: Iterable[pd.DataFrame]) -> list[str]:
    """Returns the panels there may be, those of the user's own metrics last."""
    keys = dict.fromkeys(str(key) for frame in frames for key in frame)
    ends = {f"{key}_{end}" for key in keys for end in ("low", "high")}
    return [*catalogue.PANELS, *(key for key in keys if key not in ends and key not in comparison.MEASURES)]


def _roles(panel: str) -> dict[catalogue.Role, str]:
    """Returns the key that has each role in a panel; a metric of the user's own is alone in its own."""
    return catalogue.roles(panel) if panel in catalogue.PANELS else {"mean": panel}


def _some(frame: pd.DataFrame, key: str) -> bool:
    """Whether there is anything to draw of a metric."""
    return key in frame and bool(frame[key].notna().to_numpy().any())
