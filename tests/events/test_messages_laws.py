"""The events of messages, no model behind them: each law against its distribution, or draws in plain Python.

Statistics have a false-alarm rate of 1e-5 or less each, with fixed seeds.
"""

import math
import re
from collections import defaultdict

import numpy as np
import pytest
from scipy import stats

from batchednodes import load
from batchednodes.events.messages.records import DELIVERED, LOST, OFFLINE, SENT
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics import rng
from batchednodes.simulation.build import assembly

RARE = 1e-5
ALL = "gossip.loss={kind: independent, probability: 0}"
SILENT = ["update.clock.kind=never", "task.data.samples_per_node=2"]


def run(*overrides, n=20, until=200.0):
    """Returns events, clocks and timeline of a run; slots are left out of the events."""
    config = load({}, [f"network.nodes={n}", f"run.until={until}", *overrides])
    timeline = assembly.timeline([config])
    events, clocks = timeline.window(timeline.begin(), float(until))
    return events, clocks, timeline


def models(events, n=20):
    """Returns (time, receiver, sender, sent) of each model that was merged, in the order of events."""
    message, kept = events.message, (events.kind != UPDATE) & (events.actor < n)
    return list(zip(*(a[kept].tolist() for a in (events.time, events.actor, message.node, message.sent)), strict=True))


def unit(seed, stream, node, count):
    """Returns two uniform numbers of an address."""
    high, low = rng.draws(seed, stream, np.array([node]), count)
    return tuple((int(bits[0]) >> 12) * 2.0**-52 + 2.0**-53 for bits in (high, low))


@pytest.mark.parametrize(
    ("law", "expected", "cut"),
    [
        ("{kind: uniform, low: 0.5, high: 2}", stats.uniform(0.5, 1.5), 2),
        ("{kind: exponential, mean: 0.4}", stats.expon(scale=0.4), 20),
        ("{kind: lognormal, median: 0.2, sigma: 1}", stats.lognorm(1, scale=0.2), 100),
    ],
)
def test_delays_follow_their_law(law, expected, cut):
    events, _, _ = run(*SILENT, f"gossip.delay={law}")
    late = [time - sent for time, _, _, sent in models(events) if sent < 200 - cut]  # all of these have arrived
    assert len(late) > 5000
    assert stats.kstest(late, expected.cdf).pvalue > RARE


def test_constant_delays_and_those_of_a_trace(tmp_path):
    events, _, _ = run(*SILENT, "gossip.delay={kind: constant, time: 0.7}")
    assert all(time == sent + 0.7 for time, _, _, sent in models(events))
    (tmp_path / "trace.txt").write_text("0.5\n# comment\n1.5\n1.5\n3\n")
    events, _, _ = run(*SILENT, f"gossip.delay={{kind: trace, path: {tmp_path}/trace.txt}}")
    late = [round(time - sent, 9) for time, _, _, sent in models(events) if sent < 190]
    values, counts = np.unique(late, return_counts=True)
    assert values.tolist() == [0.5, 1.5, 3.0]
    assert stats.chisquare(counts, counts.sum() * np.array([0.25, 0.5, 0.25])).pvalue > RARE


def links(path, n, rows, names):
    """Writes a trace of links; `rows` gives those of a pair."""
    lines = [",".join(map(str, row)) for i in range(n) for j in range(n) if i != j for row in rows(i, j)]
    np.random.default_rng(0).shuffle(lines)  # their order does not matter
    path.write_text("\n".join([names, *lines]))
    return f"gossip.delay={{kind: trace, path: {path}}}"


@pytest.mark.parametrize("exchange", ["push", "push_pull"])
def test_delays_of_a_link_are_drawn_from_its_rows(tmp_path, exchange):
    n = 5
    law = links(tmp_path / "trace.csv", n, lambda i, j: [(3 - k + i / 10, j, i) for k in range(1 + (i + j) % 3)],
                "delay,to,from")  # fmt: skip
    found = defaultdict(list)
    for time, receiver, sender, sent in models(run(*SILENT, law, f"gossip.exchange={exchange}", n=n, until=600)[0], n):
        if sent < 590:
            found[sender, receiver].append(round(time - sent, 9))
    assert len(found) == n * (n - 1)
    for (i, j), late in found.items():
        values, counts = np.unique(late, return_counts=True)
        assert values.tolist() == sorted(round(3 - k + i / 10, 9) for k in range(1 + (i + j) % 3))
        assert len(late) > 150
        assert counts.size == 1 or stats.chisquare(counts).pvalue > RARE / 20


def test_delays_of_a_link_change_when_their_time_has_come(tmp_path):
    n, times = 4, [20, 50, 120]
    law = links(tmp_path / "trace.csv", n, lambda i, j: [(t, i, j, t / 100 + i + j / 10) for t in times],
                "time,from,to,delay")  # fmt: skip
    found = models(run(*SILENT, law, n=n)[0], n)
    assert {(i, j) for _, j, i, _ in found} == {(i, j) for i in range(n) for j in range(n) if i != j}
    for time, j, i, sent in found:
        last = max([t for t in times if t <= sent], default=20)
        assert time - sent == pytest.approx(last / 100 + i + j / 10, abs=1e-9)  # rounding of times up to 200
    assert all(any(a <= one[3] < b for one in found) for a, b in ((0, 20), (20, 50), (50, 120), (120, 200)))


def test_models_under_way_are_planned_by_the_delays_of_links(tmp_path):
    for rows, names, mean in (
        (lambda i, j: [(i, j, 1 + i), (i, j, 2 + i)], "from,to,delay", 3.0),
        (lambda i, j: [(0, i, j, i), (9, i, j, 5.5 - j)], "time,from,to,delay", (5.5 + 5.5 + 5.5 + 4.5) / 4),
    ):
        law = links(tmp_path / "trace.csv", 4, rows, names)
        options = [*SILENT, law, "gossip.clock.rate=25", "network.nodes=4", "run.until=1e5"]  # too long to be followed
        flying = assembly.timeline([load({}, options)]).forecast.flying
        if names == "from,to,delay":
            assert flying == math.ceil(4 * 25 * mean + 6 * math.sqrt(4 * 25 * mean))
        else:  # the largest of each link, over links: node 0 5.5 - j, others max(i, 5.5 - j)
            late = np.mean([max(i, 5.5 - j) for i in range(4) for j in range(4) if i != j])
            assert flying == math.ceil(4 * 25 * late + 6 * math.sqrt(4 * 25 * late))


RING = ["network.topology.kind=ring"]
ONE = ["network.topology={kind: edges, i: [0, 0, 0], j: [1, 2, 3], directed: true}", "gossip.exchange=pull"]
LINK, TIME = "from,to,delay\n", "time,from,to,delay\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (LINK + "0,1,1\n", [], "must give each link of the network a delay, got none from node 0 to 2"),
        (LINK + "0,1,1\n1,2,1\n2,3,1\n3,0,1\n", RING, "got none from node 0 to 3"),
        (LINK + "0,1,1\n", ["network.topology.kind=one_peer_exponential"], "got none from node 0 to 2"),
        (LINK + "0,1,1\n0,2,1\n0,3,1\n", ONE, "got none from node 1 to 0"),
        (LINK + "0,4,1\n", [], "must have rows of two nodes of 0 .. 3, and other numbers from 0 on, got '0 4 1' in"),
        (LINK + "0,0,1\n", [], "from 0 on, got '0 0 1' in"),
        (LINK + "0,0.5,1\n", [], "from 0 on, got '0 0.5 1' in"),
        (TIME + "-1,0,1,1\n", [], "from 0 on, got '-1 0 1 1' in"),
        (LINK + "0,1,-1\n", [], "must hold non-negative delays [s], got -1 in"),
        (LINK, [], "must hold non-negative delays [s], got none in"),
        (TIME + "1,0,1,1\n1,0,1,2\n", [], "must give a link one delay at a time, got two from 0 to 1 at 1 [s] in"),
        (LINK + "0,1\n", [], "must be 3 finite numbers (from,to,delay), or a first line that names from,to,delay or"),
        ("from,to,ms\n0,1\n", [], "must be 1 finite number (delay), or a first line that names from,to,delay or time"),
        ("1\n" + LINK, [], "line 2 of"),
    ],
)  # fmt: skip
def test_traces_of_links_that_do_not_fit_are_refused(tmp_path, text, options, message):
    (tmp_path / "trace.csv").write_text(text)
    with pytest.raises(ValueError, match=r"^gossip\.delay\.path.*" + re.escape(message)):
        run(*SILENT, *options, f"gossip.delay={{kind: trace, path: {tmp_path}/trace.csv}}", n=4)


def test_a_trace_of_too_many_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("batchednodes.events.links.delay._LONGEST", 3)
    (tmp_path / "trace.txt").write_text("1\n" * 4)
    with pytest.raises(ValueError, match=r"line 4 of .* must be one of at most 3, got '1'"):
        run(*SILENT, f"gossip.delay={{kind: trace, path: {tmp_path}/trace.txt}}")


def test_delays_of_rounds_are_whole_steps_of_both_ends():
    events, _, _ = run(*SILENT, "timing={kind: rounds, steps: 4}", "gossip.delay={kind: uniform, low: 0.5, high: 3}")
    late = [time - sent for time, _, _, sent in models(events) if sent < 196]
    values, counts = np.unique(late, return_counts=True)
    assert values.tolist() == [1, 2, 3]
    assert stats.chisquare(counts).pvalue > RARE


def test_a_link_sends_one_model_after_the_other():
    size = 11 * 4  # bytes: the linear model of ten features in float32
    options = [*SILENT, f"gossip.delay={{kind: bandwidth, rate: {4 * size}, latency: 0.3}}"]
    arrived, busy = models(run(*options)[0]), defaultdict(float)
    for _, _, sender, sent in sorted(arrived, key=lambda one: one[3]):
        busy[sender] = max(sent, busy[sender]) + 0.25
    final = {sender: max(t for t, _, i, _ in arrived if i == sender) for sender in busy}
    assert all(final[i] == pytest.approx(busy[i] + 0.3, abs=1e-9) for i in busy)  # rounding of sums
    used = len([1 for *_, sent in arrived if sent < 190]) / 20 * 0.25 / 190
    assert abs(used - math.log(20) / 4) < 4.5 * math.sqrt(math.log(20) / 20 / 190) * 0.25  # Poisson counts
    lossy = models(run(*options, "gossip.loss={kind: independent, probability: 0.5}")[0])
    assert 0.4 * len(arrived) < len(lossy) < 0.6 * len(arrived)
    assert set(lossy) < set(arrived)  # what is lost takes its time, too


def test_links_differ_as_their_spread_says():
    events, _, _ = run(
        *SILENT, "gossip.clock.rate=0.5", "gossip.delay={kind: bandwidth, rate: 440, spread: 1}", until=2000
    )
    done, speeds = defaultdict(float), defaultdict(list)
    for time, receiver, sender, sent in models(events):  # a sender's models arrive in order
        speeds[sender, receiver].append(time - max(sent, done[sender]))
        done[sender] = time
    assert len(speeds) == 20 * 19
    assert all(np.ptp(taken) < 1e-9 for taken in speeds.values())  # rounding of times near 2000
    logs = np.log([taken[0] / 0.1 for taken in speeds.values()])
    assert stats.kstest(logs, "norm").pvalue > RARE


@pytest.mark.parametrize("timing", ["{kind: continuous}", "{kind: rounds, steps: 2}"])
def test_nothing_is_overtaken_on_a_link_with_fifo(timing):
    def overtaken(fifo):
        options = ["gossip.exchange=push_pull", "gossip.delay={kind: uniform, low: 0, high: 3}", f"timing={timing}"]
        last, found = defaultdict(float), 0
        for _, receiver, sender, sent in models(run(*SILENT, *options, f"gossip.fifo={fifo}", n=4)[0], 4):
            found += sent < last[sender, receiver]
            last[sender, receiver] = max(sent, last[sender, receiver])
        return found

    assert overtaken("false") > 20
    assert overtaken("true") == 0


def test_losses_are_independent_or_come_in_bursts():
    n, p = 4, 0.3
    sent = models(run(*SILENT, ALL, n=n, until=2000.0)[0], n)
    _, clocks, _ = run(*SILENT, f"gossip.loss={{kind: independent, probability: {p}}}", n=n, until=2000.0)
    accounts = clocks.in_flight.accounts[0]
    assert accounts[SENT] == len(sent)
    assert stats.binomtest(int(accounts[LOST]), len(sent), p).pvalue > RARE
    good_to_bad, bad_to_good = 0.1, 0.4
    bursts = f"gossip.loss={{kind: bursts, good_to_bad: {good_to_bad}, bad_to_good: {bad_to_good}}}"
    came = set(models(run(*SILENT, bursts, n=n, until=2000.0)[0], n))
    lengths, lost = [], 0
    for i in range(n):
        flags = "".join("x" if one not in came else "." for one in sent if one[2] == i)
        lost += flags.count("x")
        lengths += [len(part) for part in flags.split(".")[1:-1] if part]
    counts = np.bincount(np.minimum(lengths, 8))[1:]
    shares = stats.geom(bad_to_good).pmf(np.arange(1, 9))
    shares[-1] = 1 - shares[:-1].sum()
    assert stats.chisquare(counts, counts.sum() * shares).pvalue > RARE
    share = good_to_bad / (good_to_bad + bad_to_good)
    memory = (2 - good_to_bad - bad_to_good) / (good_to_bad + bad_to_good)  # variance over that of independent losses
    assert abs(lost / len(sent) - share) < 4.5 * math.sqrt(share * (1 - share) * memory / len(sent))


def test_channels_begin_in_the_long_run_law():
    n, good_to_bad, bad_to_good = 3000, 0.02, 0.06
    steps = ["timing={kind: rounds, steps: 1}", *SILENT]  # one message of each node a step
    bursts = f"gossip.loss={{kind: bursts, good_to_bad: {good_to_bad}, bad_to_good: {bad_to_good}}}"
    for until in (1.0, 40.0):
        _, clocks, _ = run(*steps, bursts, n=n, until=until)
        lost = clocks.in_flight.accounts[0, LOST] if until == 1.0 else clocks.in_flight.nodes["channel"].sum()
        assert stats.binomtest(int(lost), n, good_to_bad / (good_to_bad + bad_to_good)).pvalue > RARE
    _, clocks, _ = run(*steps, "gossip.loss={kind: bursts, good_to_bad: 0, bad_to_good: 0}", n=n, until=3.0)
    assert clocks.in_flight.accounts[0].tolist() == [3 * n, 3 * n, 0, 0]


def intervals(law, node, until, seed=0):
    """Returns the changes of a node between on and off, made in plain Python, with t = 0 first if it begins off."""
    u, _ = unit(seed, rng.AVAILABLE, node, 0)
    if law[0] == "diurnal":
        period, share = law[1:]
        now = share * period - u * period if u < share else period - u * period
        changes, on = [] if u < share else [0.0], u < share
        while now <= until:
            changes.append(now)
            now, on = now + period * (share if not on else 1 - share), not on
        return changes
    mean_on, mean_off = law[1:]
    k, now = int(u >= mean_on / (mean_on + mean_off)), 0.0
    changes = [0.0] * k
    while True:
        now -= (mean_off if k & 1 else mean_on) * math.log(unit(seed, rng.AVAILABLE, node, k + 1)[0])
        if now > until:
            return changes
        changes.append(now)
        k += 1


def is_on(changes, time):
    return sum(change <= time for change in changes) % 2 == 0


@pytest.mark.parametrize("law", [("markov", 2.0, 1.0), ("diurnal", 3.0, 0.6)])
def test_who_is_off_neither_sends_nor_hears(law):
    words = {"markov": "{kind: markov, mean_on: 2, mean_off: 1}", "diurnal": "{kind: diurnal, period: 3, share: 0.6}"}
    sent = models(run(*SILENT, ALL)[0])
    events, clocks, _ = run(*SILENT, f"network.availability={words[law[0]]}")
    changes = [intervals(law, i, 200.0) for i in range(20)]
    spoken = [one for one in sent if is_on(changes[one[2]], one[0])]
    heard = [one for one in spoken if is_on(changes[one[1]], one[0])]
    assert models(events) == heard
    assert clocks.in_flight.accounts[0].tolist() == [len(spoken), len(heard), 0, len(spoken) - len(heard)]
    if law[0] == "markov":
        spans = [np.diff([c for c in one if c > 0]) for one in changes]
        starts_on = [len(one) == 0 or one[0] > 0 for one in changes]
        off = np.concatenate([span[0 if on else 1 :: 2] for span, on in zip(spans, starts_on, strict=True)])
        on = np.concatenate([span[1 if on else 0 :: 2] for span, on in zip(spans, starts_on, strict=True)])
        assert stats.kstest(off, stats.expon(scale=1).cdf).pvalue > RARE
        assert stats.kstest(on, stats.expon(scale=2).cdf).pvalue > RARE


def test_who_is_found_on_for_single_messages():
    _, clocks, _ = run(*SILENT, "network.availability={kind: per_message, probability: 0.3}")
    accounts = clocks.in_flight.accounts[0]
    assert accounts[DELIVERED] + accounts[OFFLINE] == accounts[SENT]
    assert stats.binomtest(int(accounts[DELIVERED]), int(accounts[SENT]), 0.3).pvalue > RARE
    events, clocks, _ = run(
        *SILENT, "timing={kind: rounds, steps: 3}", "network.availability={kind: per_message, probability: 0.3}"
    )
    seen = defaultdict(set)
    for time, receiver, *_ in models(events):
        seen[time].add(receiver)
    assert all(unit(0, rng.ONLINE, j, int(time))[0] < 0.3 for time, some in seen.items() for j in some)  # one a step
    assert (
        stats.binomtest(
            int(clocks.in_flight.accounts[0, DELIVERED]), int(clocks.in_flight.accounts[0, SENT]), 0.3
        ).pvalue
        > 1e-9
    )


def test_a_trace_of_availability_is_followed(tmp_path):
    draw = np.random.default_rng(1)
    lines = [(t, i, on) for i in range(20) for on, t in enumerate(sorted(draw.uniform(0, 200, 6))) for on in [on % 2]]
    (tmp_path / "trace.txt").write_text("\n".join(f"{float(t)!r}, {i}, {on}" for t, i, on in lines))
    changes = [sorted(float(t) for t, node, _ in lines if node == i) for i in range(20)]
    sent = models(run(*SILENT, ALL)[0])
    heard = [one for one in sent if is_on(changes[one[2]], one[0]) and is_on(changes[one[1]], one[0])]
    assert models(run(*SILENT, f"network.availability={{kind: trace, path: {tmp_path}/trace.txt}}")[0]) == heard
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"network\.availability\.path must hold at least one change, got none"):
        run(*SILENT, f"network.availability={{kind: trace, path: {tmp_path}/empty.txt}}")


def test_nothing_before_a_node_joins_nor_after_it_leaves():
    sent = models(run(*SILENT, ALL)[0])
    events, _, timeline = run(
        *SILENT, "network.churn={join: {kind: choice, values: [0, 50]}, leave: {kind: choice, values: [99, 150]}}"
    )
    join, leave = (timeline.laws.nodes[name] for name in ("join", "leave"))
    there = [o for o in sent if all(join[k] <= o[0] < leave[k] for k in (o[1], o[2]))]
    assert models(events) == there


def test_updates_that_pause_are_renewals_in_working_time():
    law, shift, mean = ("markov", 2.0, 1.0), 0.3, 0.4
    options = ["network.availability={kind: markov, mean_on: 2, mean_off: 1}", "update.while_off=pause",
               f"update.clock={{kind: shifted_exponential, delay: {shift}, rate: {1 / mean}}}"]  # fmt: skip
    events, _, _ = run(*options, "gossip.clock.kind=never")
    for i in range(20):
        found = events.time[(events.kind == UPDATE) & (events.actor == i)]
        edges = [*intervals(law, i, 200.0), 200.0]
        spans = list(zip([0.0, *edges][::2], [0.0, *edges][1::2], strict=False))  # on from, to
        work, k = shift - mean * math.log(unit(0, rng.UPDATE, i, 0)[0]), 0
        times = []
        for begin, end in spans:
            now = begin
            while now + work <= end:
                now, k = now + work, k + 1
                times.append(now)
                work = shift - mean * math.log(unit(0, rng.UPDATE, i, k)[0])
            work -= end - now
        np.testing.assert_allclose(found, times, rtol=1e-10)  # rounding of sums of some hundred gaps
