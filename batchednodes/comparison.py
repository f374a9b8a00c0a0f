"""Comparison: final metrics of networks in one table, replicas gathered with their intervals.

Letters: r replicas.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy import stats

_COLUMNS = {
    "accuracy": {"mean": "accuracy_mean", "worst": "accuracy_min", "average": "accuracy_mean_model"},
    "loss": {"mean": "loss_mean", "worst": "loss_max", "average": "loss_mean_model"},
}
"""Title and key of the columns of what is learned: mean node, worst node, average model."""

_ALWAYS = {"consensus": "consensus_distance", "staleness": "staleness_average", "law": "staleness_theory"}
"""Title and key of the other columns; those that no network has are left out."""

_OWN = ("network", "replica", "seed")
"""Keys in which replicas of one setting differ."""


def read(run: Path) -> list[dict[str, Any]]:
    """Returns the final metrics of the networks of a run, each with the run's folder.

    Raises:
        ValueError: the folder holds no summary.
    """
    path = run / "summary.json"
    try:
        networks = json.loads(path.read_text())["networks"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"DIR must be the folder of a finished run, got {str(run)!r} without summary.json") from error
    return [{"run": str(run)} | row for row in networks]


def table(networks: Sequence[dict[str, Any]], isolated: Sequence[dict[str, Any]] | None, title: str) -> Table:
    """Returns a table with a line for each setting, means over its replicas with 95% half-widths.

    Args:
        networks: final metrics of each network.
        isolated: those of the same networks without gossip, of which the mean node is shown; None: no such column.
        title: above the table.
    """
    swept = _swept(networks)
    groups: dict[tuple[str, ...], list[int]] = {}
    for k, row in enumerate(networks):
        groups.setdefault(tuple(str(row.get(key, "")) for key in swept), []).append(k)
    measure = "loss" if all(row["accuracy_mean"] is None for row in networks) else "accuracy"
    columns = {name: key for name, key in _ALWAYS.items() if any(row.get(key) is not None for row in networks)}
    columns = {f"{measure}, {name}": key for name, key in _COLUMNS[measure].items()} | columns
    last = [key.rsplit(".", 1)[-1] for key in swept]
    heads = [short if last.count(short) == 1 else key for short, key in zip(last, swept, strict=True)]
    shown = Table(*heads, "replicas", *columns, *(["isolated"] if isolated else []), title=title)
    for names, members in groups.items():
        cells = [_mean([networks[k].get(key) for k in members]) for key in columns.values()]
        if isolated:
            cells.append(_mean([isolated[k][f"{measure}_mean"] for k in members]))
        shown.add_row(*names, str(len(members)), *cells)
    for column in shown.columns[len(swept) :]:
        column.justify = "right"
    return shown


def _swept(networks: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the keys that tell settings apart: the run, and what was swept."""
    keys = dict.fromkeys(key for row in networks for key in row if "." in key)
    several = len({row.get("run") for row in networks}) > 1
    return [*(["run"] if several else []), *(key for key in keys if key not in _OWN)]


def _mean(values: list[float | None]) -> str:
    """Returns the mean with the half-width of its 95% interval by Student's t; the value itself if there is one."""
    known = np.array([v for v in values if v is not None], dtype=float)
    if known.size == 0:
        return ""
    if known.size == 1 or not known.std():
        return f"{known.mean():.4g}"
    half = stats.t.ppf(0.975, known.size - 1) * known.std(ddof=1) / math.sqrt(known.size)
    return f"{known.mean():.4g} ± {half:.2g}"
