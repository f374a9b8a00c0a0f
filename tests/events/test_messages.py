"""Messages under way: the laws of DESIGN.md section 5 for delays, losses, churn, exchanges, merge rules and timing.

Combinations are drawn at random, with a fixed seed; every choice of a setting occurs several times.
"""

import heapq
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from batchednodes import load, resume, train
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning import memory_plan
from batchednodes.simulation.planning.plan import plan

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
        "{kind: partitioned, parts: 3, divide_step: false}",
        "{kind: partitioned, parts: 2, divide_step: true}",
    ],
    "gossip.on_receipt": ["merge", "merge", "merge_update", "update_merge", "update"],
    "gossip.flow": ["{kind: none}", "{kind: simple, capacity: 2}", "{kind: generalized, capacity: 4, spend: 2}",
                    "{kind: randomized, capacity: 4, spend: 2}"],
    "timing": ["{kind: continuous}", "{kind: continuous}", "{kind: rounds, steps: 3}",
               "{kind: rounds, steps: 3, period: gaussian}"],
    "update.clock": ["{kind: shifted_exponential}", "{kind: exponential}", "{kind: never}"],
    "update.applies": ["at_completion", "delta"],
    "gossip.weight": ["0.5", "{kind: uniform, low: 0, high: 1}"],
    "local.momentum": ["0", "0.9", "{kind: choice, values: [0, 0.9]}"],
    "network.topology": ["{kind: complete}", "{kind: ring}", "{kind: ring}", "{kind: random_matching, period: 1.5}",
                         "{kind: one_peer_exponential, period: 0.7}", "{kind: base_graph, period: 1.2}",
                         "{kind: random_peers, degree: 2, period: 0.7}"],
    "network.weights": ["{kind: uniform}", "{kind: metropolis_hastings}"],
    "staleness.track": ["all", "4", "none"],
    "run.on_divergence": ["stop", "quarantine"],
}  # fmt: skip


def possible(c: dict[str, str]) -> dict[str, str]:
    """Returns settings that fit each other: what does not fit is left out."""
    meets, trains = c["gossip.exchange"] == "meet", c["gossip.on_receipt"] in ("update", "update_merge")
    part = any(kind in c["gossip.merge"] for kind in ("sampled", "partitioned"))
    replaced = c["gossip.on_receipt"] == "update" and not part
    weighed = any(kind in c["gossip.merge"] for kind in ("fixed", "sampled", "staleness"))
    rules = {
        "network.weights": "ring" not in c["network.topology"],
        "gossip.reply": c["gossip.exchange"] != "push_pull",
        "gossip.delay": meets,
        "gossip.merge": replaced or (meets and not any(kind in c["gossip.merge"] for kind in ("fixed", "mean"))),
        "gossip.weight": replaced or not weighed,
        "gossip.on_receipt": meets and trains,
        "gossip.flow": c["gossip.exchange"] != "push",
        "gossip.fifo": meets or "none" in c["gossip.delay"],
        "network.churn": meets and "neighbour" in c["network.churn"],
        "update.applies": c["gossip.on_receipt"] != "merge" or "divide_step: true" in c["gossip.merge"],
        "run.on_divergence": trains,
        "update.while_off": "never" in c["update.clock"]
        or any(kind in c["network.availability"] for kind in ("always", "per_message")),
    }
    return {key: value for key, value in c.items() if not rules.get(key, False)}


def drawn(seed: int, fixed: dict[str, str] | None = None) -> list[str]:
    """Returns one random combination as overrides; some settings may be fixed."""
    draw = np.random.default_rng(seed)
    chosen = possible({key: str(draw.choice(values)) for key, values in CHOICES.items()} | (fixed or {}))
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
def test_batched_equals_serial_and_accounts_balance(seed, monkeypatch):
    if seed % 2:
        monkeypatch.setattr(memory_plan, "_PROGRAMS", 0)  # tapes from the first step on
    options = drawn(seed)
    batched, serial = train({}, *options), train({}, *options, "executor=serial")
    same(batched, serial)
    if batched.metrics["messages_sent"].notna().all():
        balanced(batched)
    drop = [key for key in batched.metrics.columns if key.startswith(("loss", "consensus", "model_norm", "staleness"))]
    assert batched.metrics.drop(columns=drop).equals(serial.metrics.drop(columns=drop))


@pytest.mark.filterwarnings("ignore:network.topology is not connected")
@pytest.mark.parametrize("seed", range(100, 112))
def test_windows_change_nothing(seed):
    options = [o for o in drawn(seed) if not o.startswith("run.mark_every")]
    whole = train({}, *options, "run.mark_every=6")
    cut = train({}, *options, "run.mark_every=1", "run.window=0.37")
    same(whole, cut)
    last = [
        r.metrics.iloc[-1][["updates", "gossips", "messages_sent", "messages_lost"]].to_list() for r in (whole, cut)
    ]
    assert last[0] == last[1]


@pytest.mark.filterwarnings("ignore:network.topology is not connected")
@pytest.mark.parametrize("seed", range(200, 206))
def test_batch_mates_change_nothing(seed):
    options = drawn(seed)
    together = train({}, *options, "sweep.network.nodes=[5, 12]")
    for k, n in enumerate((5, 12)):
        alone = train({}, *[o for o in options if not o.startswith("network.nodes")], f"network.nodes={n}")
        first = 0 if k == 0 else 5
        assert torch.equal(together.tables[k], alone.versions)
        part = together.x[first : first + n]
        assert float((part - alone.x).abs().max() / alone.x.abs().max()) <= LINEAR


@pytest.mark.filterwarnings("ignore:network.topology is not connected")
@pytest.mark.parametrize("seed", range(300, 308))
def test_a_run_that_was_halted_goes_on_bit_for_bit(seed, tmp_path):
    merge = "{kind: partitioned, parts: 3, divide_step: true}"
    fixed = {"gossip.merge": merge, "gossip.exchange": "push_pull"} if seed % 4 == 0 else None
    options = [o for o in drawn(seed, fixed) if not o.startswith("run.mark_every")]
    options += ["run.mark_every=1", "run.window=0.7"]
    train({}, *options, out=tmp_path / "whole")
    draw = np.random.default_rng(seed)
    asked = iter(range(10**9))
    halts = set(draw.integers(1, 60, 3).tolist())
    halted = train({}, *options, out=tmp_path / "run", stop=lambda: next(asked) in halts)
    while halted.summary["status"] == "interrupted":
        halted = resume(tmp_path / "run", stop=lambda: next(asked) in halts)
    whole, again = (load_file(tmp_path / name / "final.safetensors") for name in ("whole", "run"))
    assert whole.keys() == again.keys()
    assert all(whole[name].numpy().tobytes() == again[name].numpy().tobytes() for name in whole)  # NaN, too
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "run" / "metrics.jsonl").read_bytes()


def traces(folder):
    """Writes one file of each kind of trace for twelve nodes; returns the settings that read them."""
    draw = np.random.default_rng(5)
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    late, times = draw.uniform(0, 2, (len(pairs), 3)).round(3), (0, 1.5, 3)
    files = {
        "list": [f"{value}" for value in late[:, 0]],
        "links": ["from,to,delay", *(f"{i},{j},{d}" for (i, j), row in zip(pairs, late, strict=True) for d in row)],
        "times": ["time,from,to,delay",
                  *(f"{t},{i},{j},{d}" for (i, j), row in zip(pairs, late, strict=True)
                    for t, d in zip(times, row, strict=True))],
        "nodes": ["time,node,on", *(f"{i / 6 + t},{i},{t % 1 * 2:g}" for i in range(12) for t in (0, 0.5, 3, 3.5))],
    }  # fmt: skip
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines))
    delays = [f"{{kind: trace, path: '{folder / name}'}}" for name in ("list", "links", "times")]
    return delays, f"{{kind: trace, path: '{folder / 'nodes'}'}}"


@pytest.mark.filterwarnings("ignore:network.topology is not connected")
@pytest.mark.parametrize("seed", range(500, 524))
def test_batched_equals_serial_with_traces(seed, tmp_path):
    delays, nodes = traces(tmp_path)
    fixed = {"gossip.delay": delays[seed % 3], "gossip.exchange": ["push", "pull", "push_pull"][seed // 3 % 3]}
    fixed |= {"network.churn": "{}", "gossip.flow": "{kind: none}"}
    options = drawn(seed, fixed | ({"network.availability": nodes} if seed % 2 else {}))
    batched, serial = train({}, *options, "run.window=0.9"), train({}, *options, "executor=serial")
    same(batched, serial)
    balanced(batched)
    assert batched.metrics["messages_delivered"].iloc[-1] > 10


DIVIDED = ["gossip.merge={kind: partitioned, parts: 3, divide_step: true}", "network.nodes=6", "run.until=4"]


@pytest.mark.parametrize("receipt", ["merge", "merge_update", "update_merge", "update"])
@pytest.mark.parametrize("parts", [1, 3])
def test_steps_divided_by_ages_are_serial_and_ages_those_of_the_mail(receipt, parts, tmp_path):
    options = [*BASE, *DIVIDED, f"gossip.merge.parts={parts}", f"gossip.on_receipt={receipt}", "local.momentum=0.5"]
    options += ["local.weight_decay=0.1", "gossip.delay={kind: exponential, mean: 0.3}", "local.steps=2"]
    options += ["network.churn={join: {kind: choice, values: [0, 1]}, start: neighbour}"]
    batched = train({}, *options, out=tmp_path / "run")
    same(batched, train({}, *options, "executor=serial", out=tmp_path / "serial"))
    for name in ("run", "serial"):
        kept = load_file(tmp_path / name / "final.safetensors")
        assert torch.equal(kept["age"], kept["clocks.in_flight.age"])
        assert kept["age"].shape == (6, parts)
        assert kept["age"].unique().numel() > 1
    plain = train({}, *options, "gossip.merge.divide_step=false")
    assert not torch.allclose(plain.x, batched.x, rtol=0.01)
    assert torch.equal(plain.versions, batched.versions)


def test_steps_divided_by_ages_with_epochs_of_nodes_that_own_different_numbers(monkeypatch):
    options = [*BASE, *DIVIDED, "local.epochs=2", "task.partition={kind: quantity_lognormal, sigma: 1}"]
    options += ["task.data.samples_per_node=9", "gossip.on_receipt=merge_update"]
    same(train({}, *options), train({}, *options, "executor=serial"))
    monkeypatch.setattr("batchednodes.simulation.build.local._uneven", lambda sampler, where: "mask")  # as on CUDA
    same(train({}, *options), train({}, *options, "executor=serial"))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_steps_are_divided_by_the_number_of_steps_so_far(momentum):
    options = [*BASE, *DIVIDED, "gossip.clock.kind=never", "local.batch_size=6", "local.steps=3"]
    options += ["local.weight_decay=0.2", f"local.momentum={momentum}", "update.clock={kind: deterministic, period: 1}"]
    result, whole = train({}, *options), load({}, options)
    made = assembly.assemble([whole], assembly.timeline([whole]), plan([whole], assembly.timeline([whole])).chunks)
    problem, start = made.problem, made.state.models
    for i in range(6):
        x, v = start[i].clone(), torch.zeros_like(start[i])
        index = problem.draw(np.full(4, i), np.arange(4)).flatten(0, 1)  # a minibatch is all that a node owns
        for t, examples in enumerate(index, 1):
            row = x.clone().requires_grad_()
            problem.loss(row, *problem.batch(examples)).backward()
            v = momentum * v + row.grad + 0.2 * x
            x = x - 0.05 / t * v
        assert float((x - result.x[i]).abs().max()) < LINEAR


class Plainly:
    """Pushes on the complete graph with exponential delays and losses, in plain Python, event by event."""

    def __init__(self, n: int, update: float, contact: float, delay: float, loss: float, seed: int) -> None:
        self.n, self.delay, self.loss, self.rng = n, delay, loss, random.Random(seed)
        self.rates = {"update": update, "contact": contact}
        self.versions = [[0] * n for _ in range(n)]
        self.lag = [0] * n  # sum over the sources of the staleness at each node
        self.counts = {"sent": 0, "delivered": 0, "lost": 0}
        self.queue: list[tuple[float, int, str, int, int, list[int]]] = []
        self.number = 0
        for i in range(n):
            for kind in self.rates:
                self.push(0.0, self.rates[kind], kind, i)

    def push(self, now, rate, kind, i, j=-1, versions=None):
        self.number += 1
        heapq.heappush(self.queue, (now + self.rng.expovariate(rate), self.number, kind, i, j, versions or []))

    def run(self, begin: float, end: float) -> float:
        """Returns the time average of the mean staleness over (begin, end)."""
        now, area = 0.0, 0.0
        while True:
            time, _, kind, i, j, versions = heapq.heappop(self.queue)
            area += max(0.0, min(time, end) - max(now, begin)) * sum(self.lag)
            now = time
            if time > end:
                return area / (end - begin) / (self.n * (self.n - 1))
            if kind == "update":
                self.versions[i][i] += 1
                for node in range(self.n):
                    self.lag[node] += node != i
            elif kind == "contact":
                other = self.rng.randrange(self.n - 1)
                self.counts["sent"] += 1
                if self.rng.random() < self.loss:
                    self.counts["lost"] += 1
                else:
                    self.push(now, 1 / self.delay, "arrival", i, other + (other >= i), self.versions[i][:])
            else:
                self.counts["delivered"] += 1
                for source, count in enumerate(versions):
                    gain = max(0, count - self.versions[j][source])
                    self.versions[j][source] += gain
                    self.lag[j] -= gain
            if kind != "arrival":
                self.push(now, self.rates[kind], kind, i)


@pytest.mark.slow
def test_staleness_with_delays_and_losses_is_that_of_a_plain_simulation():
    """Two means of ten independent runs each: 4.5 standard errors apart by chance once in 100,000 times or so."""
    n, update, contact, delay, loss = 8, 1.0, 2.0, 0.7, 0.25
    plain = [Plainly(n, update, contact, delay, loss, seed) for seed in range(10)]
    expected = np.array([simulation.run(50.0, 250.0) for simulation in plain])
    result = train(
        {},
        *BASE[1:],
        f"network.nodes={n}",
        f"update.clock={{kind: exponential, rate: {update}}}",
        f"gossip={{clock: {{kind: poisson, rate: {contact}}}, delay: {{kind: exponential, mean: {delay}}}}}",
        f"gossip.loss={{kind: independent, probability: {loss}}}",
        "replicas=10",
        "run.until=250",
        "run.mark_every=50",
    )
    rows = result.metrics
    integral = (
        rows[rows.time == 250].staleness_integral.to_numpy() - rows[rows.time == 50].staleness_integral.to_numpy()
    )
    found = integral / 200
    error = np.sqrt((expected.var(ddof=1) + found.var(ddof=1)) / 10)
    assert abs(found.mean() - expected.mean()) <= 4.5 * error
    assert error < 0.02 * expected.mean()  # so that a delay or a loss left out would show
    balanced(result)
    sent, lost = (rows[rows.time == 250][f"messages_{name}"].sum() for name in ("sent", "lost"))
    assert abs(lost - loss * sent) <= 4.5 * np.sqrt(loss * (1 - loss) * sent)


def test_a_node_that_joins_begins_to_compute_from_the_model_that_it_takes():
    churn = "network.churn={join: {kind: choice, values: [0, 1.5, 3]}, start: neighbour}"
    options, alone = [*BASE, churn, "run.until=6", "run.mark_every=6"], "gossip.clock.kind=never"
    for executor in ("executor=batched", "executor=serial"):
        now, stale = (train({}, *options, alone, executor, f"update.applies={a}") for a in ("at_completion", "delta"))
        assert float((now.x - stale.x).abs().max()) < 1e-12  # nothing comes between the begin of an update and its end
    options += ["gossip.clock.rate=2", "gossip.delay={kind: constant, time: 0.2}", "update.applies=delta"]
    same(train({}, *options, "run.window=0.4"), train({}, *options, "executor=serial"))


def test_nodes_that_are_not_there_do_not_count():
    start, times = {"join": [0.0] * 8 + [2.5] * 2 + [9.0] * 2, "leave": [1.5] * 2 + [100.0] * 10}, [0, 1, 2, 3]
    options = [*BASE, f"network.churn={start}", "run.until=3", "gossip.delay={kind: constant, time: 0.2}"]
    options += ["task.model.init=independent", "run.eval_nodes=12"]
    metrics = train({}, *options).metrics
    assert metrics["nodes_present"].tolist() == [8, 8, 6, 8]
    for time, row in zip(times, metrics.to_dict("records"), strict=True):
        there = [i for i in range(12) if start["join"][i] <= time < start["leave"][i]]
        x = train({}, *options, f"run.until={max(time, 1e-9)}").x[there]
        assert row["model_norm_mean"] == pytest.approx(float(x.norm(dim=1).mean()), rel=1e-9)
        spread = float((x - x.mean(0)).square().sum(1).mean().sqrt())
        assert row["consensus_distance"] == pytest.approx(spread, rel=1e-9)


def test_all_nodes_count_where_nobody_is_there():
    some = train({}, *BASE, "network.churn={join: 5}", "run.until=1").metrics
    everyone = train({}, *BASE, "gossip.clock.kind=never", "update.clock.kind=never", "run.until=1").metrics
    assert some["loss_mean"].tolist() == everyone["loss_mean"].tolist()
    assert some["nodes_present"].tolist() == [12, 12]


def test_a_model_that_counts_for_nothing_brings_no_age():
    options = [*BASE, "run.until=4", "gossip.delay={kind: constant, time: 0.2}"]
    gossip = "gossip.weight=0", "gossip.clock.kind=never"
    ages = [train({}, *options, choice).metrics["model_age_mean"].iloc[-1] for choice in gossip]
    assert ages[0] == ages[1] > 0
