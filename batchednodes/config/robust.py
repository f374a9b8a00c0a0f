"""What must hold of attackers, and of merge rules for whole neighbourhoods, together with other settings.

Notation: c the settings, a `Config`; which the algorithm, as messages name it.
"""

from typing import Any

from batchednodes.algorithms.attacks import NoAttack, Omniscient, OnData, OwnRows
from batchednodes.config.kinds import READER
from batchednodes.config.rules import Rule, given
from batchednodes.events.merge import Gathering
from batchednodes.events.rounds import Continuous
from batchednodes.events.synchronous import Synchronous


def of_robustness(c: Any, which: str) -> tuple[Rule, ...]:
    """Returns the rules of attackers and of neighbourhoods."""
    rounds, gathers = isinstance(c.timing, Synchronous), isinstance(c.gossip.merge, Gathering)
    attack = f"network.attack.kind={READER.plain(c.network.attack, 'network.attack')['kind']}"
    merge = f"gossip.merge.kind={READER.plain(c.gossip.merge, 'gossip.merge')['kind']}"
    lies, what = tells_lies(c), merge if gathers else attack
    whole = gathers and c.gossip.merge.clips() is None
    return (
        (f"timing.kind must be synchronous with {merge}, which takes whole neighbourhoods" + (
            " unless gossip.merge.tau is a number" if merge.endswith("clipped_gossip") else ""),
         whole and not rounds, "set timing.kind=synchronous"),
        (f"timing.kind must be synchronous with {attack}, whose attackers read the rows of others",
         isinstance(c.network.attack, Omniscient) and not rounds, "set timing.kind=synchronous"),
        (f"{what.split('.kind')[0]} must be left out with {which}, whose contacts are not plain averages",
         (gathers or lies) and not plainly_averages(c.algorithm), "leave it out"),
        (f"gossip.compress must be left out with {what}, which would take messages for models",
         (gathers or lies) and not plainly_averages(c.method), "leave it out"),
        *_of_messages(c, what, gathers or lies),
        *_of_silence(c, which),
        (f"gossip.merge.kind must be one that takes whole models with {attack}, got {merge.split('=')[1]}",
         lies and c.gossip.merge.selects(), "use kind fixed"),
    )  # fmt: skip


def _of_messages(c: Any, what: str, robust: bool) -> tuple[Rule, ...]:
    """Returns the rules of what else may become of a model that comes."""
    steps = not isinstance(c.timing, Continuous | Synchronous)
    keys = (("gossip", "on_receipt", "merge"), ("update", "applies", "at_completion"))
    return (
        (f"timing.kind must be continuous or synchronous with {what}", robust and steps, "leave out timing"),
        *((f"{part}.{name} must be {value} with {what}", robust and given(getattr(c, part), name), "leave it out")
          for part, name, value in keys),
        (f"network.churn.start must be fresh with {what}", robust and c.network.churn.start != "fresh", "leave it out"),
    )  # fmt: skip


def _of_silence(c: Any, which: str) -> tuple[Rule, ...]:
    """Returns the rules of nodes from whom nothing comes."""
    silent, a = len(c.network.silent) > 0, type(c.method)
    corrects = a.mixing == "double" and not a.descends
    return (
        (f"network.silent must be left out with {which}, where a contact is more than a mean at the node that receives",
         silent and (not plainly_averages(c.method) or a.emits != ("x",) or corrects), "use another algorithm"),
        (f"network.silent must be left out with {which}, whose rounds mix by matrices of its own",
         silent and a.has_own_rounds(), "use another algorithm"),
        ("gossip.on_receipt must be merge or merge_update with network.silent, got "
         f"{c.gossip.on_receipt!r}, by which nodes take over what others send",
         silent and c.gossip.on_receipt not in ("merge", "merge_update"), "use one of them"),
    )  # fmt: skip


def tells_lies(c: Any) -> bool:
    """Returns whether any node sends other than it should."""
    return not isinstance(c.network.attack, NoAttack | OnData)


def is_robust(c: Any) -> bool:
    """Returns whether mixing is more than to average: neighbourhoods are merged in another way, or nodes lie."""
    return isinstance(c.gossip.merge, Gathering) or tells_lies(c)


def gathers(c: Any) -> bool:
    """Returns whether rounds hand each node the rows of its neighbours, which they do not where products by W do."""
    return isinstance(c.gossip.merge, Gathering) or isinstance(c.network.attack, Omniscient)


def plainly_averages(algorithm: Any) -> bool:
    """Returns whether an algorithm takes means of what is emitted, and no mass from senders."""
    return algorithm.linear() and algorithm.mixing != "column" and not algorithm.elapses


def check_attackers(c: Any) -> None:
    """Checks who attacks.

    Raises:
        ValueError: there are no such nodes, or no others, or the attack does not suit their number.
    """
    attack, n = c.network.attack, c.network.nodes
    if not isinstance(attack, NoAttack | OnData | OwnRows | Omniscient):
        got = f"{type(attack).__module__}:{type(attack).__qualname__}"
        raise ValueError(f"network.attack must be a kind derived from OnData, OwnRows or Omniscient, got {got}")
    if isinstance(attack, NoAttack):
        return
    try:
        attack.settled(n, int(attack.attackers(n, c.seed).sum()))
    except ValueError as error:
        raise ValueError(f"network.attack.{error}") from None
