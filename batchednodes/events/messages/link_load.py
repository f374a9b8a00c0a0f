r"""Load: what links have to carry, and about how many models are under way, by the laws alone.

Notation: n nodes, i sender, j receiver.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float64
from numba import njit

from batchednodes.events.availability import DIURNAL, MARKOV, PER_MESSAGE, TRACE
from batchednodes.events.links import delay
from batchednodes.events.messages.records import ASKING, PUSHED, REQUEST, MessageLaws, bits
from batchednodes.events.messages.timeline import MessageTimeline
from batchednodes.numerics import rng

LONGEST = 16
"""Models that may wait at a link which cannot carry what its node sends: a short run with fewer is no mistake."""

_MOST = 1e13
"""More models under way than any plan lets through."""

_LONG = 6
"""Mean times that a node is on in a row, which it seldom is for longer."""


@dataclass(frozen=True)
class LinkLoad:
    """What the links of all nodes have to carry, in the long run."""

    law: MessageTimeline
    """Of all events."""
    models: Float64[np.ndarray, " n"]
    """Models that each node sends [1/s], those that are lost, too."""
    on: Float64[np.ndarray, " n"]
    """Part of the time that it may send."""
    kept: Float64[np.ndarray, " n"]
    """Part of the models that is not lost."""
    late: Float64[np.ndarray, " n"]
    """Mean time that they are under way, without their time on the link of their sender [s]."""
    stay: Float64[np.ndarray, " n"]
    """How long the node belongs to the network during the run [s]."""

    @classmethod
    def of(cls, law: MessageTimeline, late: Float64[np.ndarray, " n"], until: float) -> "LinkLoad":
        """Returns the load of a run.

        Args:
            law: of all events.
            late: mean delay of the messages of each node, without their time on its link [s].
            until: end of the run [s].
        """
        nodes, speed, (pushed, replied) = law.laws.nodes, law.speed(), _sends(law)
        with np.errstate(all="ignore"):
            on, kept = _on(law.laws, until), 1.0 - _lost(nodes)
            stay = np.maximum(0.0, np.minimum(until, nodes["leave"]) - nodes["join"])
            models = pushed * speed * on
            if replied:
                found = np.where(nodes["law"] == PER_MESSAGE, nodes["on_a"], on)
                models = models + found * _asked(law, speed * on * kept * (stay / until))
        return cls(law, models, on, kept, late + (1.0 if law.laws.rounds else 0.0), stay)

    def check(self) -> None:
        """Refuses models that pile up at a sender without end.

        It is the median over the links of a node that counts: what piles up at slow ones (`spread`) is planned.

        Raises:
            ValueError: a link has more to carry than it can.
        """
        time = self.law.laws.nodes["transfer"]
        with np.errstate(all="ignore"):  # none of infinitely slow links, or the like: nan
            load = self.models * time
            crowded = np.flatnonzero((load >= 1) & (self.models * self.stay * (1 - 1 / load) > LONGEST))
        if crowded.size:
            i = crowded[0]
            raise ValueError(
                "gossip.delay.rate must let a link carry what its node sends [B/s], got "
                f"{self.models[i]:.3g} models a second that take {time[i]:.3g} s each, as at node {i}; raise the rate, "
                "or lower gossip.clock.rate"
            )

    def under_way(self, filling: bool) -> Float64[np.ndarray, "2 n"]:
        """Returns about the mean and variance of the models of each node under way, after a long time or at the end.

        A link is a queue with Poisson arrivals, where a model waits for models * square / (2 (1 - load)) on average
        (Pollaczek, Khinchine), with load = models * time; the number that waits is about geometric. Where there are
        more than the link carries, the rest waits. With `fifo` and delays D at r messages a second from a node to
        another, r^2 E[D^2] / 2 wait for others, at most.

        Args:
            filling: whether all that accounts hold may be sent at once.
        """
        nodes = self.law.laws.nodes
        with np.errstate(all="ignore"):
            fast = self.models / np.where(self.on > 0, self.on, 1.0)
            sent = np.where(nodes["law"] == TRACE, fast, self.models)
            time, square = _times(self.law)
            free = 1 - sent * time
            waits = np.where(free > 0, sent * square / (2 * free), self.stay * (1 - 1 / (sent * time)))
            on = np.select([nodes["law"] == MARKOV, nodes["law"] == DIURNAL],
                           [_LONG * nodes["on_a"], nodes["on_a"] * nodes["on_b"]])  # fmt: skip
            waits = waits + np.where(fast * time > 1, on * (1 - 1 / (fast * time)), 0.0)  # until it is off
            ordered = self._ordered(sent)
            count = self.kept * sent * (self.late + time + waits + ordered)
            even = self.law.gossip.shift > 0 if self.law.calendar is None else 0.0  # all may send at one instant
            count = count + (nodes["capacity"] * (nodes["flow"] > 0) if filling else 0.0) + even
            mean = np.fmin(np.where(np.isnan(count), 0.0, count), self._most())
            clumps = np.nan_to_num(2 * ordered / self.late, posinf=_MOST) * sent
            return np.minimum(_MOST, np.stack([mean, mean * (1 / np.maximum(free, 0.05) + clumps)]))

    def settling(self) -> float:
        """Returns about how long it takes until as many models are under way as later on [s]; inf: that is not known.

        It is not where some links are slower than others, or may be overloaded for a while, and where nodes come late
        or go on and off as a file says.
        """
        nodes = self.law.laws.nodes
        with np.errstate(all="ignore"):
            load = np.nan_to_num(self.models / np.where(self.on > 0, self.on, 1.0) * nodes["transfer"], nan=0.0)
        grows = ((nodes["spread"] * nodes["transfer"] > 0) | (load >= 1) | (nodes["law"] == TRACE)).any()
        if grows or (nodes["join"] > 0).any():
            return np.inf
        return float(np.max((self.late + nodes["transfer"] / np.maximum(1e-9, 1 - load))[self.models > 0], initial=0.0))

    def _ordered(self, sent: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Returns how long a message waits for others to its receiver, for models sent [1/s], at most in the mean."""
        nodes, laws = self.law.laws.nodes, self.law.laws
        law, a, b = (nodes[name] for name in ("delay", "delay_a", "delay_b"))
        ends = zip(laws.traces[:-1], laws.traces[1:], strict=True)
        traced = np.array([np.mean(laws.trace[i:j] ** 2) if j > i else 0.0 for i, j in ends])[nodes["network"]]
        rows = np.diff(laws.begun)
        sender = np.repeat(np.arange(laws.n), rows)
        listed = np.bincount(sender, laws.links["delay"] ** 2, laws.n) / np.maximum(1, rows)
        kinds = [delay.UNIFORM, delay.EXPONENTIAL, delay.LOGNORMAL, delay.TRACE, delay.LINKS, delay.TIMED]
        squares = [(a**2 + a * b + b**2) / 3, 2 * a**2, (a * np.exp(b**2)) ** 2, traced, listed, listed]
        square = np.minimum(np.select([law == kind for kind in kinds], squares), self.stay * self.late)
        messages = sent + (self.law.speed() if laws.exchange == REQUEST else 0.0)
        return np.where(nodes["fifo"] > 0, messages / _links(self.law) * square / 2, 0.0)

    def _most(self) -> Float64[np.ndarray, " n"]:
        """Returns about how many models each node sends in the whole run that are not lost."""
        most = np.nan_to_num(self.kept * self.models * self.stay, nan=0.0, posinf=_MOST)
        return np.minimum(_MOST, most + 6 * np.sqrt(most))


def _sends(law: MessageTimeline) -> tuple[int, int]:
    """Returns how many models a contact sends, and how many come back."""
    return {PUSHED: (1, 0), REQUEST: (0, 1), ASKING: (1, 1)}.get(law.laws.exchange, (0, 0))


def _links(law: MessageTimeline) -> Float64[np.ndarray, " n"]:
    """Returns about how many others each node sends to."""
    sizes = np.repeat(law.networks.sizes, law.networks.sizes)
    degrees = np.diff(law.contacts.indptr)
    return np.maximum(1.0, np.where(degrees > 0, degrees, sizes - 1))


def _times(law: MessageTimeline) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Returns mean and mean square of the time of a model over the links of each node [s, s^2].

    Where these are listed it is theirs, which stays as it is; else that of the law, of which there are many.
    """
    nodes, (pushed, replied) = law.laws.nodes, _sends(law)
    spread, transfer = nodes["spread"], nodes["transfer"]
    if not (spread * transfer).any():
        return transfer, transfer**2
    sums = np.zeros((3, law.networks.n))
    _add_links(law.contacts.indptr, law.contacts.indices, pushed > 0, replied > 0, law.laws, sums)
    some, listed = sums[0] > 0, sums[1:] / np.maximum(1.0, sums[0])
    means = transfer * np.exp(spread**2 / 2), transfer**2 * np.exp(2 * spread**2)
    return np.where(some, listed[0], means[0]), np.where(some, listed[1], means[1])


@njit(nogil=True, cache=True)
@no_type_check
def _add_links(indptr, indices, pushed, replied, laws, sums):  # noqa: ANN001, ANN202  (numba infers the types)
    """Adds up the links on which each node sends models: their number, times and squares."""
    for i in range(laws.n):
        for e in range(indptr[i], indptr[i + 1]):
            for way in range(2):
                if (way == 0 and not pushed) or (way == 1 and not replied):
                    continue
                a, b = (i, np.int64(indices[e])) if way == 0 else (np.int64(indices[e]), i)
                high, low = bits(a, rng.LINK, laws.nodes[b].index, laws)
                time = laws.nodes[a].transfer * np.exp(-laws.nodes[a].spread * delay.normal(high, low))
                sums[0, a] += 1.0
                sums[1, a] += time
                sums[2, a] += time * time


def _on(laws: MessageLaws, until: float) -> Float64[np.ndarray, " n"]:
    """Returns the part of the time that each node may send: in the long run, or in this one where a file gives it."""
    law, a, b = (laws.nodes[name] for name in ("law", "on_a", "on_b"))
    counts = np.diff(laws.begins)
    number = np.arange(laws.turns.size) - np.repeat(laws.begins[:-1], counts)
    times = np.where(number % 2 == 0, 1.0, -1.0) * np.minimum(laws.turns, until)  # on up to the first, from the second
    node = np.repeat(np.arange(laws.n), counts)
    traced = np.bincount(node, times, laws.n) / until + (counts % 2 == 0)
    return np.select([law == MARKOV, law == DIURNAL, law == TRACE], [1.0 / (1.0 + b / a), b, traced], 1.0)


def _lost(nodes: np.ndarray) -> Float64[np.ndarray, " n"]:
    """Returns the part of the messages of each node that is lost, in the long run."""
    changes = nodes["good_to_bad"] + nodes["bad_to_good"]
    bad = np.where(changes > 0, nodes["good_to_bad"] / np.where(changes > 0, changes, 1.0), 0.0)
    return (1 - bad) * nodes["good"] + bad * nodes["bad"]


def _asked(law: MessageTimeline, speed: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Returns about how often each node is contacted [1/s], where each contacts others at some speed [1/s]."""
    contacts, networks = law.contacts, law.networks
    sums = np.bincount(networks.network_of(), weights=speed, minlength=networks.count)
    sizes = networks.sizes
    means = np.repeat(sums / sizes, sizes)
    degrees = np.diff(contacts.indptr)
    weights = np.repeat(speed / np.maximum(1, degrees), degrees)
    listed = np.bincount(contacts.indices, weights=weights, minlength=networks.n)
    asked = np.where(np.repeat(np.add.reduceat(degrees, networks.offsets[:-1]) > 0, sizes), listed, means)
    for first, chooser in contacts.choosers.items():
        nodes = slice(first, first + int(contacts.size[first]))
        if chooser.union() is not None:  # else all are alike
            ticks = speed[nodes] / np.where(contacts.share[nodes] > 0, contacts.share[nodes], 1.0)
            asked[nodes] = chooser.probabilities().T @ ticks
    return asked
