"""The events of messages, gone through again in plain Python: ages, weights, tokens, rounds, and snapshots."""

import heapq
import math
from collections import defaultdict

import numpy as np
import pytest
from test_messages import drawn
from test_messages_laws import models, run, unit

from batchednodes import load
from batchednodes.config import has_messages
from batchednodes.events.timeline import MEET, UPDATE
from batchednodes.numerics import rng
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import slots
from batchednodes.simulation.planning.plan import plan

RULES = {
    "{kind: fixed}": lambda a, b, w: w,
    "{kind: mean}": lambda a, b, w: 0.5,
    "{kind: sampled, share: 0.5}": lambda a, b, w: w,
    "{kind: age_weighted}": lambda a, b, w: b / (a + b) if a + b else 0.5,
    "{kind: staleness_weighted, exponent: 0.7}": lambda a, b, w: w * (1 + max(0, a - b)) ** -0.7,
    "{kind: limited, limit: 3}": lambda a, b, w: 0 if a > b + 3 else 1 if b > a + 3 else b / (a + b) if a + b else 0.5,
    "{kind: partitioned, parts: 3}": lambda a, b, w: b / (a + b) if a + b else 0.5,
}


@pytest.mark.parametrize("receipt", ["merge", "merge_update", "update_merge", "update"])
@pytest.mark.parametrize("rule", RULES)
def test_weights_are_those_of_the_rule_and_ages_those_of_the_models(rule, receipt):
    """Each row, slots too, has the age that its history gives; a merge weighs by the ages of the two rows it reads."""
    n, parts, steps = 6, 3 if "parts" in rule else 1, 2
    taken = receipt == "update" and parts == 1 and "sampled" not in rule
    if taken and rule != "{kind: fixed}":
        return
    options = ["local.steps=2", "gossip.delay={kind: exponential, mean: 0.5}", f"gossip.merge={rule}"]
    weight = 0.5 if taken or not any(k in rule for k in ("fixed", "sampled", "stale")) else 0.3
    options += [f"gossip.weight={weight}", f"gossip.on_receipt={receipt}", "network.topology.kind=ring"]
    events, clocks, _ = run(*options, "gossip.exchange=push_pull", n=n, until=20.0)
    age, message, merges = defaultdict(lambda: np.zeros(parts, int)), events.message, 0
    for e in range(len(events)):
        j, i, part = int(events.actor[e]), int(events.peer[e]), int(message.part[e])
        if events.kind[e] == UPDATE:
            age[j] = age[j] + steps
        elif j >= n:
            assert message.weight[e] == 1
            age[j] = age[i]
        else:
            q = part if parts > 1 else 0
            expected = 1.0 if taken else RULES[rule](age[j][q], age[i][q], weight)
            assert message.weight[e] == pytest.approx(expected, rel=1e-15)  # the same formula
            new = age[j].copy()
            new[q] = age[i][q] if taken else max(age[j][q], age[i][q])
            age[j], merges = new, merges + 1
    assert merges > 100
    assert [age[i].tolist() for i in range(n)] == clocks.in_flight.age.tolist()


def test_parts_are_drawn_uniformly():
    events, _, _ = run("gossip.merge={kind: partitioned, parts: 4}", "update.clock.kind=never")
    counts = np.bincount(events.message.part[events.actor < 20], minlength=4)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 28  # chi-square of 3 degrees: 4e-6


P = {
    "simple": lambda a, c, s: 1 if a >= c else 0,
    "generalized": lambda a, c, s: 1 if a >= c else 0,
    "randomized": lambda a, c, s: 0 if a < s - 1 else min(1, (a - s + 1) / (c - s + 1)),
}
R = {
    "simple": lambda a, s, u: 1 if a > 0 else 0,
    "generalized": lambda a, s, u: (s - 1 + a) // s,
    "randomized": lambda a, s, u: math.floor(a / s + u),
}


@pytest.mark.parametrize("kind", P)
def test_tokens_are_saved_and_spent_as_the_paper_says(kind):
    n, capacity, spend, delay, until = 10, 4, 2, 0.4, 60.0
    silent, late = ["update.clock.kind=never"], f"gossip.delay={{kind: constant, time: {delay}}}"
    contacts = [(sent, i, j) for _, j, i, sent in models(run(*silent, late, n=n, until=until + delay)[0], n)]
    settings = f"capacity: {capacity}" + ("" if kind == "simple" else f", spend: {spend}, usefulness: always")
    events, clocks, _ = run(*silent, late, f"gossip.flow={{kind: {kind}, {settings}}}", n=n, until=until)
    tokens, tried, arrived, reacted = ([0] * n for _ in range(4))
    queue = [(time, 0, k, i, j) for k, (time, i, j) in enumerate(contacts)]
    heapq.heapify(queue)
    found, number, saved, spent = [], len(queue), 0, 0
    while queue and queue[0][0] <= until:
        time, arrives, _, i, j = heapq.heappop(queue)
        to = []
        if not arrives:
            send = unit(0, rng.FLOW, i, 2 * tried[i])[0] < P[kind](tokens[i], capacity, spend)
            tried[i] += 1
            to, sender = ([j], i) if send else ([], i)
            tokens[i] += not send
            saved += not send
        else:
            found.append((time, j, i, time - delay))
            arrived[j] += 1
            count = min(tokens[j], R[kind](tokens[j], spend, unit(0, rng.FLOW, j, 2 * arrived[j] + 1)[0]))
            tokens[j] -= count
            spent += count
            for _ in range(count):
                other = int(unit(0, rng.REACTIVE, j, reacted[j])[0] * (n - 1))
                reacted[j] += 1
                to.append(other + (other >= j))
            sender = j
        for receiver in to:
            number += 1
            heapq.heappush(queue, (time + delay, 1, number, sender, receiver))
        assert 0 <= tokens[sender] <= capacity
    assert spent > 100
    assert tokens == clocks.in_flight.nodes["tokens"].tolist()
    assert sum(tokens) + spent == saved
    assert [one[:3] for one in found] == [one[:3] for one in models(events, n)]


def test_rounds_send_once_each_at_a_step_of_ones_own_and_gaussian_periods_have_their_law():
    events, _, _ = run("update.clock.kind=never", "timing={kind: rounds, steps: 7}", until=70.0)
    phases = defaultdict(list)
    for time, _, sender, sent in models(events):
        assert time == sent
        phases[sender].append(int(time) - 1)
    assert len(phases) == 20
    assert all(np.diff(p).tolist() == [7] * 9 for p in phases.values())
    gaussian = "timing={kind: rounds, steps: 100, period: gaussian}"
    events, _, timeline = run("update.clock.kind=never", gaussian, n=2000, until=400.0)
    times = defaultdict(list)
    for _, _, sender, sent in models(events, 2000):
        times[sender].append(sent)
    periods = np.array([np.diff(t)[0] for t in times.values() if len(t) > 1])
    assert len(periods) == 2000
    assert all(len(set(np.diff(t))) <= 1 for t in times.values())
    assert abs(periods.mean() - 99.5) < 4.5 * 10 / math.sqrt(2000)  # rounded down
    assert abs(periods.std() / 10 - 1) < 4.5 / math.sqrt(4000)
    np.testing.assert_allclose(np.sort(1 / timeline.speed()), np.sort(periods), rtol=1e-12)  # two divisions


@pytest.mark.parametrize("start", ["fresh", "neighbour"])
def test_nodes_that_join_late_begin_with_an_update_at_their_first_step(start):
    churn = "{join: {kind: choice, values: [0, 0.5, 3, 4.5, 7]}, leave: {kind: choice, values: [4.8, 7.3, 99]}, "
    options = [f"network.churn={churn}start: {start}}}", "timing={kind: rounds, steps: 4}", "update.clock.kind=never"]
    events, _, timeline = run(*options, n=40, until=20.0)
    join, leave = (timeline.laws.nodes[name] for name in ("join", "leave"))
    firsts = [(max(1.0, math.ceil(join[i])), i) for i in range(40) if max(1, math.ceil(join[i])) < leave[i]]
    updates = events.kind == UPDATE
    assert list(zip(events.time[updates].tolist(), events.actor[updates].tolist(), strict=True)) == sorted(firsts)
    assert len({time for time, _ in firsts}) == 4
    assert len(firsts) < 40
    for _, i in firsts:
        mine = events.actor == i
        before = events.time[: np.flatnonzero(updates & mine)[0]][mine[: np.flatnonzero(updates & mine)[0]]]
        assert before.tolist() == ([join[i]] if start == "neighbour" and join[i] > 0 else [])  # whose model it takes
    cut, now = [], timeline.begin()
    for until in (0.5, 1.0, 4.9, 5.0, 20.0):
        part, now = timeline.window(now, until)
        cut += part.time[part.kind == UPDATE].tolist()
    assert cut == events.time[updates].tolist()
    off = [*options, "timing.first_update=false"]
    assert not (run(*off, n=40, until=20.0)[0].kind == UPDATE).any()


def test_rounds_are_the_loop_of_gossipy():
    """Section 5.1 of its description, step by step: sends, online mask, deliveries in order, replies."""
    n, steps, until, p, q = 12, 5, 100, 0.6, 0.25
    options = [f"timing={{kind: rounds, steps: {steps}, first_update: false}}", "gossip.exchange=push_pull"]
    options += [f"network.availability={{kind: per_message, probability: {p}}}", "update.clock.kind=never"]
    options += ["gossip.delay={kind: uniform, low: 0, high: 4}", f"gossip.loss={{kind: independent, probability: {q}}}"]
    events, clocks, _ = run(*options, n=n, until=float(until))
    sent, made = [0] * n, [0] * n
    queue, replies = (defaultdict(list) for _ in range(2))
    found, counts = [], np.zeros(4, int)

    def send(box, i, j, t):
        k, sent[i], counts[0] = sent[i], sent[i] + 1, counts[0] + 1
        if unit(0, rng.LOSS, i, k)[0] < q:
            counts[2] += 1
        else:
            box[t + int(unit(0, rng.DELAY, i, k)[0] * 5)].append((i, j, t))

    for t in range(until):
        if t % steps == 0:
            order = sorted(range(n), key=lambda i, t=t: int(rng.draws(0, rng.ROUND, np.array([i]), t // steps)[0][0]))
        for i in order:
            if t % steps == int(unit(0, rng.PHASE, i, 0)[0] * steps):
                made[i] += 1
                j = int(unit(0, rng.GOSSIP, i, made[i])[1] * (n - 1))
                send(queue, i, j + (j >= i), t)
        online = [unit(0, rng.ONLINE, j, t + 1)[0] < p for j in range(n)]
        for box in (queue, replies):
            for i, j, left in box.pop(t, []):
                counts[1 if online[j] else 3] += 1
                if online[j]:
                    found.append((t + 1, j, i, left + 1))
                    if box is queue:
                        send(replies, j, i, t)
    assert len(found) > 100
    assert models(events, n) == found
    assert clocks.in_flight.accounts[0].tolist() == counts.tolist()


@pytest.mark.filterwarnings("ignore:network.topology is not connected")
@pytest.mark.parametrize("seed", range(400, 480))
def test_what_is_read_is_what_was_there_when_it_was_sent(seed):
    """Every write of a row makes a new token; a merge must read the token that the sender's row had at that instant."""
    config = load({}, [o for o in drawn(seed) if not o.startswith("run.until")] + ["run.until=12"])
    if not has_messages(config):
        return
    n, timeline = config.network.nodes, assembly.timeline([config])
    events, _ = timeline.window(timeline.begin(), 12.0)
    token, trained, past, message = {i: (i, 0) for i in range(n)}, set(), defaultdict(list), events.message
    for i in range(n):
        past[i].append((-1.0, token[i]))
    for e in range(len(events)):
        j, i, now = int(events.actor[e]), int(events.peer[e]), float(events.time[e])
        if i >= 0 and events.kind[e] != MEET and i not in trained:
            sender, sent = int(message.node[e]), float(message.sent[e])
            before = [one for time, one in past[sender] if time < sent][-1]
            at = [one for time, one in past[sender] if time == sent]
            assert token[i] in [before, *at]
        trained.discard(j)
        if events.kind[e] == UPDATE and j >= n:
            trained.add(j)
        copied = j >= n and events.kind[e] != UPDATE
        for row in (j, i) if events.kind[e] == MEET else (j,):
            token[row] = token[i] if copied else (row, e + 1)
            if row < n:
                past[row].append((now, token[row]))


def test_slots_do_not_grow_in_a_long_run_and_are_as_many_as_planned():
    """Six standard deviations: a run that needs more than the plan says is rarer than one in a million."""
    for delay, exchange in (
        ("{kind: exponential, mean: 3}", "push"),
        ("{kind: lognormal, median: 1}", "push_pull"),
        ("{kind: bandwidth, rate: 176, spread: 0.3, latency: 1}", "pull"),
    ):
        config = load(
            {}, [f"gossip.delay={delay}", f"gossip.exchange={exchange}", "gossip.clock.rate=2", "run.until=300"]
        )
        timeline = assembly.timeline([config])
        planned, clocks, seen, most = plan([config], timeline), timeline.begin(), [], 0
        for until in range(5, 301, 5):
            _, clocks = timeline.window(clocks, float(until))
            some = clocks.in_flight.messages["place"][clocks.in_flight.messages["readers"] > 0]
            most = max(most, int((some >= 100).sum()))
            seen.append(slots(clocks))
        assert seen[0] == seen[-1] == planned.slots
        assert planned.slots / 4 < most < planned.slots  # the plan is not vain


def test_what_waits_for_a_busy_link_is_planned_or_refused():
    options = ["gossip.clock.rate=2", "run.until=100", "network.nodes=20"]
    for exchange, rate in (("push", 80), ("push_pull", 160), ("pull", 80)):  # bytes a second, of 88 or 176 needed
        config = load({}, [*options, f"gossip.delay={{kind: bandwidth, rate: {rate}}}", f"gossip.exchange={exchange}"])
        with pytest.raises(ValueError, match=r"gossip\.delay\.rate must let a link carry what its node sends \[B/s\]"):
            assembly.timeline([config])
    star = [*options, "network.topology.kind=star", "gossip.exchange=pull", "gossip.delay={kind: bandwidth, rate: 800}"]
    with pytest.raises(ValueError, match="as at node 0;"):
        assembly.timeline([load({}, star)])
    assembly.timeline([load({}, [*star, "gossip.exchange=push"])])


GRAPHS = ["{kind: one_peer_exponential, period: 0.5}", "{kind: random_matching, period: 0.5}",
          "{kind: random_peers, degree: 3, period: 0.5}", "{kind: base_graph, degree: 2, period: 0.5}"]  # fmt: skip


def neighbours(timeline, i, time):
    """Returns whom node i may contact at some time, by many draws of the chooser."""
    bits = (np.arange(400, dtype=np.uint64) * np.uint64(2**64 // 400)) + np.uint64(2**50)
    asked = timeline.contacts.choosers[0].peers(np.full(400, time), np.full(400, i, np.int32), bits)
    return set(asked.tolist()) - {-1}


@pytest.mark.slow
@pytest.mark.parametrize("timing", ["{kind: continuous}", "{kind: rounds, steps: 2, first_update: false}"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_messages_sent_for_others_go_along_the_graph_of_their_time(graph, timing):
    n, options = 9, ["update.clock.kind=never", "gossip.delay={kind: constant, time: 1.3}", f"timing={timing}"]
    if "rounds" in timing:
        graph = graph.replace("0.5", "1")
    flow = "gossip.flow={kind: generalized, capacity: 4, spend: 2}"
    events, clocks, timeline = run(*options, f"network.topology={graph}", flow, n=n, until=100.0)
    seen = defaultdict(lambda: defaultdict(int))
    for _, receiver, sender, sent in models(events, n):
        allowed = frozenset(neighbours(timeline, sender, sent - ("rounds" in timing)))
        assert receiver in allowed
        seen[sender, allowed][receiver] += 1
    assert clocks.in_flight.nodes["reacted"].sum() > 300
    counts = np.array(
        [[of.get(j, 0) for j in sorted(allowed)] for (_, allowed), of in seen.items() if len(allowed) == 2]
    )
    if counts.size:  # uniform over two neighbours
        assert ((counts[:, 0] - counts[:, 1]) ** 2 / counts.sum(1)).sum() < len(counts) + 6 * math.sqrt(2 * len(counts))


def test_messages_sent_for_others_have_the_probabilities_of_the_weights():
    n, flow = 6, "gossip.flow={kind: generalized, capacity: 4, spend: 1}"
    options = ["update.clock.kind=never", "network.topology.kind=star", "network.weights.kind=metropolis_hastings"]
    _, clocks, timeline = run(*options, flow, n=n, until=3000.0)
    reacted = clocks.in_flight.nodes["reacted"]
    sent = clocks.in_flight.nodes["sent"] - clocks.in_flight.nodes["contacts"]
    share = timeline.contacts.share
    assert share.tolist() == pytest.approx([5 / 6] + [1 / 6] * 5, rel=1e-12)  # sums of five
    assert (reacted > 500).all()
    assert (abs(sent - reacted * share) < 4.5 * np.sqrt(reacted * share * (1 - share))).all()  # of a draw, or nobody


@pytest.mark.parametrize("graph", [*GRAPHS, "{kind: ring}", "{kind: complete}"])
def test_nodes_that_join_take_the_model_of_a_neighbour_of_that_time(graph):
    n, churn = 30, "network.churn={join: {kind: choice, values: [0, 2.2, 4.4, 6.8]}, start: neighbour}"
    for seed in range(4):
        options = ["update.clock.kind=never", "gossip.clock.kind=never", f"network.topology={graph}", f"seed={seed}"]
        events, _, timeline = run(*options, churn, n=n, until=8.0)
        join, found = timeline.laws.nodes["join"], dict(zip(events.actor.tolist(), events.peer.tolist(), strict=True))
        for j in range(n):
            if timeline.contacts.choosers:
                allowed = neighbours(timeline, j, join[j])
            else:
                allowed = {(j - 1) % n, (j + 1) % n} if "ring" in graph else set(range(n)) - {j}
            there = {i for i in allowed if join[i] <= join[j]}
            assert (j in found) == (bool(there) and join[j] > 0)
            assert j not in found or found[j] in there
        assert (events.time == join[events.actor]).all()
        assert len(events) > 5


@pytest.mark.parametrize("graph", [g.replace("0.5", "4") for g in GRAPHS])
def test_rounds_follow_the_graph_of_their_step(graph):
    n, options = 9, ["update.clock.kind=never", "timing={kind: rounds, steps: 4, first_update: false}"]
    events, clocks, timeline = run(*options, f"network.topology={graph}", n=n, until=400.0)
    chooser, sent = timeline.contacts.choosers[0], models(events, n)
    made, expected = [0] * n, []
    for t in range(400):
        for i in range(n):
            if t % 4 == int(unit(0, rng.PHASE, i, 0)[0] * 4):
                made[i] += 1
                bits = rng.draws(0, rng.GOSSIP, np.array([i]), made[i])[1]
                j = int(chooser.peers(np.array([float(t)]), np.array([i], np.int32), bits)[0])
                expected += [(t + 1.0, j, i)] if j >= 0 else []
    assert sorted(one[:3] for one in sent) == sorted(expected)
    assert clocks.in_flight.nodes["made"].tolist() == made
    assert timeline.expected(400.0)[1] == pytest.approx(
        len(expected), rel=0.05
    )  # whole rounds, of which some have nobody
    assert len(expected) > 300


def test_links_of_hubs_are_loaded_as_the_weights_say():
    star = ["network.topology.kind=star", "gossip.exchange=pull", "gossip.clock.rate=2", "network.nodes=21"]
    link = "gossip.delay={kind: bandwidth, rate: 800}"  # 44 bytes a model of eleven numbers: 18 a second
    with pytest.raises(ValueError, match="as at node 0;"):
        assembly.timeline([load({}, [*star, link, "run.until=100"])])
    assembly.timeline([load({}, [*star, link, "run.until=100", "network.weights.kind=max_degree"])])


def test_each_network_of_a_batch_joins_as_it_says():
    options = ["network.churn.join={kind: choice, values: [3]}", "update.clock={kind: exponential, rate: 1}"]
    both = [load({}, [*options, f"network.churn.start={s}", "network.nodes=4"]) for s in ("fresh", "neighbour")]
    timeline = assembly.timeline(both)
    events, _ = timeline.window(timeline.begin(), 3.0)
    assert events.actor[events.time == 3.0].tolist() == [7, 6, 5, 4]
