"""Influence: what nodes have changed in others, from networks in which nothing came from them.

Notation: n nodes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from batchednodes import config
from batchednodes.config import Config
from batchednodes.numerics import rng
from batchednodes.numerics.lazy import deferred
from batchednodes.results.metrics.staleness import sample

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = deferred("pandas")

SCORES = ("loss", "accuracy")
"""What nodes are scored by."""


def settings(chosen: Config, without: Sequence[int]) -> Config:
    """Returns settings by which a run and the same without some nodes are one batch.

    Example:
        >>> from batchednodes.config import Config
        >>> from batchednodes.figures import influence
        >>> influence.settings(Config(), [3, 7]).sweep
        {'network.silent': [[], [3], [7], [3, 7]]}

    Args:
        chosen: of the run.
        without: nodes, each of which is silent in a network of its own; several also together in one more.

    Raises:
        ValueError: there is no such node, or the settings say already who is silent, or sweep by zip.
    """
    if not without:
        raise ValueError("--without must name at least one node, got none; --without 3,7")
    if chosen.network.silent or "network.silent" in chosen.sweep:
        raise ValueError("network.silent must be left out where --without names nodes; leave out one of both")
    if chosen.sweep and chosen.sweep_mode == "zip":
        raise ValueError("sweep_mode must be product where --without names nodes, got 'zip'; leave it out")
    alone = [[i] for i in without]
    together = [[*without]] if len(without) > 1 else []
    return replace(chosen, sweep=chosen.sweep | {"network.silent": [[], *alone, *together]})


def table(
    configs: Sequence[Config], x: Float[Tensor, "n p"], versions: Sequence[Int[Tensor, "_ _"]], scores: "pd.DataFrame"
) -> "pd.DataFrame":
    """Returns what silent nodes had changed, a row for each network with some and each of its nodes.

    Args:
        configs: of all networks.
        x: final models, networks one after the other.
        versions: final versions of each network.
        scores: of all nodes, as `Result.evaluate` returns them.

    Raises:
        ValueError: no network has silent nodes, or one has no other that is the same but for them.
    """
    offsets = np.cumsum([0, *(c.network.nodes for c in configs)])
    plain = {_key(c): g for g, c in enumerate(configs) if not c.network.silent}
    parts = list[pd.DataFrame]()
    for g, c in enumerate(configs):
        if not c.network.silent:
            continue
        if (base := plain.get(_key(c))) is None:
            rule = "influence must be asked of a run in which a network is the same but for network.silent"
            raise ValueError(f"{rule}, got none for {[*c.network.silent]}; sweep.network.silent=[[], [3]]")
        with_, without = (slice(offsets[k], offsets[k + 1]) for k in (base, g))
        found: dict[str, Any] = {"without": " ".join(map(str, c.network.silent)), "network": g, "seed": c.seed}
        found |= {"node": range(c.network.nodes), "reached": _reached(versions[base], c)}
        found |= {"distance": torch.linalg.vector_norm((x[with_] - x[without]).double(), dim=1).tolist()}
        for name in SCORES:
            values = scores[name].to_numpy()
            found |= {name: values[with_], f"{name}_without": values[without]}
        parts.append(pd.DataFrame(found))
    if not parts:
        raise ValueError("influence must be asked of a run with network.silent; sweep.network.silent=[[], [3]]")
    return pd.concat(parts, ignore_index=True)


def summary(found: "pd.DataFrame") -> "pd.DataFrame":
    """Returns the same for each network: who is silent, how many others changed by that, and how much, in the mean."""
    rows = list[dict[str, Any]]()
    for network, part in found.groupby("network", sort=False):
        without, seed = str(part["without"].iloc[0]), part["seed"].iloc[0]
        others = part[~part["node"].isin([int(i) for i in without.split()])]
        row: dict[str, Any] = {"without": without, "network": network, "seed": seed}
        row |= {"changed": int(np.count_nonzero(others["distance"] > 0))}
        row |= {"distance_mean": others["distance"].mean(), "distance_max": others["distance"].max()}
        for name in SCORES:
            row[f"{name}_gained"] = (others[name] - others[f"{name}_without"]).mean()
        rows.append(row)
    return pd.DataFrame(rows)


def reached(c: Config, versions: Int[Tensor, "n t"]) -> "pd.DataFrame":
    """Returns how many updates of each tracked node are in the model of each node, at most: who could learn from whom.

    Example:
        >>> import torch
        >>> from batchednodes.config import Config, Network
        >>> from batchednodes.figures.influence import reached
        >>> reached(Config(network=Network(nodes=2)), torch.tensor([[4, 1], [2, 5]])).to_dict("list")
        {0: [4, 2], 1: [1, 5]}

    Args:
        c: settings of a network.
        versions: of its nodes.
    """
    tracked = sample(c.seed, rng.SOURCES, c.network.nodes, versions.shape[1])
    columns, rows = pd.Index(tracked, name="of"), pd.RangeIndex(len(versions), name="node")
    return pd.DataFrame(versions.numpy(), index=rows, columns=columns)


def _reached(versions: Int[Tensor, "n t"], c: Config) -> Any:
    """Returns the most updates of a silent node that reached each node in the run itself; None: not all are tracked."""
    if versions.shape[1] < c.network.nodes:
        return None
    return versions[:, [*c.network.silent]].amax(1).tolist()


def _key(c: Config) -> str:
    """Returns what networks have in common that differ in who is silent."""
    plain = config.to_dict(c)
    plain["network"]["silent"] = []
    return repr(plain)
