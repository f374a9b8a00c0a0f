"""Sweep: one config that stands for many networks, which run in one batch.

`sweep: {network.nodes: [10, 100], gossip.clock.rate: [1, log(n)]}` with `replicas: 8` is 2 x 2 x 8 networks. Each has
the events and models that it has alone, with its own settings and seed.
"""

import itertools
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchednodes.config import Config, load, names, reseeded, unswept
from batchednodes.numerics.values import shown

_MAY_DIFFER = (
    "seed",
    "network",
    "update.clock",
    "gossip.clock",
    "gossip.scheme",
    "gossip.weight",
    "gossip.delay",
    "gossip.fifo",
    "gossip.loss",
    "gossip.merge",
    "gossip.flow",
    "gossip.personal",
    "local.lr",
    "local.momentum",
    "local.weight_decay",
    "local.proximal",
    "local.clip",
    "local.privacy",
    "local.optimizer",
    "local.schedule",
    "task.data",
    "task.partition",
    "task.shift",
    "staleness.track",
)
"""Settings, and sections, in which the networks of one batch can differ; all others shape the batch itself."""

NETWORKS, NODES = 100_000, 10**8
"""The most networks of a batch, and the most nodes of all of them."""

LABEL = 180
"""The longest label of a network [B], which names a folder: file systems take 255."""


@dataclass(frozen=True)
class NetworkSpec:
    """One network of a batch."""

    config: Config
    """Its settings, as if it ran alone."""
    settings: dict[str, Any]
    """What was swept, key by key, as it was written."""
    replica: int
    """Number of the replica: its seed is that of the config plus this."""

    @property
    def label(self) -> str:
        """Name of the network in paths: "network.nodes=10,gossip.clock.rate=log(n)"; "all" where nothing is swept.

        A long one is cut, and told apart by its checksum.
        """
        named = [f"{key}={names.in_path(value)}" for key, value in self.settings.items()]
        label = ",".join(named).replace("/", "|").replace(" ", "") or "all"
        plain = "".join(letter if letter.isprintable() else "?" for letter in label)
        if len(plain.encode()) <= LABEL and plain == label:
            return label
        cut = plain.encode()[:LABEL].decode(errors="ignore")
        return f"{cut}~{zlib.crc32(label.encode('utf-8', 'surrogatepass')):08x}"


def labels(points: Sequence[NetworkSpec]) -> list[str]:
    """Returns the folder of each network's curves, inside that of its run; "" is that itself.

    Example:
        >>> import batchednodes
        >>> from batchednodes.config.sweep import labels, points
        >>> labels(points(batchednodes.load({"sweep": {"gossip.clock.rate": [1, "n / 4"]}})))
        ['gossip.clock.rate=1/replica-0', 'gossip.clock.rate=n|4/replica-0']
    """
    return [f"{p.label}/replica-{p.replica}" for p in points] if len(points) > 1 else [""]


def points(config: Config) -> list[NetworkSpec]:
    """Returns the networks of a config: combinations of the swept settings, each with all its replicas.

    Example:
        >>> import batchednodes
        >>> from batchednodes.config.sweep import points
        >>> config = batchednodes.load({"sweep": {"network.nodes": [10, 20]}, "replicas": 2})
        >>> [(point.config.network.nodes, point.config.seed) for point in points(config)]
        [(10, 0), (10, 1), (20, 0), (20, 1)]

    Raises:
        ValueError: a swept setting does not exist, is wrong, or cannot differ between networks of one batch; or the
            networks, or their nodes, are too many.
    """
    swept = _lists(config)
    _check_number(config, swept)
    base = unswept(config)
    found, nodes = list[NetworkSpec](), 0
    for values in _combinations(config, swept):
        settings = dict(zip(swept, values, strict=True))
        changes = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        alone = load(base, changes) if changes else base
        nodes += alone.network.nodes * config.replicas
        if nodes > NODES:
            rule = f"network.nodes of all networks must be at most {NODES:,} together"
            raise ValueError(f"{rule}, got {nodes:,} or more; sweep less")
        found.append(NetworkSpec(alone, settings, 0))
        found += [NetworkSpec(reseeded(alone, alone.seed + r), settings, r) for r in range(1, config.replicas)]
    _check_data([p.config for p in found])
    return found


def _check_number(config: Config, swept: dict[str, list[Any]]) -> None:
    lengths = [len(values) for values in swept.values()]
    number = config.replicas * (math.prod(lengths) if config.sweep_mode == "product" else max(lengths, default=1))
    if number > NETWORKS:
        rule = f"sweep and replicas must make at most {NETWORKS:,} networks"
        raise ValueError(f"{rule}, got {shown(number)}; sweep less")


def _lists(config: Config) -> dict[str, list[Any]]:
    """Returns key and values of each swept setting."""
    swept = dict(leaves(config.sweep))
    for key, values in swept.items():
        if not any(key == part or key.startswith(f"{part}.") for part in _MAY_DIFFER):
            raise ValueError(
                f"sweep.{key} must be a setting in which networks of one batch can differ ({', '.join(_MAY_DIFFER)}), "
                f"got {shown(key)}; run separate commands for it"
            )
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f"sweep.{key} must be a list of at least one value, got {shown(values)}")
        if key == "network":  # its name is that of a column of the metrics
            rule = "sweep.network must name settings of it, which are swept one by one"
            raise ValueError(f"{rule}, got {shown(values)}; use sweep.network.nodes, for example")
    return swept


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each value of nested settings with its full key.

    Example:
        >>> from batchednodes.config.sweep import leaves
        >>> dict(leaves({"network": {"nodes": [10, 20]}, "seed": [0, 1]}))
        {'network.nodes': [10, 20], 'seed': [0, 1]}
    """
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
    first, nodes = configs[0].task.data, configs[0].network.nodes
    for c in configs:
        data = c.task.data
        if data is first:
            continue
        alike = type(data) is type(first) and (
            data == first or data.sizes(c.network.nodes).shape == first.sizes(nodes).shape
        )
        if not alike:
            raise ValueError(
                "sweep.task.data must keep the kind, the features and the targets of the data, got a network with "
                "others; run separate commands for them"
            )
