r"""Privacy loss: the epsilon of each node for its true number of steps, by a Renyi accountant of opacus.

Two models of a node are compared, of data that differ in one example, which the other lacks. How a step hides that
depends on how its minibatch is drawn:

* poisson: each example is in it with probability q = b / m, independently. This is the sampled Gaussian mechanism, and
  the accountant is given q and the number of steps;
* shuffle, and whole epochs: within one epoch an example is in one place. Whatever the order, E epochs that have begun
  are at most E c Gaussian mechanisms without sampling, where c <= E is the most places that one example has in one
  minibatch: 1 where minibatches do not reach from one epoch into the next.

Nothing is claimed of what passing models on may hide, nor of other nodes, whose privacy is their own.

Notation: n nodes, m examples of a node, b those of a minibatch, sigma noise multiplier.

References:
    I. Mironov, K. Talwar, L. Zhang, "Renyi differential privacy of the sampled Gaussian mechanism", arXiv 1908.10530.
    L. Chua et al., "How private are DP-SGD implementations?", ICML 2024 (sampled and shuffled minibatches differ).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from batchednodes.config import Config
from batchednodes.data import Sampler
from batchednodes.numerics.quiet import filtered
from batchednodes.numerics.values import per_node

_LOG = logging.getLogger(__name__)
"""Says on level WARNING that no privacy loss is reported."""


@dataclass(frozen=True, eq=False)
class Accountant:
    """The privacy loss of nodes."""

    sampler: Sampler
    """How minibatches are drawn."""
    noise: Float64[np.ndarray, " n"]
    """Noise multiplier of each node; NaN: it is not private."""
    delta: Float64[np.ndarray, " n"]
    """Probability with which the loss may be more."""
    _of_one: dict[tuple[float, float], np.ndarray] = field(default_factory=dict, repr=False)
    """Renyi divergences of one step at all orders, by sampling rate and noise multiplier."""

    @staticmethod
    def of(configs: Sequence[Config], sampler: Sampler) -> "Accountant | None":
        """Returns what accounts for nodes; None: none has noise, or opacus is missing, which is logged."""
        if all(c.local.privacy is None or not c.local.privacy.is_noisy() for c in configs):
            return None
        if find_spec("opacus") is None:
            _LOG.warning(
                "local.privacy: epsilon is not reported, since opacus is not installed: pip install 'batchednodes[dp]'"
            )
            return None
        noise, delta = list[np.ndarray](), list[np.ndarray]()
        for c in configs:
            n, known = c.network.nodes, c.local.privacy
            nan = np.full(n, np.nan)
            noise.append(nan if known is None else per_node(known.noise, n, c.seed, "local.privacy.noise"))
            delta.append(nan if known is None else np.full(n, known.delta))
        return Accountant(sampler, np.concatenate(noise), np.concatenate(delta))

    def epsilon(self, updates: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Returns the privacy loss of each node after some updates; infinite without noise, NaN where not private."""
        rate, times = self._mechanisms(updates)
        found = np.where(np.isnan(self.noise), np.nan, np.where(times > 0, np.inf, 0.0))
        some = np.flatnonzero((self.noise > 0) & (times > 0))
        columns = np.stack([rate, self.noise, times, self.delta], 1)[some]
        alike, which = np.unique(columns, axis=0, return_inverse=True)
        found[some] = np.array([self._loss(*row) for row in alike.tolist()])[which.ravel()]
        return found

    def _mechanisms(self, updates: Int64[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the sampling rate of each node, and how many mechanisms of that rate its steps are, at most."""
        m, b, one = self.sampler.sizes, self.sampler.batch_size, np.ones(len(updates))
        if self.sampler.epochs is not None:
            return one, updates * self.sampler.epochs
        steps = self.sampler.steps_before(updates)
        if self.sampler.sampling == "poisson":
            return b / m, steps
        places = np.where(m % b == 0, 1, np.where(b % m == 0, b // m, -(-b // m) + 1))
        begun = -(-steps * b // m)
        return one, begun * np.minimum(places, begun)

    def _loss(self, rate: float, noise: float, times: float, delta: float) -> float:
        """Returns the epsilon of some mechanisms of one sampling rate and noise multiplier."""
        orders, analysis = self._library
        if (rate, noise) not in self._of_one:
            divergences = analysis.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=orders)
            self._of_one[rate, noise] = np.asarray(divergences)
        with filtered("ignore"):  # the best order may be the first or the last
            found, _ = analysis.get_privacy_spent(orders=orders, rdp=self._of_one[rate, noise] * times, delta=delta)
        return float(found)

    @cached_property
    def _library(self) -> tuple[list[int | float], Any]:
        """The orders of opacus, and its functions of Renyi divergences."""
        with filtered("ignore"):  # a package may warn of what it imports
            accountants = import_module("opacus.accountants")
            return accountants.RDPAccountant.DEFAULT_ALPHAS, import_module("opacus.accountants.analysis.rdp")
