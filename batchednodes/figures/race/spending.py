"""Spending: how many gradients nodes compute, and how many bytes they send, as time goes on, before any of it is run.

Both follow from events alone, which are known ahead; so a race by either ends at the instant at which it is spent.

Notation: g networks, n nodes, m times.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from batchednodes.config import Config, sweep
from batchednodes.data import StepCount
from batchednodes.events.messages.records import REQUEST
from batchednodes.events.messages.timeline import MessageTimeline, accounts
from batchednodes.events.timeline import Clocks, Timeline
from batchednodes.simulation.build import assembly, datasets, learning
from batchednodes.simulation.build.personal import contact_bytes

_PARTS = 16
"""Windows of the length of a run in which the instant is looked for."""

_LONGEST = 1000
"""Lengths of a run after which it is given up; or after one, where it would not come by then at that pace."""


@dataclass(frozen=True)
class Spending:
    """What the networks of one entrant spend."""

    events: Timeline
    steps: Float64[np.ndarray, " n"]
    """Minibatch gradients of an update of each node, in the mean."""
    message: tuple[int, ...]
    """Bytes of a contact of each network, or of a message, where there are such [B]."""

    @staticmethod
    def of(settings: Config) -> "Spending":
        """Returns what the networks of a config spend."""
        configs = [point.config for point in sweep.points(settings)]
        events = assembly.timeline(configs)
        dtype, sizes = learning.DTYPES[settings.dtype], datasets.sizes(configs[:1])[0]
        stack = learning.skeleton(configs[0], sizes, dtype, torch.device("cpu"))
        steps = np.concatenate([_steps(c) * c.algorithm.gradients() for c in configs])
        return Spending(events, steps, contact_bytes(configs, events, stack))

    def gradients(self, clocks: Clocks) -> Float64[np.ndarray, " g"]:
        """Returns the minibatch gradients that a node of each network has computed, in the mean."""
        return self._mean(clocks.updates * self.steps)

    def bytes(self, clocks: Clocks) -> Float64[np.ndarray, " g"]:
        """Returns the bytes that a node of each network has sent, in the mean [B]."""
        contacts = np.add.reduceat(clocks.gossips, self.events.networks.offsets[:-1], dtype=np.int64)
        messages = contacts
        if isinstance(self.events, MessageTimeline) and clocks.in_flight is not None:
            laws = self.events.laws
            messages = np.array([one["sent"] for one in accounts(clocks.in_flight, laws)], np.int64)
            messages = messages - contacts if laws.exchange == REQUEST else messages  # a request has no size
        return messages * np.array(self.message, float) / self.events.networks.sizes

    def _mean(self, each: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " g"]:
        return np.add.reduceat(each, self.events.networks.offsets[:-1]) / self.events.networks.sizes

    def at(self, times: Sequence[float]) -> dict[str, Float64[np.ndarray, "m g"]]:
        """Returns what has been spent at some times, in increasing order [s]: "gradients" and "bytes"."""
        clocks, gradients, sent = self.events.begin(), list[np.ndarray](), list[np.ndarray]()
        for time in times:
            if time > clocks.time:
                _, clocks = self.events.window(clocks, time)
            gradients.append(self.gradients(clocks))
            sent.append(self.bytes(clocks))
        return {"gradients": np.array(gradients), "bytes": np.array(sent)}

    def until(self, kind: str, amount: float, span: float) -> float | None:
        """Returns the first instant by which a node has spent an amount, in the mean over nodes and networks.

        Args:
            kind: of `rules.BUDGETS`.
            amount: of it.
            span: length of a run [s], of which a thousand are looked at, at most.

        Returns:
            The instant [s]; None: it is not spent by then.
        """
        if kind == "time":
            return amount
        spent, clocks = (self.gradients if kind == "gradients" else self.bytes), self.events.begin()
        for k in range(1, _PARTS * _LONGEST + 1):
            _, after = self.events.window(clocks, k * span / _PARTS)
            if spent(after).mean() >= amount:
                break
            if k == _PARTS and spent(after).mean() * _LONGEST < amount:
                return None
            clocks = after
        else:
            return None
        high = after.time
        while clocks.time < (middle := (clocks.time + high) / 2) < high:
            _, after = self.events.window(clocks, middle)
            if spent(after).mean() >= amount:
                high = middle
            else:
                clocks = after
        return high


def _steps(c: Config) -> Float64[np.ndarray, " n"]:
    """Returns the minibatch steps of an update of each node of a network, in the mean."""
    n, local = c.network.nodes, c.local
    if isinstance(local.steps, StepCount):
        law = local.steps.cumulated()
        return np.full(n, law.size - float(law[:-1].sum()))
    if local.epochs is None:
        return np.full(n, float(local.steps))
    _, shards = datasets.split(c)
    assert isinstance(local.batch_size, int), "epochs have minibatches of a size"
    return local.epochs * np.ceil(shards.sizes / local.batch_size)
