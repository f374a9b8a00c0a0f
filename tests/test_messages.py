"""Messages under way: the laws of DESIGN.md section 5 for delays, losses, churn, exchanges, merge rules and timing.

Combinations are drawn at random, with a fixed seed; every choice of a setting occurs several times.
"""

import numpy as np
import pytest
import torch

from batchednodes import train

LINEAR = 1e-12  # relative, float64: the same sums in another order
BASE = [
    "network.nodes=12",
    "task.data.features=4",
    "task.data.samples_per_node=6",
    "task.data.test_samples=20",
    "local.batch_size=4",
    "local.lr=0.05",
    "dtype=float64",
]
CHOICES = {
    "gossip.exchange": ["push", "pull", "push_pull", "push_pull", "meet"],
    "gossip.reply": ["after", "before"],
    "gossip.delay": [
        "{kind: none}",
        "{kind: constant, time: 0.2}",
        "{kind: uniform, low: 0, high: 1}",
        "{kind: exponential, mean: {kind: exponential, mean: 0.4}}",
        "{kind: lognormal, median: 0.2, sigma: 1}",
        "{kind: bandwidth, rate: 200, spread: 0.3, latency: 0.1}",
    ],
    "gossip.fifo": ["false", "true"],
    "gossip.loss": ["{kind: none}", "{kind: independent, probability: 0.3}", "{kind: bursts}"],
    "network.availability": [
        "{kind: always}",
        "{kind: per_message, probability: 0.6}",
        "{kind: markov, mean_on: 1, mean_off: 0.5}",
        "{kind: diurnal, period: 2, share: 0.6}",
    ],
    "network.churn": [
        "{}",
        "{}",
        "{join: {kind: choice, values: [0, 1.5, 3]}, leave: {kind: choice, values: [4, 5, 100]}}",
        "{join: {kind: choice, values: [0, 2]}, start: neighbour}",
    ],
    "update.while_off": ["continue", "pause"],
    "gossip.merge": [
        "{kind: fixed}",
        "{kind: mean}",
        "{kind: age_weighted}",
        "{kind: staleness_weighted}",
        "{kind: limited}",
        "{kind: sampled, share: 0.5}",
        "{kind: partitioned, parts: 3}",
    ],
    "gossip.on_receipt": ["merge", "merge", "merge_update", "update_merge", "update"],
    "gossip.flow": ["{kind: none}", "{kind: simple, capacity: 2}", "{kind: generalized, capacity: 4, spend: 2}",
                    "{kind: randomized, capacity: 4, spend: 2}"],
    "timing": ["{kind: continuous}", "{kind: continuous}", "{kind: rounds, steps: 3}",
               "{kind: rounds, steps: 3, period: gaussian}"],
    "update.clock": ["{kind: shifted_exponential}", "{kind: exponential}", "{kind: never}"],
    "update.applies": ["at_completion", "delta"],
    "gossip.weight": ["0.5", "{kind: uniform, low: 0, high: 1}"],
    "local.momentum": ["0", "0.9"],
    "network.topology.kind": ["complete", "ring"],
    "staleness.track": ["all", "4", "none"],
    "run.on_divergence": ["stop", "quarantine"],
}  # fmt: skip


def possible(c: dict[str, str]) -> dict[str, str]:
    """Returns settings that fit each other: what does not fit is left out."""
    meets, trains = c["gossip.exchange"] == "meet", c["gossip.on_receipt"] in ("update", "update_merge")
    rules = {
        "gossip.reply": c["gossip.exchange"] != "push_pull",
        "gossip.delay": meets,
        "gossip.merge": meets and not any(kind in c["gossip.merge"] for kind in ("fixed", "mean")),
        "gossip.on_receipt": meets and trains,
        "gossip.flow": c["gossip.exchange"] != "push",
        "gossip.fifo": meets or "none" in c["gossip.delay"],
        "network.churn": meets and "neighbour" in c["network.churn"],
        "update.applies": c["gossip.on_receipt"] != "merge",
        "run.on_divergence": trains,
        "update.while_off": any(kind in c["network.availability"] for kind in ("always", "per_message")),
    }
    return {key: value for key, value in c.items() if not rules.get(key, False)}


def drawn(seed: int) -> list[str]:
    """Returns one random combination as overrides."""
    draw = np.random.default_rng(seed)
    chosen = possible({key: str(draw.choice(values)) for key, values in CHOICES.items()})
    rate = [] if "rounds" in chosen["timing"] else ["gossip.clock.rate=2"]
    until = "run.until=12" if "rounds" in chosen["timing"] else "run.until=6"
    return [*BASE, *rate, until, f"run.mark_every={until[10:]}", *(f"{key}={value}" for key, value in chosen.items())]


def same(a, b, tolerance=LINEAR):
    assert all(torch.equal(x, y) for x, y in zip(a.tables, b.tables, strict=True))
    assert float((a.x - b.x).abs().max() / b.x.abs().max()) <= tolerance


def balanced(result):
    for row in result.metrics.to_dict("records"):
        arrived = row["messages_delivered"] + row["messages_lost"] + row["messages_offline"]
        assert row["messages_sent"] == arrived + row["messages_in_flight"]


@pytest.mark.filterwarnings("ignore:network.topology is not connected")
@pytest.mark.parametrize("seed", range(80))
def test_batched_equals_serial_and_accounts_balance(seed):
    options = drawn(seed)
    batched, serial = train({}, *options), train({}, *options, "executor=serial")
    same(batched, serial)
    if batched.metrics["messages_sent"].notna().all():
        balanced(batched)
    drop = [key for key in batched.metrics.columns if key.startswith(("loss", "consensus", "model_norm", "staleness"))]
    assert batched.metrics.drop(columns=drop).equals(serial.metrics.drop(columns=drop))
