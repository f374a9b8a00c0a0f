r"""Speed-up over ranks, calculated: how long a simulated second takes on R ranks, from a few rates of machines.

A wave of w updates is dealt to R ranks, after an exchange and before another one, while contacts are mixed column by
column without any. What the host does ahead is hidden behind that, or hides it:

    T(R) = max( U (max(w / R, f) t + 2 L + 2 (1 - 1/R) w W / (R B)) + 3 C W / (R M),  E h / (R k) )

with U waves of updates and C contacts a simulated second, W bytes of a row, t the time of a row's local work, f the
rows that a device needs to be at work, L the latency of an exchange, B and M the rates of links and of memory, E
events, of which each takes the host h on one of k threads. Nothing else is in it: no marks, nothing that is waited for.

Notation: R ranks, n nodes, w updates of a wave.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What a rank has, and what is between ranks."""

    flops: float
    """Of local work [1/s]."""
    memory: float
    """Rate at which memory is read and written [B/s]."""
    inside: float
    """Rate at which a rank sends to others of its machine [B/s]."""
    across: float
    """The same to other machines, all ranks of one together [B/s]."""
    of_machine: int
    """Ranks of a machine."""
    latency: float
    """Of an exchange between ranks of one machine [s]."""
    latency_across: float
    """Of one between machines [s]."""
    event: float
    """Time of the host for an event, on one thread [s]."""
    threads: int = 1
    """Threads of the host, of each rank."""
    cores: int | None = None
    """Cores that all ranks share, which are then no more at work than these; None: each rank has a device."""

    def link(self, ranks: int) -> tuple[float, float]:
        """Returns latency [s] and rate [B/s] of what a rank sends in an exchange of some ranks."""
        if ranks <= self.of_machine:
            return self.latency, self.inside
        beyond = (ranks - self.of_machine) / (ranks - 1)  # share of what goes to other machines
        rate = 1 / (beyond * self.of_machine / self.across + (1 - beyond) / self.inside)
        return self.latency_across, rate


@dataclass(frozen=True)
class Load:
    """What a simulated second asks for."""

    nodes: int
    bytes: float
    """Of a row [B]."""
    flops: float
    """Of an update."""
    touched: float
    """Bytes that the local work of an update reads and writes [B]."""
    contacts: float
    """Of each node [1/s]."""
    updates: float = 1.0
    """Of each node [1/s]."""
    waves: float = 8.0
    """Waves of updates in a second in which each node makes one, whatever n is."""
    fill: float = 1.0
    """Rows that a device needs to be at work."""


def seconds(load: Load, machine: Machine, ranks: int) -> float:
    """Returns the wall time of a simulated second [s].

    Example:
        >>> from batchednodes.simulation.planning.speed_up import Load, Machine, seconds
        >>> machine = Machine(1e12, 1e12, 1e11, 1e10, 8, 2e-5, 5e-5, event=0.0)
        >>> load = Load(nodes=100_000, bytes=4e5, flops=1e9, touched=1e6, contacts=1.0)
        >>> round(seconds(load, machine, 1) / seconds(load, machine, 4), 2)
        3.98
    """
    waves, wave = load.waves * load.updates, load.nodes / load.waves
    at_work = 1.0 if machine.cores is None else min(1.0, machine.cores / ranks)
    row = max(load.flops / machine.flops, load.touched / machine.memory) / at_work
    device = waves * max(wave / ranks, min(load.fill, wave)) * row
    device += 3 * load.nodes * load.contacts * load.bytes / ranks / (machine.memory * at_work)
    if ranks > 1:
        latency, rate = machine.link(ranks)
        device += waves * 2 * (latency + (1 - 1 / ranks) * wave * load.bytes / ranks / rate)
    events = load.nodes * (load.updates + load.contacts)
    return max(device, events * machine.event / (machine.threads * ranks * at_work))


def speed_up(load: Load, machine: Machine, ranks: int) -> float:
    """Returns how many times as fast some ranks are as one."""
    return seconds(load, machine, 1) / seconds(load, machine, ranks)
