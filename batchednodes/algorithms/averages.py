"""Averages at contacts and in rounds, in plain PyTorch, for forms of events that share nothing with waves."""

from typing import Any

from batchednodes.events.timeline import MEET, ROUND


def average_(x: Any, e: Any) -> None:
    """Gives rows x the averages of a contact, of both sides in a meeting, or of a round, in place."""
    if e.kind == ROUND:
        x[e.nodes] = e.matrix @ x[e.nodes]
        return
    a, b = x[e.actor].clone(), x[e.peer].clone()
    x[e.peer] = (1 - e.weight) * b + e.weight * a
    if e.kind == MEET:
        x[e.actor] = (1 - e.weight) * a + e.weight * b
