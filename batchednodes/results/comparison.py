"""Comparison: final metrics of runs, read from their folders, and replicas gathered with their intervals.

Notation: r replicas.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float64

from batchednodes.config.names import words
from batchednodes.numerics.values import shown
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.paths import SUMMARY
from batchednodes.results.folder.plain_json import parsed
from batchednodes.results.metrics import catalogue

MEASURES = catalogue.shown()
"""Keys of metrics that tables and figures show."""

_HUGE, _LARGEST = 1e150, 1 << 30
"""The largest number that is shown, far from where its square is infinite, and the largest file that is read [B]."""

_NAMED = {"run", "replica", *(metric.key for metric in catalogue.METRICS)}
"""Keys of rows that are not of the user's own metrics."""

_OWN = ("network", "replica", "seed")
"""Keys in which replicas of one setting differ."""


def read(run: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Returns the final metrics of the networks of a run, each with its folder, and why it is not finished, if so.

    Example:
        >>> import batchednodes
        >>> from pathlib import Path
        >>> from batchednodes.results.comparison import read
        >>> batchednodes.train({"network.nodes": 3, "run": {"until": 1, "mark_every": 1}}, out="run").folder
        PosixPath('run')
        >>> (network,), why = read(Path("run"))
        >>> network["run"], network["n"], why
        ('run', 3, None)

    Raises:
        ValueError: the folder holds no summary.
    """
    found = summary(run)
    status = found.get("status", "finished")
    why = None if status in ("finished", "stopped") else str(found.get("message", status))
    return [{"run": str(run)} | checked(row) for row in found["networks"]], why


def summary(run: Path) -> dict[str, Any]:
    """Returns the content of summary.json, with final metrics of at least one network.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    text = text_of(run, SUMMARY, "finished run")
    try:
        found = parsed(text)
        if not isinstance(found, dict):
            raise ValueError(f"it must be a mapping, got {shown(found)}")
        networks = found.get("networks")
        if not isinstance(networks, list) or not networks:
            raise ValueError("networks must be a list of at least one")
        for row in networks:
            checked(row)
        return found
    except ValueError as error:
        raise ValueError(
            f"DIR must hold a whole summary.json, got {shown(str(run))} with one that is damaged ({error}); resume the "
            "run, which writes it again"
        ) from None


def check_file(run: Path, name: str, what: str) -> Inside:
    """Returns a file in the folder of a run.

    Raises:
        ValueError: there is no such file, or it leads out of the folder.
    """
    file = Inside(run) / name
    if not file.is_file():
        raise ValueError(f"DIR must be the folder of a {what}, got {shown(str(run))} without {name}")
    return file


def text_of(run: Path, name: str, what: str) -> str:
    """Returns the text of a file in the folder of a run.

    Raises:
        ValueError: there is no such file, or it is no text of at most 1 GiB.
    """
    file = check_file(run, name, what)
    try:
        content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST >> 30} GiB")
        return content.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
        raise ValueError(f"DIR must hold a readable {name}, got {shown(str(run))}: {reason}") from None


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    """Returns the rows of metrics in a file of a run, as they were written.

    Raises:
        ValueError: there is no such file, a line of it is damaged, or it has none.
    """
    found: list[dict[str, Any]] = []
    for number, line in enumerate(text_of(run, name, "run").split("\n"), 1):
        if not line:
            continue
        try:
            row = parsed(line)
            if checked(row)["time"] is None or type(row.get("network")) is not int:
                raise ValueError("time and network must be numbers, got none")
            found.append(catalogue.renamed(row))
        except ValueError as error:
            place = f"got {shown(str(run))}, where line {number} is damaged"
            raise ValueError(f"DIR must hold a whole {name}, {place}: {error}") from None
    if not found:
        raise ValueError(f"DIR must be the folder of a run with at least one mark, got {shown(str(run))} with none")
    return found


def checked(row: Any) -> dict[str, Any]:
    """Returns one row of metrics in which each known measure is there: a finite number, or None.

    Raises:
        ValueError: it is no row, or a measure is no number; the message says which.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a row of metrics must be a mapping, got {shown(row)}")
    row = catalogue.renamed(row)
    for key in (*MEASURES, *row):
        value = row.get(key)
        if key in MEASURES and (isinstance(value, bool) or not isinstance(value, int | float | None)):
            raise ValueError(f"{key} must be a number or null, got {shown(value)}")
    known_ = {key: _finite(row.get(key)) for key in (*MEASURES, *own(row))}
    return row | known_


def own(row: dict[str, Any]) -> list[str]:
    """Returns the keys of a row that are of metrics of the user's own."""
    named = [key for key in row if "." not in key and key not in _NAMED]
    return [key for key in named if row[key] is None or type(row[key]) in (int, float)]


def _finite(value: float | int | None) -> float | int | None:
    """Returns a number that figures can show; None for others."""
    return None if value is None or not abs(value) <= _HUGE else value


def groups(networks: Sequence[dict[str, Any]], keys: Sequence[str]) -> dict[tuple[str, ...], list[int]]:
    """Returns the numbers of the networks that agree in some settings, by the words for these.

    Example:
        >>> from batchednodes.results.comparison import groups
        >>> groups([{"network.nodes": 10}, {"network.nodes": 20}, {"network.nodes": 10}], ["network.nodes"])
        {('10',): [0, 2], ('20',): [1]}
    """
    found: dict[tuple[str, ...], list[int]] = {}
    for k, row in enumerate(networks):
        found.setdefault(tuple(words(row.get(key, "")) for key in keys), []).append(k)
    return found


def swept(networks: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the keys that tell settings apart: the run, and what was swept.

    Example:
        >>> from batchednodes.results.comparison import swept
        >>> swept([{"run": "a", "seed": 0, "network.nodes": 10}, {"run": "a", "seed": 1, "network.nodes": 20}])
        ['network.nodes']
        >>> swept([{"run": "a", "network.nodes": 10}, {"run": "b", "network.nodes": 20}])
        ['run', 'network.nodes']
    """
    keys = dict.fromkeys(key for row in networks for key in row if "." in key)
    several = len({row.get("run") for row in networks}) > 1
    return [*(["run"] if several else []), *(key for key in keys if key not in _OWN)]


def known(rows: Sequence[dict[str, Any]], key: str) -> Float64[np.ndarray, " r"]:
    """Returns the finite values of a key.

    Example:
        >>> from batchednodes.results.comparison import known
        >>> known([{"loss_mean": 0.5}, {"loss_mean": None}, {}, {"loss_mean": float("inf")}], "loss_mean").tolist()
        [0.5]
    """
    values = np.array([row[key] for row in rows if row.get(key) is not None], dtype=np.float64)
    return values[np.isfinite(values)]


def half_width(values: Float64[np.ndarray, " r"]) -> float | None:
    """Returns the half-width of their mean's 95% interval by Student's t; None for one value or equal ones.

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.comparison import half_width
        >>> round(half_width(np.array([0.9, 1.0, 1.1])), 3), half_width(np.array([1.0]))
        (0.248, None)
    """
    if values.size < 2 or np.allclose(values, values[0], rtol=1e-12, atol=0):  # equal but for rounding
        return None
    return float(scipy.special.stdtrit(values.size - 1, 0.975) * values.std(ddof=1) / math.sqrt(values.size))


def interval(values: Float64[np.ndarray, " r"], key: str) -> tuple[float, float] | None:
    r"""Returns the ends of their mean's 95% interval, inside what the metric can be; None as of `half_width`.

    They are m -+ h, of mean m and half-width h by Student's t. Where an accuracy would leave 0..1 so, the interval is
    that of its logit, log m/(1-m) -+ h/(m (1-m)); where another metric that cannot be negative would, that of its
    logarithm, log m -+ h/m.

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.comparison import interval
        >>> low, high = interval(np.array([0.9, 0.99, 1.0]), "accuracy_mean")  # 0.963 -+ 0.137
        >>> round(low, 3), round(high, 3)
        (0.353, 0.999)
    """
    half = half_width(values)
    if half is None:
        return None
    mean, share = float(values.mean()), key.startswith(("accuracy_", "f1_"))
    low, high = mean - half, mean + half
    if share and (low < 0 or high > 1):
        ends = np.log(mean / (1 - mean)) + half / (mean * (1 - mean)) * np.array([-1.0, 1.0])
        low, high = scipy.special.expit(ends).tolist()
    elif key in MEASURES and low < 0 <= values.min():
        low, high = mean * math.exp(-half / mean), mean * math.exp(half / mean)
    return low, high
