r"""Curves: what TensorBoard shows of a row of metrics, and where on its axis.

A step of TensorBoard is a whole number, and here a time, so that runs lie on each other whenever they were observed:

    step = 1000 t              of all curves and histograms: simulated time t [ms]
    step = 1000 updates / n    of curves in the group vs_updates: thousandths of an update of each node

Notation: n nodes, t simulated time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.tensorboard.summary import custom_scalars, histogram_raw, scalar, text

from batchednodes import config
from batchednodes.results.metrics import catalogue
from batchednodes.results.metrics.observed import Observation

_UNITS = 1000
"""Steps of a second, and of an update of each node."""

_TAGS = catalogue.tags()
"""Key of metrics.jsonl (or of the throughput) and its curve."""

_LEARNED = tuple(
    metric.key
    for metric in catalogue.METRICS
    if metric.tag and metric.panel != "staleness" and {"mean", "worst", "average"} & {*metric.roles}
)
"""Keys of what nodes have learned."""

_BY_UPDATES = {key: f"vs_updates/{_TAGS[key].replace('/', '_')}" for key in _LEARNED}
"""The same and their curves against updates."""

FINAL = (*sorted(_LEARNED, key=lambda key: not key.startswith("accuracy")), "staleness_now")
"""Keys of the metrics beside hyperparameters, in the order in which TensorBoard shows them."""

_LAYOUT = {
    "batchednodes": {
        title: ["Multiline", [f"^{re.escape(_TAGS[key])}$" for key in keys]]
        for title, keys in catalogue.SCALARS.items()
    }
}
"""Custom scalars of TensorBoard: curves that belong into one chart."""

_HISTOGRAM = 1e20
"""Larger values are left out of histograms, which show nothing beside them."""

_BUCKETS = 64
"""Buckets of a histogram, at most; TensorBoard shows about 30."""

_LONG, _CELL = 20_000, 1000
"""Characters of a config before and after what TensorBoard leaves out, and of one setting in its table."""

_UNTOLD = ("name", "run.baseline", "run.checkpoint_folder")
"""Settings that no curve depends on."""


def step(time: float) -> int:
    """Returns the step of a simulated time [s].

    Example:
        >>> from batchednodes.results.folder.curves import step
        >>> step(0.25), step(600.0)
        (250, 600000)
    """
    return round(_UNITS * time)


def update_step(row: Mapping[str, Any]) -> int:
    """Returns the step of the updates of each node, in the mean, up to a row of metrics."""
    return round(_UNITS * row["updates"] / row["n"])


def scalars(row: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[Any]:
    """Yields the curves of what is known; tags: key and curve of each metric that has one."""
    for key, value in row.items():
        if key in tags and value is not None:
            yield scalar(tags[key], value)


def by_updates(row: Mapping[str, Any]) -> Iterator[Any]:
    """Yields the curves against updates of what nodes have learned."""
    return scalars(row, _BY_UPDATES)


def settings(words: str) -> list[Any]:
    """Returns settings as a text, and which curves belong into one chart."""
    return [text("config", f"```yaml\n{_excerpt(words)}\n```"), custom_scalars(_LAYOUT)]


def histograms(observation: Observation) -> Iterator[Any]:
    """Yields the histograms over nodes, and those of staleness over sources and over pairs."""
    spreads, stale = {f"nodes/{name}": values for name, values in observation.over_nodes.items()}, observation.staleness
    if stale is not None:
        spreads |= {"nodes/staleness": stale.of_node, "nodes/staleness_as_source": stale.of_source}
        yield _of_counts("staleness/pairs", stale.pairs, 1 << stale.shift)
    for tag, values in spreads.items():
        shown = values[np.abs(values) < _HISTOGRAM]
        if shown.size:
            yield _of_values(tag, shown)


def varied(networks: Sequence[dict[str, Any]]) -> list[dict[str, str | int | float]]:
    """Returns the settings of each network that tell it from others; of one alone, its seed and what is not by default.

    Example:
        >>> import batchednodes
        >>> from batchednodes.config import to_dict
        >>> from batchednodes.results.folder.curves import varied
        >>> made = [to_dict(batchednodes.load({"gossip": {"clock": {"rate": rate}}})) for rate in ("n", 2)]
        >>> varied(made), varied(made[1:])
        ([{'gossip.clock.rate': 'n'}, {'gossip.clock.rate': 2.0}], [{'seed': 0, 'gossip.clock.rate': 2.0}])

    Args:
        networks: all settings of each, nested.
    """
    flat, usual = [_flat(one) for one in networks], _flat(config.to_dict(config.load({})))
    other = flat[0] if len(flat) > 1 else usual | {"seed": None}
    keys = dict.fromkeys(key for one in flat for key in (*one, *flat[0]) if one.get(key) != other.get(key))
    return [{key: one[key] for key in keys if key in one and key not in _UNTOLD} for one in flat]


def _of_values(tag: str, values: np.ndarray) -> Any:
    """Returns a histogram with buckets of equal width from the smallest to the largest value."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        limits, counts = [low], [values.size]
    else:
        places = ((values - low) / (high - low) * _BUCKETS).astype(np.int64).clip(max=_BUCKETS - 1)
        limits = np.linspace(low, high, _BUCKETS + 1)[1:].tolist()
        counts = np.bincount(places, minlength=_BUCKETS).tolist()
    squares = float(values @ values)
    return histogram_raw(tag, low, high, values.size, float(values.sum()), squares, limits, counts)


def _of_counts(tag: str, counts: np.ndarray, width: int) -> Any:
    """Returns a histogram of the numbers 0, width, 2 width, ... from how often each occurs."""
    numbers = width * np.arange(counts.size, dtype=np.float64)
    step = -(-counts.size // _BUCKETS)
    bars = np.add.reduceat(counts, np.arange(0, counts.size, step)).tolist()
    limits = (width * (step * np.arange(1.0, len(bars) + 1) - 0.5)).tolist()  # halfway between two numbers
    low, high = numbers[counts > 0][[0, -1]].tolist()
    total, squares = float(counts @ numbers), float(counts @ numbers**2)
    return histogram_raw(tag, low, high, int(counts.sum()), total, squares, limits, bars)


def _excerpt(config: str) -> str:
    """Returns settings without the middle of what is too long for a browser."""
    if len(config) <= 2 * _LONG:
        return config
    return f"{config[:_LONG]}\n# ... {len(config) - 2 * _LONG:,} characters are left out ...\n{config[-_LONG:]}"


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str | int | float]:
    """Returns nested settings as one level, "gossip.clock.rate": value, with text for what is not a number."""
    out: dict[str, str | int | float] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value if isinstance(value, bool | int | float) else str(value)[:_CELL]
    return out
