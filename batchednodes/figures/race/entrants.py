"""Entrants of a race: an algorithm each, in the surroundings that the config of the race says.

What is not an algorithm's own choice is the same for all: data, seeds, clocks of updates, delays, who is there. What
its contacts look like is its own: where it is not sound with those of the config, it gets those that it asks for, and
one that is sound in rounds only gets rounds in which as many updates are made as by the clocks.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from batchednodes import config
from batchednodes.algorithms.base import Algorithm
from batchednodes.config import READER, Config, Gossip, Network, Update
from batchednodes.config.document import parse
from batchednodes.config.sweep import leaves
from batchednodes.events.rounds import Continuous
from batchednodes.events.synchronous import Synchronous
from batchednodes.numerics.values import shown
from batchednodes.simulation.resume.rules import inside
from batchednodes.topology import Changing, Complete, UniformWeights

_SHARED = (
    "name", "seed", "device", "dtype", "executor", "network.nodes", "network.availability", "network.churn",
    "network.attack", "update.clock", "update.while_off", "gossip.delay", "gossip.fifo", "gossip.loss", "task", "run",
    "staleness", "sweep", "sweep_mode", "replicas",
)  # fmt: skip
"""Settings, and sections, that are the same for all entrants: else they would not run the same race."""

_CONTACTS = {
    "at_update": {"kind": "at_update"},
    "after_update": {"kind": "at_update", "order": "after"},
    "to_all": {"kind": "at_update", "order": "after", "peers": "all"},
}
"""What an algorithm asks of contacts -> the clock of contacts that it gets."""

_WAYS = {"push": "pushes", "pull": "pulls", "push_pull": "push-pull", "meet": "meetings"}

_WRITTEN = re.compile(r"\s*(?:([^(:]*):\s)?\s*([^\s(),=:]+)\s*(?:\((.*)\))?\s*", re.DOTALL)
"""A name of one's own and a colon, if there is one; an algorithm, and its options."""

_LONGEST = 60
"""Letters of the name of an entrant's folder, at most."""

TUNING = "tuning"
"""Folder of the runs that choose step sizes."""


@dataclass(frozen=True)
class Entrant:
    """One algorithm, ready to run on all seeds of the race."""

    name: str
    """As it was given, or called."""
    folder: str
    """Name of the folder of its run, and of the run."""
    settings: Config
    """Of its run."""

    @property
    def way(self) -> str:
        """How its models are mixed, in words."""
        timing, clock = self.settings.timing, self.settings.gossip.clock
        if isinstance(timing, Synchronous):
            return f"rounds of {timing.period:.4g} s"
        way = "sends" if clock.to_all() else _WAYS[self.settings.gossip.exchange]
        return f"{way} at updates" if clock.at_update() else way


def split(text: str) -> list[str]:
    """Returns the parts of a text between commas, but for those inside brackets.

    Example:
        >>> from batchednodes.figures.race.entrants import split
        >>> split("gossip_sgd, fedavg(fraction=0.2), pens(sampled=4, kept=2)")
        ['gossip_sgd', 'fedavg(fraction=0.2)', 'pens(sampled=4, kept=2)']
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def written(text: str) -> tuple[str, dict[str, Any]]:
    """Returns the name of an entrant, and the settings that its algorithm and options stand for, by full keys.

    Example:
        >>> from batchednodes.figures.race.entrants import written
        >>> written("fedavg(fraction=0.2)")
        ('fedavg(fraction=0.2)', {'algorithm': {'kind': 'fedavg', 'fraction': 0.2}})
        >>> written("on a ring: gossip_sgd(network.topology.kind=ring)")
        ('on a ring', {'algorithm': {'kind': 'gossip_sgd'}, 'network.topology.kind': 'ring'})

    Raises:
        ValueError: it is no such text.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError(
            f"--algorithms must be names, or name(option=value, ...), each after `a name of yours: ` if you like, got "
            f"{shown(text)}"
        )
    own, settings = {"kind": found[2]}, dict[str, Any]()
    for part in split(found[3]) if found[3] and found[3].strip() else []:
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(f"--algorithms must have options as option=value, got {shown(part)} in {shown(text)}")
        if "." in key or hasattr(Config, key):
            settings[key] = parse(value)
        else:
            own[key] = parse(value)
    return (found[1] or text).strip(), {"algorithm": own} | settings


def named(given: str | Sequence[str] | Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the settings of each entrant by its name; texts are algorithms with their options.

    Raises:
        ValueError: there are fewer than two, or one twice.
    """
    if isinstance(given, Mapping):
        found = [(str(name), dict(leaves(settings))) for name, settings in given.items()]
    else:
        texts = split(given) if isinstance(given, str) else [*given]
        found = [written(text) for text in texts]
    names = [name for name, _ in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice or len(names) < 2:
        got = f"{shown(twice[0])} twice" if twice else shown(", ".join(names))
        raise ValueError(
            f"--algorithms must name at least two entrants, each once, got {got}; such as gossip_sgd, d_psgd"
        )
    return dict(found)


def check(base: Config) -> None:
    """Checks that a config is one on which several algorithms can race.

    Raises:
        ValueError: it is a batch of networks already, or runs something beside.
    """
    for name, usual, remedy in (
        ("sweep", {}, "a race has one setting: leave it out"),
        ("replicas", 1, "leave it out: --seeds says how many networks each entrant has"),
    ):
        if getattr(base, name) != usual:
            raise ValueError(f"{name} must be left out in a race, got {shown(getattr(base, name))}; {remedy}")
    if base.run.baseline != "none":
        remedy = "set run.baseline=none, and enter gossip_sgd(gossip.clock.kind=never) for nodes without gossip"
        raise ValueError(f"run.baseline must be none in a race, got {shown(base.run.baseline)}; {remedy}")


def entrants(base: Config, given: Mapping[str, Mapping[str, Any]], seeds: int) -> list[Entrant]:
    """Returns the entrants of a race.

    Args:
        base: settings of the race.
        given: settings of each entrant by its name, see `named`.
        seeds: networks of each, with seeds seed, seed + 1, ...

    Raises:
        ValueError: an algorithm is none, or cannot run in these surroundings; the message says which and why.
    """
    check(base)
    names, found = _folders(given), list[Entrant]()
    for name, settings in given.items():
        with entering(name):
            found.append(Entrant(name, names[name], _entered(base, settings, seeds, names[name])))
    return found


@contextmanager
def entering(name: str) -> Iterator[None]:
    """Lets an error say whose settings it is about, and what an entrant may do about it."""
    try:
        yield
    except ValueError as error:
        remedy = "leave it out of the race, or give it settings of its own, NAME(section.key=value)"
        raise ValueError(f"--algorithms: {shown(name)} cannot enter this race: {error}; {remedy}") from None


def _folders(given: Mapping[str, Any]) -> dict[str, str]:
    """Returns a name of a folder for each entrant, none twice."""
    taken, found = {TUNING}, dict[str, str]()
    for name in given:
        plain = re.sub(r"[^\w.+=]+", "-", name).strip("-.+=")[:_LONGEST] or "entrant"
        numbered = (plain if k == 1 else f"{plain}-{k}" for k in range(1, len(given) + 2))
        found[name] = next(one for one in numbered if one.lower() not in taken)
        taken.add(found[name].lower())
    return found


def _entered(base: Config, settings: Mapping[str, Any], seeds: int, name: str) -> Config:
    """Returns the settings of an entrant, in the surroundings of the race."""
    for key, value in leaves(settings):
        if inside(key, _SHARED):
            raise ValueError(f"{key} must be that of the race, got {shown(value)}; set it for all")
    algorithm = type(_algorithm(base, settings))
    asked = settings.get("timing.kind", settings.get("timing", {}))
    rounds = (asked.get("kind") if isinstance(asked, Mapping) else asked) == "synchronous"
    rounds |= "events" not in algorithm.timing or bool(algorithm.mixes_after)
    if isinstance(base.timing, Continuous):
        changes = _in_rounds(base, algorithm, seeds) if rounds else dict(_at_contacts(base, algorithm))
    else:
        changes = {}
    return config.load(base, [changes, settings, {"name": name, "replicas": seeds}])


def _algorithm(base: Config, settings: Mapping[str, Any]) -> Algorithm:
    """Returns the algorithm of an entrant, as the config of the race has it where the entrant says nothing."""
    given = {key.removeprefix("algorithm."): value for key, value in settings.items() if key.startswith("algorithm.")}
    given = dict(settings.get("algorithm", {})) | given
    usual = READER.plain(base.algorithm, "algorithm")
    if given.get("kind", usual["kind"]) == usual["kind"]:
        given = usual | given
    return READER.read(given, Algorithm, "algorithm")


def _in_rounds(base: Config, algorithm: type[Algorithm], seeds: int) -> dict[str, Any]:
    """Returns rounds in which as many updates are made in the mean as by the clocks, in place of these and of contacts.

    T = 1 / (mean over nodes and seeds of 1 / mean time of an update). Where W must be doubly stochastic, and the config
    leaves weights as they are, they are those of Metropolis and Hastings.

    Raises:
        ValueError: nodes never update.
    """
    n, clock = base.network.nodes, base.update.clock
    rates = [clock.gaps(n, base.seed + k, "update.clock").rate.mean() for k in range(seeds)]
    if not np.mean(rates) > 0:
        raise ValueError("update.clock must let some node update, got one by which none ever does")
    gossip, plain = replace(base.gossip), READER.plain
    for key in ("clock", "exchange", "reply", "weight"):
        gossip = replace(gossip, **{key: getattr(Gossip(), key)})
    changes = {
        "timing": {"kind": "synchronous", "period": float(1 / np.mean(rates))},
        "update.clock": plain(Update().clock, "update.clock"),
        "gossip": plain(gossip, "gossip"),
    }
    graph, weights = base.network.topology, base.network.weights
    if algorithm.has_own_rounds():
        changes["network.weights"] = plain(Network().weights, "network.weights")
    elif algorithm.mixing == "double" and weights == UniformWeights() and not isinstance(graph, Complete | Changing):
        changes["network.weights"] = {"kind": "metropolis_hastings"}
    return changes


def _at_contacts(base: Config, algorithm: type[Algorithm]) -> Iterator[tuple[str, Any]]:
    """Yields what an algorithm asks of contacts, where the config says another thing."""
    g, asked = base.gossip, _CONTACTS.get(algorithm.contact)
    if asked is not None and {"order": "before", "peers": "one"} | READER.plain(g.clock, "gossip.clock") != {
        "order": "before", "peers": "one"
    } | asked:  # fmt: skip
        yield "gossip.clock", asked
    if algorithm.mixing == "double" or algorithm.contact == "after_update":
        yield "gossip.exchange", "meet"
    elif algorithm.mixing == "column":
        yield "gossip.exchange", "push"
    if not algorithm.weighs:
        yield "gossip.weight", Gossip().weight
