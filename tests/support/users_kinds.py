"""Kinds as a user writes them, in a file outside of the package."""

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import nn

from batchednodes.algorithms.attacks import OwnRows
from batchednodes.algorithms.compression.base import Compressor, Feedback
from batchednodes.algorithms.fields import Field
from batchednodes.algorithms.optim import Optimizer, Schedule
from batchednodes.data import Dataset, DataSizes, Partition, Shift, Source, StepCount
from batchednodes.data.partitions.base import check_room, of_owners
from batchednodes.events.availability import Availability, AvailabilityLaw
from batchednodes.events.clocks import Clock
from batchednodes.events.gaps import Gaps
from batchednodes.events.links.delay import Delay, DelayLaw
from batchednodes.events.links.loss import Loss
from batchednodes.events.merge import Merge, MergeLaw
from batchednodes.events.rounds import nth
from batchednodes.events.schemes import ContactList, Scheme
from batchednodes.events.token_accounts import Flow, TokenLaw
from batchednodes.models import Model
from batchednodes.models.criterion import Criterion
from batchednodes.numerics import rng
from batchednodes.numerics.values import Distribution, PerNode, number, per_node
from batchednodes.topology import Graph, Topology, Weighted, Weights


@dataclass(frozen=True)
class Petersen(Topology):
    """Petersen graphs side by side."""

    copies: int = 1
    """How many of them; a tenth of the nodes."""
    skip: int = 2
    """From a node of an inner ring to the next; 2: Petersen's."""

    def __post_init__(self):
        for name in ("copies", "skip"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def contacts(self, n):
        return 3.0 * n

    def graph(self, n, seed):
        if n != 10 * self.copies:
            raise ValueError(f"copies must be n / 10, got {self.copies} at n = {n}")
        k = np.arange(5)
        i, j = np.concatenate([k, k, k + 5]), np.concatenate([(k + 1) % 5, k + 5, (k + self.skip) % 5 + 5])
        first = 10 * np.repeat(np.arange(self.copies), 15)
        return Graph.of(n, np.tile(i, self.copies) + first, np.tile(j, self.copies) + first)


@dataclass(frozen=True)
class Broken(Topology):
    """A graph that cannot be made."""

    def contacts(self, n):
        return 0.0

    def graph(self, n, seed) -> Any:
        return n // (seed - seed)


@dataclass(frozen=True)
class Sloppy(Topology):
    """Settings that cannot be checked."""

    size: int = 1
    """Some size."""

    def __post_init__(self):
        raise KeyError("size")

    def contacts(self, n):
        return 0.0

    def graph(self, n, seed):
        return None


@dataclass
class Loose(Topology):
    """A class that is not frozen."""

    def contacts(self, n):
        return 0.0

    def graph(self, n, seed):
        return None


@dataclass(frozen=True)
class Even(Weights):
    """Some of all contacts are made."""

    share: float = 0.5
    """Part that is made; in [0, 1]."""

    def __post_init__(self):
        number(self.share, 1, "share", high=1.0, open_high=False)

    def chooser(self, graph):
        return Weighted.of(graph, np.repeat(self.share / graph.degrees, graph.degrees))


def weibull(u, scale, shape):
    """Returns the inverse CDF of Weibull's law."""
    return scale * (-math.log(u)) ** (1 / shape)


@dataclass(frozen=True)
class Weibull(Clock):
    """Weibull gaps."""

    shape: PerNode = 0.7
    """Shape; 1: exponential."""
    scale: PerNode = 1.0
    """Scale [s]."""

    def gaps(self, n, seed, key, size=None):
        shape, scale = (per_node(getattr(self, name), n, seed, f"{key}.{name}", open_low=True, size=size)
                        for name in ("shape", "scale"))  # fmt: skip
        return Gaps.by(weibull, scale * [math.gamma(1 + 1 / k) for k in shape], scale, shape, key)


@dataclass(frozen=True)
class WeibullDelay(Delay):
    """Weibull delays."""

    scale: PerNode = 0.5
    """Scale [s]."""

    def delays(self, n, seed, key, size, model):
        scale = per_node(self.scale, n, seed, f"{key}.scale", size=size)
        return DelayLaw.by(weibull, scale * math.gamma(1.5), scale, np.full(size, 2.0), key)


def pareto(u, mean, is_off):
    """Returns the inverse CDF of Pareto's law with exponent 3."""
    return mean * 2 / 3 * u ** (-1 / 3)


@dataclass(frozen=True)
class Heavy(Availability):
    """Times on and off of Pareto's law."""

    mean: PerNode = 4.0
    """Mean time on, and off [s]."""

    def presence(self, n, seed, key, size):
        mean = per_node(self.mean, n, seed, f"{key}.mean", size=size)
        return AvailabilityLaw.by(pareto, mean, mean / 4, key)


@dataclass(frozen=True)
class Far(Loss):
    """The later a node, the more of its messages are lost."""

    most: float = 0.5
    """Probability at the last node."""

    def __post_init__(self):
        number(self.most, 1, "most", high=1.0, open_high=False)

    def losses(self, n, seed, key, size):
        p = self.most * np.arange(size) / n
        return np.stack([p, p, 0 * p, 0 * p])


def softmax(own, other, weight, temperature):
    """Returns the weight of the other model."""
    return 1 / (1 + math.exp((own - other) / temperature))


@dataclass(frozen=True)
class Softmax(Merge):
    """Models count by the softmax of their ages."""

    temperature: float = 2.0
    """Ages over this are compared [steps]."""

    def __post_init__(self):
        number(self.temperature, 1, "temperature", open_low=True)

    def weighing(self, weight):
        return MergeLaw(softmax, weight, np.full(weight.size, self.temperature))


@dataclass(frozen=True)
class Boasting(OwnRows):
    """Attackers send a multiple of what they ought to."""

    nodes: float | list[int] = 2
    """Who attacks."""

    factor: float = 3.0
    """Of the multiple; positive."""

    def __post_init__(self):
        number(self.factor, 1, "factor", open_low=True)

    def sent(self, own, k, place):
        return self.factor * own


@dataclass(frozen=True)
class ByHospital(Partition):
    """Rows go to the hospital that a column names, hospitals to nodes in turn."""

    column: int = 0
    """The column of the features."""

    def __post_init__(self):
        if self.column < 0:
            raise ValueError(f"column must be at least 0, got {self.column}")

    def check(self, sizes, n):
        check_room(sizes, n)

    def split(self, dataset, n, seed):
        hospital = np.argsort(np.argsort(dataset.features.reshape(len(dataset.features), -1)[:, self.column]))
        return of_owners(np.arange(len(hospital)), hospital % n, n)


@dataclass(frozen=True)
class Huber(Criterion):
    """A loss that large errors do not rule."""

    delta: float = 1.0
    """Where it becomes linear."""

    def __post_init__(self):
        number(self.delta, 1, "delta", open_low=True)

    def each(self, outputs, targets):
        error = (outputs - targets).abs().flatten(1)
        small = error.clamp(max=self.delta)
        return (small * (error - small / 2)).mean(1)


@dataclass(frozen=True)
class Sine(Source):
    """A sine, of random points."""

    samples: int = 100
    """Training points."""

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    def sizes(self, n):
        return DataSizes(self.samples, 20, (1,), 1, False)

    def load(self, n, seed):
        x = np.random.default_rng(seed).uniform(-3, 3, (20 + self.samples, 1))
        return Dataset(x[20:], np.sin(x[20:]), x[:20], np.sin(x[:20]), None)


@dataclass(frozen=True)
class Gain(Shift):
    """Each node sees its features times a factor."""

    factor: PerNode = 2.0
    """The factor."""

    def check(self, sizes, n, seed):
        per_node(self.factor, n, seed, "task.shift.factor", open_low=True)

    def applies_to_tests(self):
        return False

    def apply_(self, x, node, n, seed, purpose):
        x *= per_node(self.factor, n, seed, "task.shift.factor")[node][:, None]


@dataclass(frozen=True)
class Chatter(Scheme):
    """A node contacts a neighbour as soon as it has updated, with some probability."""

    probability: float = 0.5
    """The probability."""

    def __post_init__(self):
        number(self.probability, 1, "probability", high=1.0, open_high=False)

    def begin_(self, window, state):
        pass

    def contacts_(self, window, state):
        time, node = window.updates()
        local = node.astype(np.int64) - window.first
        high, low = rng.draws(int(window.seed), rng.GOSSIP, local, state.draws[node] + nth(node) + 1)
        np.add.at(state.draws, node, 1)
        peer = window.peers(time, node, low)
        made = (rng.units(high) < self.probability) & (peer >= 0)
        np.add.at(state.made, node[made], 1)
        return ContactList(time[made], node[made], peer[made])

    def expected(self, capacity, update):
        return self.probability * float(update.rate.sum())

    def peak(self, capacity):
        return math.inf

    def check(self, n, exchange):
        pass


def sends(tokens, eager, _):
    """Returns the probability of sending at a contact."""
    return eager


def reacts(tokens, news, eager, _):
    """Returns the mean number of messages for a model that came."""
    return eager * tokens if news else 0.0


@dataclass(frozen=True)
class Rounded(Compressor):
    """Numbers rounded to those of a grid, of two bytes."""

    grid: float = 0.5
    """Distance of two of them."""

    _: KW_ONLY
    feedback: Feedback = "none"
    """As of other kinds."""

    def __post_init__(self):
        number(self.grid, 1, "grid", open_low=True)
        super().__post_init__()

    def compress(self, v, uniform):
        return (v / self.grid).round() * self.grid

    def size(self, p, item):
        return 2 * p


@dataclass(frozen=True)
class Thrifty(Flow):
    """A node saves most of its contacts, and spends a share of them on news."""

    eager: float = 0.3
    """Probability of a message, and share of the tokens."""

    def __post_init__(self):
        number(self.eager, 1, "eager", high=1.0, open_high=False)

    def accounts(self):
        return TokenLaw.by(sends, reacts, 10, self.eager, usefulness="age")


def when_full(tokens, _, __):
    """Returns that no node sends before its account is full."""
    return 0.0


def once(tokens, news, _, __):
    """Returns one message for each model that comes."""
    return 1.0


@dataclass(frozen=True)
class SimpleAgain(Flow):
    """The law of `simple`."""

    capacity: int = 10
    """Largest number of tokens."""

    def accounts(self):
        return TokenLaw.by(when_full, once, self.capacity)


@dataclass(frozen=True)
class Ranks(Distribution):
    """The later a node, the larger."""

    step: float = 0.1
    """From each node to the next."""

    def __post_init__(self):
        number(self.step, 1, "step")

    def draw(self, n, seed, key):
        return 1 + self.step * np.arange(n)


@dataclass(frozen=True)
class OneOrTwo(StepCount):
    """A second minibatch step by chance."""

    share: float = 0.5
    """Probability of two steps; in [0, 1]."""

    def __post_init__(self):
        number(self.share, 1, "share", high=1.0, open_high=False)

    def probabilities(self):
        return np.array([1 - self.share, self.share])


@dataclass(frozen=True)
class SignMomentum(Optimizer):
    """Steps of one size, in the direction of the mean gradient."""

    beta: PerNode = field(default=0.9, metadata={"high": 1.0})
    """Weight of the gradients before."""

    fields: ClassVar = {"mean": Field()}

    def step(self, x, g, kept, lr, beta):  # pyright: ignore[reportIncompatibleMethodOverride]
        kept["mean"] = beta * kept["mean"] + (1 - beta) * g
        return x - lr * kept["mean"].sign()


@dataclass(frozen=True)
class Decay(Schedule):
    """The step size falls exponentially."""

    scale: PerNode = field(default=10.0, metadata={"open_low": True})
    """Progress until it is 1 / e."""

    def factor(self, k, scale):  # pyright: ignore[reportIncompatibleMethodOverride]
        return (-k / scale).exp()


def net(width=4):
    """Returns a small network of ten features."""
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    return nn.Sequential(nn.Linear(10, width), nn.Tanh(), nn.Linear(width, 1))


@dataclass(frozen=True)
class Perceptron(Model):
    """A small network of as many features as there are."""

    width: int = 4
    """Width of its layer."""

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")

    def module(self, shape, outputs):
        return nn.Sequential(nn.Linear(shape[0], self.width), nn.Tanh(), nn.Linear(self.width, outputs))

    def count(self, shape, outputs):
        return (shape[0] + 1) * self.width + (self.width + 1) * outputs

    def init_(self, x, stack, seed, shape, outputs):
        x[:] = x.new_tensor(rng.uniforms(seed, rng.INIT, np.zeros(1, np.int64), stack.p) - 0.5)
