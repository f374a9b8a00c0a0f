"""Kinds of the user's own that return what cannot be, and what is said of each."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from batchednodes.algorithms.base import Algorithm, Field
from batchednodes.data import Dataset
from batchednodes.data.partitions.base import Shards
from batchednodes.events.availability import AvailabilityLaw
from batchednodes.events.gaps import Gaps
from batchednodes.events.links.delay import DelayLaw
from batchednodes.events.merge import MergeLaw
from batchednodes.events.schemes import ContactList
from batchednodes.events.token_accounts import TokenLaw
from batchednodes.topology import Graph, Weighted
from tests.support import users_kinds as kinds

MESSAGES: dict[str, str] = {}
"""Class and section -> pattern of what is said after the section."""


def said(section: str, message: str) -> Any:
    """Returns what makes a class a kind, and notes where it is tried and what is said of it."""

    def noted(cls: type) -> type:
        MESSAGES[f"{cls.__name__} {section}"] = message
        return dataclass(frozen=True)(cls)

    return noted


WORKS = r" must be a kind that works, got \S+, {}\(\) of which "


@said("network.topology", WORKS.format("graph") + "must return Graph or PeerSampler or NoneType, returned list")
class Pairs(kinds.Petersen):
    """A graph as pairs."""

    def graph(self, n, seed) -> Any:
        return [(0, 1)]


@said("network.topology", r"\.edges must join nodes of 0 \.\. 9, got 2 \.\. 10")
class Counted(kinds.Petersen):
    """Nodes are counted from 1."""

    def graph(self, n, seed):
        return Graph.of(n, np.arange(1, n), np.arange(2, n + 1))


@said("network.topology", r"\.kind must be one whose graph has the network's 10 nodes, got one of 5")
class Small(kinds.Petersen):
    """A graph of half of the nodes."""

    def graph(self, n, seed):
        return Graph.of(n // 2, np.arange(4), np.arange(1, 5))


@said("network.weights", r"\.kind must be one whose probabilities of a node sum to at most 1, got 2 for node 0")
class Heavy(kinds.Even):
    """Probabilities above 1."""

    def chooser(self, graph):
        return Weighted.of(graph, np.ones(graph.indices.size))


@said("network.weights", r"\.probabilities must be one number, at least 0, for each of the graph's 20 contacts, got 1 ")
class Few(kinds.Even):
    """Probabilities of three contacts."""

    def chooser(self, graph):
        return Weighted.of(graph, np.ones(3))


@said("gossip.clock", WORKS.format("gaps") + r"must return shift of shape \[10\], returned one of shape \[1\]")
class OneGap(kinds.Weibull):
    """The gaps of one node."""

    def gaps(self, n, seed, key, size=None):
        return Gaps(np.zeros(1), np.ones(1))


@said("gossip.clock", r": gap must have parameters of 10 nodes, one number for each or for all, got \[3\]")
class ThreeShapes(kinds.Weibull):
    """Parameters of three nodes."""

    def gaps(self, n, seed, key, size=None):
        return Gaps.by(kinds.weibull, np.ones(n), np.ones(3), 1.0, key)


@said("update.clock", r": gap must take 3 numbers \(a uniform number, a, b\) .*, got _three: Signature mismatch")
class ThreeParameters(kinds.Weibull):
    """A law of three parameters."""

    def gaps(self, n, seed, key, size=None):
        return Gaps.by(three, np.ones(n), 1.0, 1.0, key)


def _three(u, a, b, c):
    """Returns the inverse CDF of a law of three parameters."""
    return u * a * b * c


three: Any = _three


@said("update.clock", r" or gossip.clock must be a kind that works, got \S+, with which TypeError: .* was raised")
class NoArguments(kinds.Weibull):
    """A method that takes nothing."""

    def gaps(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None


@said("gossip.delay", WORKS.format("delays") + "must return DelayLaw, returned list")
class Delays(kinds.WeibullDelay):
    """Delays as a list."""

    def delays(self, n, seed, key, size, model) -> Any:
        return [1.0] * n


@said("gossip.delay", WORKS.format("delays") + r"must return a of shape \[10\], returned one of shape \[2\]")
class TwoDelays(kinds.WeibullDelay):
    """Delays of two nodes."""

    def delays(self, n, seed, key, size, model):
        return DelayLaw.by(kinds.weibull, np.ones(2), 1.0, 1.0, key)


@said("gossip.loss", WORKS.format("losses") + r"must return four rows of probabilities .*, got shape \[10\]")
class Flat(kinds.Far):
    """One probability a node."""

    def losses(self, n, seed, key, size):
        return np.zeros(size)


@said("gossip.loss", WORKS.format("losses") + r"must return four rows of probabilities of 10 nodes, in \[0, 1\], got 2")
class Certain(kinds.Far):
    """Probabilities above 1."""

    def losses(self, n, seed, key, size):
        return np.full((4, size), 2.0)


@said("network.availability", WORKS.format("presence") + r"must return a of shape \[10\], returned one of shape \[2\]")
class TwoPresences(kinds.Heavy):
    """Times of two nodes."""

    def presence(self, n, seed, key, size):
        return AvailabilityLaw.by(kinds.pareto, np.ones(2), np.ones(2), key)


@said("gossip.merge", r": rule must return weights in \[0, 1\], got 2 for ages 0 and 0")
class Double(kinds.Softmax):
    """A weight above 1."""

    def weighing(self, weight):
        return MergeLaw(two, weight, weight)


def two(own, other, a, b):
    """Returns what is no weight."""
    return 2.0


@said("gossip.merge", WORKS.format("weighing") + "must return MergeLaw, returned float")
class Half(kinds.Softmax):
    """A weight as a number."""

    def weighing(self, weight) -> Any:
        return 0.5


@said("gossip.compress", WORKS.format("compress") + r"must return rows of shape \[3, 5\], got \[3, 1\]")
class MeanOnly(kinds.Rounded):
    """One number of each row."""

    def compress(self, v, uniform) -> Any:
        return v.mean(1, keepdim=True)


@said("gossip.compress", WORKS.format("compress") + "must compress each row by itself, got what depends on other rows")
class SharedScale(kinds.Rounded):
    """A scale that all rows share."""

    def compress(self, v, uniform) -> Any:
        return v / v.abs().max()


@said("gossip.compress", WORKS.format("size") + "must return a whole number of bytes, at least 0, got 7.5")
class HalfBytes(kinds.Rounded):
    """Bytes that are not whole."""

    def size(self, p, item) -> Any:
        return 1.5 * p


@said("gossip.flow", r": sends must return a probability in \[0, 1\], got 2 for 0 tokens")
class Eager(kinds.Thrifty):
    """A probability above 1."""

    def accounts(self):
        return TokenLaw.by(kinds.sends, kinds.reacts, 3, 2.0)


@said("gossip.flow", r": reacts must return a number of messages, at least 0, got -1 for 0 tokens and news 0")
class Owing(kinds.Thrifty):
    """A negative number of messages."""

    def accounts(self):
        return TokenLaw.by(kinds.sends, owes, 3, 0.5)


def owes(tokens, news, a, b):
    """Returns what is no number of messages."""
    return -1.0


@said("gossip.scheme", r" must return contacts with times in \(0, 3\] \[s\], and two nodes of 0 \.\. 9, got ")
class Outside(kinds.Chatter):
    """Contacts with nodes that are not there."""

    def contacts_(self, window, state):
        made = super().contacts_(window, state)
        return ContactList(made.time, made.actor, made.peer + np.int32(10))


@said("gossip.scheme", " must be a kind that works, got .*, with which AttributeError: .* was raised")
class Silent(kinds.Chatter):
    """No list of contacts."""

    def contacts_(self, window, state) -> Any:
        return None


@said("update.clock.rate", r" must draw 10 numbers, got float64 of shape \[3\]")
class ThreeValues(kinds.Ranks):
    """Values of three nodes."""

    def draw(self, n, seed, key):
        return np.ones(3)


@said("local.optimizer", WORKS.format("step") + r"must make models of shape \[3, 5\], got \[3, 2\]")
class Cut(kinds.SignMomentum):
    """Two parameters of each model."""

    def step(self, x, g, kept, lr, beta):
        return x[:, :2]


@said("local.optimizer", WORKS.format("step") + "must compute each row by itself, got models that depend on other rows")
class Joint(kinds.SignMomentum):
    """A norm over all rows."""

    def step(self, x, g, kept, lr, beta):
        return x - lr * g / g.norm()


@said("local.optimizer", WORKS.format("step") + r"must keep its fields \['mean'\], got \['mean', 'square'\]")
class Undeclared(kinds.SignMomentum):
    """A field that is not declared."""

    def step(self, x, g, kept, lr, beta):
        kept["square"] = g * g
        return x


@said("local.schedule", WORKS.format("factor") + r"must return a factor of each of 3 nodes, got \[1, 3\]")
class Square(kinds.Decay):
    """A matrix of factors."""

    def factor(self, k, scale):
        return k[None]


@said("task.loss", WORKS.format("each") + r"must return a loss for each of 3 examples, got a tensor of shape \[\]")
class MeanLoss(kinds.Huber):
    """The mean over examples."""

    def each(self, outputs, targets):
        return (outputs - targets).square().mean()


@said("task.loss", WORKS.format("each") + r"raised AttributeError: .* \(line \d+ of faulty_kinds\.py\)")
class Misspelt(kinds.Huber):
    """A function that there is not."""

    def each(self, outputs, targets):
        return (outputs - targets).quadrat()


@said("task.data", r"\.targets must be real targets \[rows, targets of a row\], got shape \[100\]")
class Column(kinds.Sine):
    """Targets without columns."""

    def load(self, n, seed):
        made = super().load(n, seed)
        return replace(made, targets=made.targets[:, 0])


@said("gossip.scheme", WORKS.format("expected") + "must return float or int, returned str")
class Often(kinds.Chatter):
    """A number of contacts in words."""

    def expected(self, capacity, update) -> Any:
        return "often"


@said("task.data", r"\.features must be an array of NumPy of float64, float32 or int64, got list")
class Lists(kinds.Sine):
    """Features as lists."""

    def load(self, n, seed):
        made = super().load(n, seed)
        return Dataset(made.features.tolist(), made.targets, made.test_features, made.test_targets, None)


@said("task.data", r"\.sizes\(\) must return the sizes of what load\(\) returns, got ")
class Promised(kinds.Sine):
    """Fewer samples than promised."""

    def load(self, n, seed):
        return kinds.Sine(self.samples - 1).load(n, seed)


@said("task.shift", r" must leave data that can be learned from: features must be finite, got 2000 non-finite values")
class Lost(kinds.Gain):
    """Features that are no numbers."""

    def apply_(self, x, node, n, seed, purpose):
        x *= np.nan


@said("task.partition", r" must give each of 200 training rows one owner, and each of 10 nodes a row, got ")
class Shared(kinds.ByHospital):
    """Row 0 for everyone."""

    def split(self, dataset, n, seed):
        return Shards(np.zeros(200, np.int64), np.arange(n + 1) * 20)


@said("task.partition", r" must give rows and offsets as whole numbers, got float64 and int64; use int64")
class Halves(kinds.ByHospital):
    """Rows as real numbers."""

    def split(self, data, n, seed):
        found = super().split(data, n, seed)
        return replace(found, rows=found.rows.astype(float))


@said("algorithm", WORKS.format("emit_") + r"must return kept with a row of each of 1 nodes, got NoneType")
class Forgetful(Algorithm):
    """Nothing for its inbox."""

    fields = {"kept": Field(lives="inbox")}  # noqa: RUF012

    def emit_(self, r, k):
        return {}


@said("algorithm", WORKS.format("update_") + r"must leave x of shape \[1, \d+\], got shape \[1, 1\]")
class Narrow(Algorithm):
    """One number in place of a model."""

    def update_(self, r, k):
        k.descend(r["x"])
        r["x"] = k.lr
