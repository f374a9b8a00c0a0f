r"""What a gossip scheme sees of a network, what it remembers, and what it says.

Notation: n nodes of all networks, u updates and m contacts of one network in a window, lambda gossip capacity.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt64

from batchednodes.events.gaps import Gaps
from batchednodes.topology import PeerLists


@dataclass(frozen=True)
class SchemeWindow:
    """One network in one window of time; node numbers are those of the batch."""

    first: int
    """Its first node."""
    last: int
    """One more than its last node."""
    seed: np.uint64
    """Seed of its draws."""
    capacity: Gaps
    """Laws of the gaps between contacts, of all nodes; a node that has nobody to contact never acts."""
    contacts: PeerLists
    """Whom each node of the batch may contact."""
    meet: bool
    """Whether a contact tells both nodes, not the contacted one only."""
    update_time: Float64[np.ndarray, " u"]
    """Updates of this network in the window, node by node [s]."""
    updater: Int32[np.ndarray, " u"]
    """The node that completes each."""
    start: float
    """Begin of the window [s], not included."""
    until: float
    """End of the window [s], included."""

    def rates(self) -> Float64[np.ndarray, " _"]:
        """Returns the gossip capacity of each node of this network [1/s]."""
        return self.capacity.part(slice(self.first, self.last)).rate

    def updates(self) -> tuple[Float64[np.ndarray, " u"], Int32[np.ndarray, " u"]]:
        """Returns the updates in time order, those at one instant in the order of nodes."""
        order = np.argsort(self.update_time, kind="stable")
        return self.update_time[order], self.updater[order]

    def waits(self) -> Float64[np.ndarray, " n"]:
        """Returns the mean time between contacts of each node while it speaks, which have no memory [s]; inf: never."""
        silent = np.isinf(self.capacity.shift)
        assert not self.capacity.shift[~silent].any()
        return np.where(silent, math.inf, self.capacity.scale)

    def peers(
        self, time: Float64[np.ndarray, " m"], actor: Int32[np.ndarray, " m"], bits: UInt64[np.ndarray, " m"]
    ) -> Int32[np.ndarray, " m"]:
        """Returns whom nodes of this network contact at some times [s], by 64 random bits each; -1: nobody."""
        return self.contacts.peers(time, actor, bits)

    def check(self, said: "ContactList") -> None:
        """Checks contacts that a scheme of the user's own returns, of which compiled loops believe all.

        Raises:
            ValueError: they are none of this network in this window.
        """
        m, columns = len(said.time), zip(said._fields, said, (np.float64, np.int32, np.int32), strict=True)
        for name, column, kind in columns:
            if not isinstance(column, np.ndarray) or column.dtype != kind or column.shape != (m,):
                raise ValueError(f"gossip.scheme must return a {name} of {np.dtype(kind)} for each of {m} contacts")
        bad = ~((said.time > self.start) & (said.time <= self.until))
        for one in (said.actor, said.peer):
            bad |= (one < self.first) | (one >= self.last)
        for k in np.flatnonzero(bad | (said.actor == said.peer))[:1]:
            rule = f"times in ({self.start:g}, {self.until:g}] [s], and two nodes of {self.first} .. {self.last - 1}"
            got = f"{said.time[k]:g}, {said.actor[k]} and {said.peer[k]}"
            raise ValueError(f"gossip.scheme must return contacts with {rule}, got {got}")


class SchemeState(NamedTuple):
    """What all networks remember of their gossip from window to window; schemes write into it."""

    next: Float64[np.ndarray, " n"]
    """Time of the next contact of each node [s]; inf: the node is silent."""
    draws: Int64[np.ndarray, " n"]
    """Draws of its gossip that each node has used, where they are not as many as its contacts."""
    made: Int64[np.ndarray, " n"]
    """Contacts that each node has made."""
    stamp: Float64[np.ndarray, " n"]
    """Time of the newest update that counts for the node's scheme [s]; 0 before any."""
    order: Int32[np.ndarray, " n"]
    """The nodes of each network by age, the youngest first (`age_aware`)."""
    awake: Int32[np.ndarray, " n"]
    """The nodes of each network that share its capacity, in the order in which they began to; -1 beyond them."""


class ContactList(NamedTuple):
    """Contacts of one network."""

    time: Float64[np.ndarray, " m"]
    """Instant [s]."""
    actor: Int32[np.ndarray, " m"]
    """The node that makes the contact."""
    peer: Int32[np.ndarray, " m"]
    """The node contacted."""

    @staticmethod
    def none() -> "ContactList":
        """Returns no contacts."""
        return ContactList(np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32))


class Scheme(ABC):
    """A rule that says which nodes of a network may transmit, when."""

    independent: ClassVar[bool] = False
    """Whether contacts are those of each node's own clock, or some of them, whatever its law of gaps and whatever
    chooses its peers (`PeerLists.choosers`), and depend on no update: then messages may be under way."""

    @abstractmethod
    def begin_(self, window: SchemeWindow, state: SchemeState) -> None:
        """Sets what the network remembers at t = 0; arrays hold zeros, `next` inf and `awake` -1 before."""

    @abstractmethod
    def contacts_(self, window: SchemeWindow, state: SchemeState) -> ContactList:
        """Returns the contacts of the network up to window.until, in any order, and remembers where it stands."""

    def works_(self, window: SchemeWindow, state: SchemeState, threads: int) -> list[Callable[[], ContactList]]:
        """Returns what makes parts of these contacts when called, each once, in several threads or one after the other.

        Args:
            window: of a network without choosers.
            state: what the parts change, each of its own nodes.
            threads: that there are; the contacts do not depend on them.
        """
        return [lambda: self.contacts_(window, state)]

    @abstractmethod
    def expected(self, capacity: Gaps, update: Gaps) -> float:
        """Returns about how many contacts a network with these laws makes per second in the long run [1/s]."""

    @abstractmethod
    def peak(self, capacity: Gaps) -> float:
        """Returns the largest rate at which any one node ever transmits [1/s]."""

    @abstractmethod
    def check(self, n: int, exchange: str) -> None:
        """Raises ValueError if the scheme cannot run on n nodes with this exchange."""


def refuse_pull(kind: str, exchange: str) -> None:
    """Raises ValueError for a scheme of holders that speak where nodes ask instead."""
    if exchange == "pull":
        raise ValueError(
            f"gossip.exchange must be push or meet with gossip.scheme.kind={kind}, whose nodes transmit, got 'pull'; "
            "use kind uniform to pull"
        )


def gather(expected: float, speak: Callable[[int, ContactList], tuple[int, int]], peer: type = np.int32) -> ContactList:
    """Returns all contacts that a compiled loop writes, one buffer after the other.

    Args:
        expected: about how many contacts come [dimensionless].
        speak: called with where it stands and a buffer; fills the buffer's arrays and returns how many it wrote and
            where it stands, 0 at first and -1 at the end.
        peer: type of the numbers in the place of peers.
    """
    room, place, parts = int(min(expected + 4 * math.sqrt(expected), 1e8)) + 64, 0, []
    while place >= 0:
        part = ContactList(np.empty(room), np.empty(room, np.int32), np.empty(room, peer))
        size, place = speak(place, part)
        parts.append(ContactList(*(column[:size] for column in part)))
    return (
        parts[0] if len(parts) == 1 else ContactList(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    )
