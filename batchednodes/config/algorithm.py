"""What must hold of an algorithm together with other settings: where it is sound, and what would have no effect.

Notation: c the settings, a `Config`; which the algorithm, as messages name it.
"""

from typing import Any

from batchednodes.algorithms.base import Algorithm
from batchednodes.algorithms.compression.feedback import WAYS, allows
from batchednodes.algorithms.gossip_sgd import GossipSGD
from batchednodes.config.kinds import READER
from batchednodes.config.messages import has_messages
from batchednodes.config.personal import of_personal
from batchednodes.config.privacy import of_privacy
from batchednodes.config.robust import of_robustness, tells_lies
from batchednodes.config.rules import Rule, given, refuse
from batchednodes.events.merge import Gathering
from batchednodes.events.rounds import Continuous
from batchednodes.events.synchronous import Synchronous
from batchednodes.topology import Changing


def check_algorithm(c: Any) -> None:
    """Checks an algorithm, the timing and the clock of contacts against the other settings.

    Raises:
        ValueError: they do not fit together.
    """
    which = f"algorithm.kind={READER.plain(c.algorithm, 'algorithm')['kind']}"
    refuse(_of_compression(c, which))
    if not c.gossip.compress.exact:
        which = f"{which} and gossip.compress.feedback={c.gossip.compress.feedback}"
    refuse(
        [
            *_where_sound(c, which),
            *_of_messages(c, which),
            *_of_updates(c, which),
            *_of_places(c, which),
            *_in_rounds(c),
            *_of_mixings(c, which),
            *of_robustness(c, which),
            *of_personal(c, which),
            *of_privacy(c, which),
        ]
    )


def _of_compression(c: Any, which: str) -> tuple[Rule, ...]:
    """Returns the rules of what may be compressed, and how."""
    able, rounds, g = allows(c.algorithm), isinstance(c.timing, Synchronous), c.gossip.compress
    way = None if g.exact else WAYS[g.feedback][rounds]
    return (
        (f"gossip.compress must be left out with {which}, whose messages bring more than a model, or are more than "
         "averaged", way and not able, "use an algorithm that mixes models and nothing else"),
        (f"timing.kind must be synchronous with gossip.compress.feedback={g.feedback}, which is sound in rounds only",
         way and not rounds and "events" not in way.timing, "use feedback choco or none"),
        (f"network.topology.kind must be one that does not change with gossip.compress.feedback={g.feedback}, of which "
         "neighbours keep what has come", way and not way.changing and isinstance(c.network.topology, Changing),
         "use another graph, or feedback deep_squeeze or none"),
    )  # fmt: skip


def _where_sound(c: Any, which: str) -> tuple[Rule, ...]:
    """Returns the rules of the timing and the contacts in which an algorithm is sound."""
    a, exchange, rounds = type(c.method), c.gossip.exchange, isinstance(c.timing, Synchronous)
    at_update, steps = c.gossip.clock.at_update() is not None, not isinstance(c.timing, Continuous | Synchronous)
    return (
        (f"timing.kind must be continuous or rounds with {which}, which is sound at single contacts only",
         rounds and "rounds" not in a.timing, "leave out timing"),
        (f"timing.kind must be synchronous with {which}, which is sound in rounds only",
         not rounds and ("events" not in a.timing or a.mixes_after), "set timing.kind=synchronous"),
        (f"timing.kind must be continuous or synchronous with {which}", a is not GossipSGD and steps,
         "leave out timing"),
        (f"gossip.clock.kind must be at_update with {which}, which meets a neighbour at each update",
         a.contact == "at_update" and not at_update and not rounds,
         "set gossip.clock.kind=at_update and gossip.exchange=meet"),
        (f"gossip.clock must be {{kind: at_update, order: after}} with {which}, whose nodes send what an update made",
         a.contact == "after_update" and c.gossip.clock.at_update() != "after", "set it"),
        (f"gossip.exchange must be meet with {which}, whose contacts go both ways",
         a.contact == "after_update" and exchange != "meet", "set gossip.exchange=meet"),
        (f"gossip.clock must be of kind at_update, with order=after and peers=all, with {which}, which sends its model "
         "to all neighbours", a.contact == "to_all" and not rounds and not (
             c.gossip.clock.to_all() and c.gossip.clock.at_update() == "after"),
         "set gossip.clock={kind: at_update, order: after, peers: all}"),
        ("network.weights must be left out with gossip.clock.peers=all, where all neighbours are contacted",
         c.gossip.clock.to_all() and a.contact != "to_all" and given(c.network, "weights"), "leave it out"),
        ("gossip.scheme.kind must be uniform with gossip.clock.kind=at_update or timing.kind=synchronous",
         (at_update or rounds) and given(c.gossip, "scheme"), "use kind uniform"),
        (f"gossip.exchange must be meet with {which}, which needs doubly stochastic mixing",
         a.mixing == "double" and not rounds and exchange != "meet", "set gossip.exchange=meet"),
        (f"gossip.exchange must be push with {which}, whose pushes take from their senders what they bring",
         a.mixing == "column" and not rounds and exchange != "push", "leave it out"),
        (f"network.weights must be left out with {which}, whose rounds have weights of their own",
         rounds and a.has_own_rounds() and given(c.network, "weights"), "leave it out"),
        (f"gossip.exchange must be push with {which}, whose rounds have weights of their own",
         rounds and a.has_own_rounds() and exchange != "push", "leave it out"),
    )  # fmt: skip


def _of_messages(c: Any, which: str) -> tuple[Rule, ...]:
    """Returns the rules of what messages bring, and what becomes of them."""
    own, g, a = type(c.method) is not GossipSGD, c.gossip, type(c.method)
    takes = a.occupies_sender() and not a.linear()  # what it emits could not lie in a slot, and its sender changes then
    idle = [f"gossip.{name}" for name in ("weight", "merge") if given(g, name) and not a.weighs]
    names = {"gossip": ("delay", "loss", "merge", "flow"), "network": ("availability", "churn")}
    keys = [f"{part}.{name}" for part, some in names.items() for name in some if given(getattr(c, part), name)]
    return (
        (f"gossip.exchange must be push or meet with {which}, whose emissions change their senders", takes and
         g.exchange in ("pull", "push_pull"), "use push or meet"),
        (f"{' and '.join(keys)} must be left out with {which}, whose emissions change their senders, unless "
         "gossip.exchange=meet", takes and g.exchange == "push" and keys, "set gossip.exchange=meet"),
        (f"run.on_divergence must be stop or ignore with {which} where messages are under way: what they take would be "
         "gone at a node that is cut off", a.mixing == "column" and c.run.on_divergence == "quarantine" and
         has_messages(c), "use stop"),
        (f"gossip.on_receipt must be merge with {which}", own and g.on_receipt != "merge", "leave it out"),
        (f"{' and '.join(idle)} must be left out with {which}, whose contacts have no weight", idle, "leave out"),
        (f"gossip.merge.kind must be fixed or mean with {which}", own and not g.merge.is_fixed(),
         "leave it out"),
        (f"network.churn.start must be fresh with {which}", own and c.network.churn.start != "fresh", "leave it out"),
    )  # fmt: skip


def _of_updates(c: Any, which: str) -> tuple[Rule, ...]:
    """Returns the rules of what an update does."""
    own, local = type(c.method) is not GossipSGD, c.local
    settings = [name for name in ("momentum", "nesterov", "optimizer", "proximal") if given(local, name)]
    idle = [f"local.{name}" for name in settings if not type(c.method).descends]
    return (
        (f"update.applies must be at_completion with {which}", own and c.update.applies != "at_completion",
         "use algorithm.kind=ad_psgd for stale gradients"),
        (f"{' and '.join(idle)} must be left out with {which}, which makes its own steps", idle, "leave out"),
    )  # fmt: skip


def _of_places(c: Any, which: str) -> tuple[Rule, ...]:
    """Returns the rules of fields that live on edges."""
    a, g = type(c.method), c.gossip
    edges = bool(a.living("edge"))
    sends = edges and a.emit_ is not Algorithm.emit_  # else what a message brings is in its snapshot
    return (
        (f"network.topology.kind must be one that does not change with {which}, which keeps state for each edge",
         edges and isinstance(c.network.topology, Changing), "use another graph"),
        (f"algorithm.kind must keep a field on edges with {which}, which chooses whom it hears", a.asks_some() and
         not edges, "declare one, or leave out asks()"),
        (f"gossip.delay.kind must be none with {which}, whose messages bring what it keeps for each edge",
         sends and not g.delay.instant, "leave it out"),
        (f"gossip.reply must be after with {which}, whose messages bring what it keeps for each edge",
         sends and g.reply == "before", "leave it out"),
    )  # fmt: skip


def _in_rounds(c: Any) -> list[Rule]:
    """Returns the rules of settings that mean nothing in synchronous rounds."""
    names = {
        "gossip": ("clock", "reply", "delay", "fifo", "loss", "merge", "on_receipt", "flow", "weight"),
        "update": ("clock", "applies", "while_off"),
        "network": ("availability", "churn"),
    }
    idle = {f"{part}.{name}": given(getattr(c, part), name) for part, some in names.items() for name in some}
    idle["gossip.merge"] &= not isinstance(c.gossip.merge, Gathering)
    idle["gossip.exchange"] = c.gossip.exchange not in ("push", "pull")
    idle["run.on_divergence"] = c.run.on_divergence == "quarantine"
    idle["run.baseline"] = c.run.baseline != "none"
    rule = "must be left out with timing.kind=synchronous, in whose rounds all nodes update, then mix"
    rounds = isinstance(c.timing, Synchronous)
    return [(f"{key} {rule}", rounds and is_given, "leave it out") for key, is_given in idle.items()]


def _of_mixings(c: Any, which: str) -> tuple[Rule, ...]:
    """Returns the rules of several mixings in a round, whose W is their product."""
    a, several = type(c.method), isinstance(c.timing, Synchronous) and c.timing.mixings > 1
    own = a.living("edge") or a.living("inbox") or a.gather is not Algorithm.gather or a.has_own_rounds()
    parts = {
        "gossip.compress": not c.gossip.compress.exact,
        "gossip.merge": isinstance(c.gossip.merge, Gathering),
        "network.attack": tells_lies(c),
    }
    keys = " and ".join(key for key, there in parts.items() if there)
    return (
        (f"timing.mixings must be 1 with {keys or which}, whose rounds are more than a product with W", several and
         (keys or own), "leave it out"),
    )  # fmt: skip
