"""Tables: final metrics of networks side by side, for a terminal of any width, for papers and for programs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from rich.table import Table

from batchednodes.config.names import heads
from batchednodes.numerics.lazy import deferred
from batchednodes.results.comparison import groups, half_width, interval, known, own, swept
from batchednodes.results.metrics import catalogue

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = deferred("pandas")

_LEARNED = ("loss", "accuracy")
"""What is learned, of which a table shows one."""

_BORDER = 3
"""Characters of a table between two cells."""

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"} | {
    letter: f"\\{letter}" for letter in "&%$#_{}"
}
"""What LaTeX reads as a command, and how it is written."""


@dataclass(frozen=True)
class Cells:
    """A table in words: a line for each setting, means over its replicas with their 95% intervals."""

    settings: list[str]
    """Heads of the columns that tell settings apart."""
    columns: list[str]
    """Heads of all other columns."""
    lines: list[list[str]]
    """The cells of each line, in the order of both."""

    def blocks(self, width: int) -> list[list[int]]:
        """Returns the numbers of the columns of tables that fit in a width, each with all settings."""
        sizes = [
            max(len(head), *(len(line[k]) for line in self.lines)) + _BORDER
            for k, head in enumerate(self.settings + self.columns)
        ]
        first = [*range(len(self.settings))]
        left = 1 + sum(sizes[k] for k in first)
        found, used = [first], left
        for k in range(len(first), len(sizes)):
            if used + sizes[k] > width and len(found[-1]) > len(first):
                found, used = [*found, first], left
            found[-1] = [*found[-1], k]
            used += sizes[k]
        return found


def cells(networks: Sequence[dict[str, Any]], isolated: Sequence[dict[str, Any]] | None) -> Cells:
    """Returns the final metrics of networks in words.

    Example:
        >>> import batchednodes
        >>> from batchednodes.results.tables import cells
        >>> settings = {"network.nodes": 3, "run": {"until": 2, "mark_every": 2}, "replicas": 2}
        >>> run = batchednodes.train(settings, {"sweep": {"gossip.clock.rate": [1, 4]}})
        >>> found = cells(run.summary["networks"], None)
        >>> found.settings, [line[:2] for line in found.lines]  # a line for each rate, over two replicas
        (['rate'], [['1', '2'], ['4', '2']])

    Args:
        networks: final metrics of each network.
        isolated: those of the same networks without gossip, of which the mean node is shown, on the shared test set
            and on own test rows, where there are such; None: no such column.
    """
    keys, columns = swept(networks), dict(_columns(networks))
    alone, lines = _alone(networks, isolated), []
    for names, members in groups(networks, keys).items():
        values = [(known([networks[k] for k in members], key), key) for key in columns.values()]
        values += [(known([(isolated or [])[k] for k in members], key), key) for key in alone]
        lines.append([*names, str(len(members)), *(_words(*one) for one in values)])
    return Cells(heads(keys), ["replicas", *columns, *alone.values()], lines)


def frame(networks: Sequence[dict[str, Any]], isolated: Sequence[dict[str, Any]] | None = None) -> "pd.DataFrame":
    """Returns the same as numbers: a row for each setting, its key, and of each metric the mean and its interval.

    Example:
        >>> import batchednodes
        >>> from batchednodes.results.tables import frame
        >>> settings = {"network.nodes": 3, "run": {"until": 2, "mark_every": 2}, "replicas": 2}
        >>> run = batchednodes.train(settings, {"sweep": {"gossip.clock.rate": [1, 4]}})
        >>> list(frame(run.summary["networks"]))[:5]
        ['gossip.clock.rate', 'replicas', 'loss_mean', 'loss_mean_low', 'loss_mean_high']
    """
    keys, columns = swept(networks), dict(_columns(networks))
    rows = []
    for names, members in groups(networks, keys).items():
        first = networks[members[0]]
        values = [
            first[key] if type(first.get(key)) in (int, float) else name for key, name in zip(keys, names, strict=True)
        ]
        row: dict[str, Any] = dict(zip(keys, values, strict=True)) | {"replicas": len(members)}
        for key in columns.values():
            row |= _numbers(known([networks[k] for k in members], key), key, key)
        for key in _alone(networks, isolated):
            row |= _numbers(known([(isolated or [])[k] for k in members], key), key, f"{key}_isolated")
        rows.append(row)
    return pd.DataFrame(rows)


def _numbers(values: Float64[np.ndarray, " r"], key: str, name: str) -> dict[str, float | None]:
    """Returns mean and ends of the interval of some values under a name; None where there are none."""
    low, high = (interval(values, key) if values.size else None) or (None, None)
    return {name: float(values.mean()) if values.size else None, f"{name}_low": low, f"{name}_high": high}


def _alone(networks: Sequence[dict[str, Any]], isolated: Sequence[dict[str, Any]] | None) -> dict[str, str]:
    """Returns what is shown of isolated nodes: keys, each with the head of its column."""
    if not isolated:
        return {}
    own_ = {"accuracy_own_mean": "isolated, own"} if known(isolated, "accuracy_own_mean").size else {}
    return {f"{_measure(networks)}_mean": "isolated"} | own_


def _measure(networks: Sequence[dict[str, Any]]) -> str:
    """Returns which of what is learned a table shows."""
    return "loss" if all(row["accuracy_mean"] is None for row in networks) else "accuracy"


def _columns(networks: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yields head and key of each column but settings: what is learned, by one measure, and what any network has."""
    measure = _measure(networks)
    for metric in catalogue.METRICS:
        values = {row.get(metric.key) for row in networks}
        known_ = len(values) > 1 if metric.key == "time" else values != {None}
        if metric.column and (metric.panel == measure or (metric.panel not in _LEARNED and known_)):
            yield metric.column, metric.key
    for key in dict.fromkeys(key for row in networks for key in own(row)):
        if any(row.get(key) is not None for row in networks):
            yield key, key


def tables(found: Cells, title: str, width: int) -> list[Table]:
    """Returns cells as tables for a terminal of a width, every name and number whole; the first has a title above.

    A name that is wider than the terminal goes over several lines.
    """
    shown = []
    for block in found.blocks(width):
        table = Table(title="" if shown else title)
        for k in block:
            right = "left" if k < len(found.settings) else "right"
            table.add_column((found.settings + found.columns)[k], justify=right, overflow="fold")
        for line in found.lines:
            table.add_row(*(line[k] for k in block))
        shown.append(table)
    return shown


def markdown(found: Cells) -> str:
    """Returns cells as a table in Markdown."""
    top = [found.settings + found.columns, ["---"] * len(found.settings) + ["---:"] * len(found.columns)]
    lines = top + [[cell.replace("|", "\\|") for cell in line] for line in found.lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex(found: Cells) -> str:
    r"""Returns cells as a table in LaTeX, with the rules of the package booktabs.

    Example:
        >>> from batchednodes.results.tables import Cells, latex
        >>> print(latex(Cells(["topology"], ["accuracy"], [["watts_strogatz", "0.9 ± 0.02"]])))
        \begin{tabular}{lr}
        \toprule
        topology & accuracy \\
        \midrule
        watts\_strogatz & 0.9 $\pm$ 0.02 \\
        \bottomrule
        \end{tabular}
    """
    top, *lines = [
        " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in line) + r" \\"
        for line in (found.settings + found.columns, *found.lines)
    ]
    columns = "l" * len(found.settings) + "r" * len(found.columns)
    rules = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", top, r"\midrule", *lines, r"\bottomrule"]
    return "\n".join([*rules, r"\end{tabular}"])


def records(table: "pd.DataFrame") -> str:
    """Returns a table as a list in JSON, with null where there is no value."""
    rows = table.to_dict("records")
    return json.dumps(
        [{key: None if value != value else value for key, value in row.items()} for row in rows], indent=2
    )


def _words(values: Float64[np.ndarray, " r"], key: str) -> str:
    """Returns their mean with its interval in words, "0.9 ± 0.02" if it is symmetric; nothing if there is no value."""
    if values.size == 0:
        return ""
    mean, ends, half = float(values.mean()), interval(values, key), half_width(values)
    if ends is None or half is None:
        return f"{mean:.4g}"
    return f"{mean:.4g} ± {half:.2g}" if ends[0] == mean - half else f"{mean:.4g} ({ends[0]:.3g} to {ends[1]:.3g})"
