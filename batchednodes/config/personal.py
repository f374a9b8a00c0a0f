"""Entries of models that stay at their node: what a setting of them says, and which other settings they fit.

Notation: c the settings, a `Config`; which the algorithm, as messages name it.
"""

from collections.abc import Iterator
from typing import Any

from batchednodes.algorithms.base import Algorithm
from batchednodes.config.robust import is_robust
from batchednodes.config.rules import Rule
from batchednodes.events.synchronous import Synchronous
from batchednodes.numerics.values import shown

ALL = "all"
"""Stands for all nodes of a network."""


def patterns(personal: Any) -> Iterator[tuple[str, bool, Any]]:
    """Yields each pattern of names, whether what it names stays, and the nodes where it does; None: all.

    Example:
        >>> from batchednodes.config.personal import patterns
        >>> [*patterns(("*", "!body.*"))]
        [('*', True, None), ('body.*', False, None)]
        >>> [*patterns({"head.*": [0, 2]})]
        [('head.*', True, [0, 2])]
    """
    given = personal if isinstance(personal, dict) else dict.fromkeys(personal, ALL)
    for pattern, nodes in given.items():
        yield pattern.removeprefix("!"), not pattern.startswith("!"), None if nodes == ALL else nodes


def of_personal(c: Any, which: str) -> tuple[Rule, ...]:
    """Returns the rules of what may stay at nodes, and where."""
    g, a, there = c.gossip, type(c.method), bool(c.gossip.personal)
    some = there and any(nodes is not None for *_, nodes in patterns(g.personal))
    whole = not a.linear() or (isinstance(c.timing, Synchronous) and a.has_own_rounds())
    key = "gossip.personal must be left out with"
    return (
        (f"{key} {which}, which does more with what comes than a mean of each entry by itself", there and
         not spares(c.algorithm), "use an algorithm that averages models"),
        (f"{key} gossip.compress, whose messages are made of whole models", there and not g.compress.exact,
         "leave out one of them"),
        (f"{key} a gossip.merge that brings parts of a model, or divides steps by their ages", there and
         (g.merge.selects() or g.merge.divides()), "use another kind"),
        (f"{key} attackers, or a gossip.merge of whole neighbourhoods, which take whole models", there and is_robust(c),
         "leave out one of them"),
        (f"{key} gossip.on_receipt={g.on_receipt}, which trains a model that came, and that has no such entries", there
         and g.on_receipt in ("update", "update_merge"), "use merge or merge_update"),
        (f"gossip.personal must be the same at all nodes with {which}, whose mixing is more than a mean of two models "
         "or of neighbours", some and whole, "give a list of patterns"),
    )  # fmt: skip


def spares(algorithm: Algorithm) -> bool:
    """Returns whether entries may stay at their node when an algorithm mixes."""
    cls = type(algorithm)
    return cls.mixing != "column" and not cls.living("edge") and (cls.linear() or cls.spares)


def check_personal(c: Any) -> None:
    """Checks patterns and nodes, whatever the model is.

    Raises:
        ValueError: a pattern is empty, or nodes are none of the network.
    """
    n = c.network.nodes
    for pattern, _, nodes in patterns(c.gossip.personal):
        if not pattern:
            raise ValueError(f"gossip.personal must be patterns of names of parameters, got {shown(pattern)}; use '*'")
        if nodes is None:
            continue
        whole = isinstance(nodes, list) and all(type(i) is int and 0 <= i < n for i in nodes)
        if not (whole and nodes):
            raise ValueError(
                f"gossip.personal must give {shown(pattern)} the word all, or a list of nodes in 0 .. {n - 1}, got "
                f"{shown(nodes)}"
            )
