"""Kinds of a user's own, each of which has a property of a built-in kind, and says so."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from batchednodes.events.availability import Availability, PerMessage, TraceAvailability
from batchednodes.events.clocks import Clock, Never
from batchednodes.events.links.delay import Delay, Instant, TraceDelay, UniformDelay
from batchednodes.events.merge import Merge, MergeLaw
from batchednodes.events.schemes import Scheme, Uniform
from batchednodes.events.token_accounts import PROACTIVE, Flow, TokenLaw
from batchednodes.models import Model, PythonModule
from batchednodes.topology import Topology


@dataclass(frozen=True)
class AtOnce(Delay):
    """Messages arrive at once."""

    instant: ClassVar[bool] = True

    def delays(self, n, seed, key, size, model):
        return Instant().delays(n, seed, key, size, model)


@dataclass(frozen=True)
class Between(Delay):
    """Uniform delays around one second."""

    width: float = 0.6
    """Longest minus shortest delay [s]."""

    def delays(self, n, seed, key, size, model):
        return UniformDelay(0.5 - self.width / 2, 0.5 + self.width / 2).delays(n, seed, key, size, model)


@dataclass(frozen=True)
class Measured(Delay):
    """Delays of a file."""

    path: str
    """The file."""

    reads_files: ClassVar[bool] = True

    def delays(self, n, seed, key, size, model):
        return TraceDelay(self.path).delays(n, seed, key, size, model)


@dataclass(frozen=True)
class Lucky(Availability):
    """Half of all messages find their receivers."""

    spans: ClassVar[bool] = False

    def presence(self, n, seed, key, size):
        return PerMessage(0.5).presence(n, seed, key, size)


@dataclass(frozen=True)
class Logged(Availability):
    """Nodes go on and off as a file says."""

    path: str
    """The file."""

    reads_files: ClassVar[bool] = True

    def presence(self, n, seed, key, size):
        return TraceAvailability(self.path).presence(n, seed, key, size)


@dataclass(frozen=True)
class Idle(Clock):
    """No node ever acts."""

    never: ClassVar[bool] = True

    def gaps(self, n, seed, key, size=None):
        return Never().gaps(n, seed, key, size)


@dataclass(frozen=True)
class Beside(Clock):
    """A contact at each update."""

    side: Literal["before", "after"] = "before"
    """Whether it is made before the update, or after it."""

    def at_update(self):
        return self.side

    def gaps(self, n, seed, key, size=None):
        return Never().gaps(n, seed, key, size)


@dataclass(frozen=True)
class Own(Scheme):
    """Every node transmits all the time."""

    independent: ClassVar[bool] = True

    def begin_(self, window, state):
        Uniform().begin_(window, state)

    def contacts_(self, window, state):
        return Uniform().contacts_(window, state)

    def expected(self, capacity, update):
        return float(capacity.rate.sum())

    def peak(self, capacity):
        return float(capacity.rate.max())

    def check(self, n, exchange):
        pass


@dataclass(frozen=True)
class Free(Flow):
    """Every contact is made."""

    unlimited: ClassVar[bool] = True

    def accounts(self):
        return TokenLaw(PROACTIVE)


@dataclass(frozen=True)
class Half(Merge):
    """The mean of both models."""

    def weighing(self, weight):
        return MergeLaw(None, np.full(weight.size, 0.5), 0 * weight)

    def is_fixed(self):
        return True


@dataclass(frozen=True)
class Everyone(Topology):
    """A complete graph."""

    def contacts(self, n):
        return 0.0

    def graph(self, n, seed):
        return None


_TOKENS = PythonModule("example_models:Tokens")


@dataclass(frozen=True)
class Words(Model):
    """A module that looks up tokens."""

    def module(self, shape, outputs):
        return _TOKENS.module(shape, outputs)

    def count(self, shape, outputs):
        return None

    def init_(self, x, stack, seed, shape, outputs):
        _TOKENS.init_(x, stack, seed, shape, outputs)

    def is_own(self):
        return True
