"""What must hold of contacts and messages together with other settings: what they exchange, what they start, and when.

Notation: c the settings, a `Config`.
"""

from typing import Any

from batchednodes.config.rules import Rule, given, refuse
from batchednodes.events.merge import Gathering, Sampled
from batchednodes.events.rounds import Rounds


def has_messages(c: Any) -> bool:
    """Returns whether models are more than exchanged at once and merged."""
    return (
        c.gossip.exchange == "push_pull"
        or not (c.gossip.delay.instant and c.gossip.flow.unlimited)
        or any(given(c.gossip, name) for name in ("loss", "on_receipt"))
        or (given(c.gossip, "merge") and not isinstance(c.gossip.merge, Gathering))
        or any(given(c.network, name) for name in ("availability", "churn"))
        or isinstance(c.timing, Rounds)
    )


def check_messages(c: Any) -> None:
    """Checks what concerns several settings of messages.

    Raises:
        ValueError: they do not fit together.
    """
    refuse([*_of_exchange(c), *_on_receipt(c), *_in_time(c)])


def _of_exchange(c: Any) -> tuple[Rule, ...]:
    """Returns the rules of who sends what to whom."""
    g, exchange, meet = c.gossip, c.gossip.exchange, c.gossip.exchange == "meet"
    idle_scheme = isinstance(c.timing, Rounds) and given(g, "scheme")
    return (
        ("gossip.scheme.kind must be uniform where messages take time, get lost, find nobody or are more than merged, "
         "or time goes by rounds", idle_scheme or (has_messages(c) and not g.scheme.independent), "use kind uniform"),
        ("gossip.reply must be after unless gossip.exchange=push_pull", g.reply == "before" and exchange != "push_pull",
         "leave it out"),
        ("gossip.delay.kind must be none with gossip.exchange=meet, which happens at one instant", meet and
         not g.delay.instant, "use exchange push_pull"),
        ("gossip.merge.kind must be fixed or mean with gossip.exchange=meet", meet and not g.merge.is_fixed(),
         "use exchange push_pull"),
        ("gossip.on_receipt must be merge or merge_update with gossip.exchange=meet", meet and
         g.on_receipt in ("update", "update_merge"), "use exchange push_pull"),
        ("network.churn.start must be fresh with gossip.exchange=meet", meet and
         c.network.churn.start == "neighbour", "use exchange push_pull"),
        ("gossip.fifo must be false where messages take no time", g.fifo and g.delay.instant, "set gossip.delay"),
        ("gossip.flow.kind must be none unless gossip.exchange=push", exchange != "push" and
         not g.flow.unlimited, "use exchange push"),
    )  # fmt: skip


def _on_receipt(c: Any) -> tuple[Rule, ...]:
    """Returns the rules of what a node does with a model that comes."""
    g, delta, trains = c.gossip, c.update.applies == "delta", c.gossip.on_receipt != "merge"
    replaced = g.on_receipt == "update" and not g.merge.selects()
    return (
        ("update.applies must be at_completion where nodes train when a model comes", delta and trains,
         "use gossip.on_receipt=merge"),
        ("gossip.merge.divide_step must be false with update.applies=delta, whose model is younger than its node",
         g.merge.divides() and delta, "use at_completion"),
        ("local.steps must be a number unless gossip.merge.kind is fixed, mean or sampled, as others count the steps "
         "behind a model", not isinstance(c.local.steps, int) and not g.merge.is_fixed() and
         not isinstance(g.merge, Sampled), "set a number"),
        ("gossip.merge.divide_step must be false with local.compile=on", g.merge.divides() and c.local.compile == "on",
         "use local.compile=auto"),
        ("run.on_divergence must be stop or ignore where nodes train models that come", c.run.on_divergence ==
         "quarantine" and g.on_receipt in ("update", "update_merge"), "use gossip.on_receipt=merge_update"),
        ("gossip.merge must be left out, or of kind sampled or partitioned, with gossip.on_receipt=update, which takes "
         "a model that comes in place of its own", replaced and given(g, "merge"), "use update_merge"),
        ("gossip.weight must be left out where a model that comes does not count by it", given(g, "weight") and
         (replaced or not g.merge.weighs()), "use gossip.merge.kind fixed, sampled or staleness_weighted"),
        ("run.baseline must be none where nodes train only when a model comes", c.run.baseline == "isolated" and
         trains and c.update.clock.never, "set update.clock"),
    )  # fmt: skip


def _in_time(c: Any) -> tuple[Rule, ...]:
    """Returns the rules of when nodes act, are on, and belong to the network."""
    pause, churn = c.update.while_off == "pause", c.network.churn
    return (
        ("update.while_off must be continue where nodes are never off", pause and
         not c.network.availability.spans, "set network.availability"),
        ("update.while_off must be continue with update.clock.kind=never", pause and c.update.clock.never,
         "set update.clock"),
        ("gossip.clock must be left out with timing.kind=rounds, which says when nodes make contact",
         isinstance(c.timing, Rounds) and given(c.gossip, "clock"), "set timing.steps"),
        ("network.churn.start must be fresh where no node joins late", churn.start == "neighbour" and churn.join == 0,
         "set network.churn.join"),
    )  # fmt: skip
