"""Sweep: one config that stands for many networks, which run in one batch.

`sweep: {network.nodes: [10, 100], gossip.clock.rate: [1, log(n)]}` with `replicas: 8` is 2 x 2 x 8 networks. Each has
the events and models that it has alone, with its own settings and seed.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from batchednodes.config import Config, load

_MAY_DIFFER = (
    "seed",
    "network",
    "update.clock",
    "gossip.clock",
    "gossip.scheme",
    "gossip.weight",
    "local.lr",
    "local.momentum",
    "local.weight_decay",
    "task.data",
    "task.partition",
    "staleness.track",
)
"""Settings, and sections, in which the networks of one batch can differ; all others shape the batch itself."""


@dataclass(frozen=True)
class Point:
    """One network of a batch."""

    config: Config
    """Its settings, as if it ran alone."""
    settings: dict[str, Any]
    """What was swept, key by key, as it was written."""
    replica: int
    """Number of the replica: its seed is that of the config plus this."""

    @property
    def label(self) -> str:
        """Name of the network in paths: "network.nodes=10,gossip.clock.rate=log(n)"; "all" where nothing is swept."""
        named = [
            f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in self.settings.items()
        ]
        return ",".join(named).replace("/", "|").replace(" ", "") or "all"


def points(config: Config) -> list[Point]:
    """Returns the networks of a config: combinations of the swept settings, each with all its replicas.

    Raises:
        ValueError: a swept setting does not exist, is wrong, or cannot differ between networks of one batch.
    """
    swept = _lists(config)
    base = replace(config, sweep={}, replicas=1)
    found = []
    for values in _combinations(config, swept):
        settings = dict(zip(swept, values, strict=True))
        alone = load(base, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
        found += [Point(replace(alone, seed=alone.seed + r), settings, r) for r in range(config.replicas)]
    _check_data([p.config for p in found])
    return found


def _lists(config: Config) -> dict[str, list[Any]]:
    """Returns key and values of each swept setting."""
    swept = dict(leaves(config.sweep))
    for key, values in swept.items():
        if not any(key == part or key.startswith(f"{part}.") for part in _MAY_DIFFER):
            raise ValueError(
                f"sweep.{key} must be a setting in which networks of one batch can differ ({', '.join(_MAY_DIFFER)}), "
                f"got {key!r}; run separate commands for it"
            )
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f"sweep.{key} must be a list of at least one value, got {values!r}")
    return swept


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each value of nested settings with its full key."""
    for key, value in tree.items():
        full = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, full)
        else:
            yield full, value


def _combinations(config: Config, swept: dict[str, list[Any]]) -> Iterator[tuple[Any, ...]]:
    if config.sweep_mode == "product" or not swept:
        return itertools.product(*swept.values())
    lengths = {key: len(values) for key, values in swept.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"sweep must hold lists of one length when sweep_mode is zip, got {lengths}; or use product")
    return zip(*swept.values(), strict=True)


def _check_data(configs: list[Config]) -> None:
    """Refuses networks whose data differ in kind or shape, since they share a model."""
    first = configs[0].task.data
    for c in configs:
        data = c.task.data
        same = type(data) is type(first) and (data == first or data.sizes(1).shape == first.sizes(1).shape)
        if not same:
            raise ValueError(
                "sweep.task.data must keep the kind, the features and the targets of the data, got a network with "
                "others; run separate commands for them"
            )
