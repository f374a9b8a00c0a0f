"""Attackers and robust merging, from the settings of some networks."""

from collections.abc import Sequence

import numpy as np
import torch

from batchednodes.algorithms.attacks import OwnRows
from batchednodes.algorithms.robust import Robust
from batchednodes.config import Config
from batchednodes.config.robust import is_robust, plainly_averages
from batchednodes.events.merge import Gathering
from batchednodes.topology import Networks


def attackers(configs: Sequence[Config]) -> np.ndarray:
    """Returns which nodes of all networks attack."""
    return np.concatenate([c.network.attack.attackers(c.network.nodes, c.seed) for c in configs])


def robust(configs: Sequence[Config], networks: Networks, dtype: torch.dtype, where: torch.device) -> Robust | None:
    """Returns what takes the place of averages in the networks of one batch; None: nothing.

    Args:
        configs: settings of each network.
        networks: the batch.
        dtype: of models.
        where: the device.
    """
    if not any(is_robust(c) for c in configs):
        return None
    assert plainly_averages(configs[0].method)  # the settings were checked
    bad, merges = torch.from_numpy(attackers(configs)), tuple(c.gossip.merge for c in configs)
    sums = np.add.reduceat(bad.numpy(), networks.offsets[:-1], dtype=np.int64)
    attacks = tuple(c.network.attack.settled(c.network.nodes, int(m)) for c, m in zip(configs, sums, strict=True))
    liars = list[tuple[OwnRows, torch.Tensor]]()
    for g, attack in enumerate(attacks):
        if not isinstance(attack, OwnRows):
            continue
        who = next((nodes for one, nodes in liars if one == attack), None)
        if who is None:
            liars.append((attack, who := torch.zeros_like(bad)))
        who[networks.slice(g)] = bad[networks.slice(g)]
    radii = [merge.clips() if isinstance(merge, Gathering) else None for merge in merges]
    tau = np.repeat([np.inf if radius is None else radius for radius in radii], networks.sizes)
    radius = torch.from_numpy(tau).to(where, dtype) if any(r is not None for r in radii) else None
    firsts = {int(first): g for g, first in enumerate(networks.offsets[:-1])}
    here = tuple((attack, who.to(where)) for attack, who in liars)
    return Robust(firsts, merges, attacks, bad.to(where), here, radius)
