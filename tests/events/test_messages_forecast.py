"""What is under way, as planned, against what is."""

import re

import numpy as np
import pytest

from batchednodes import load
from batchednodes.events.messages.records import HEAP, JOINING
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import slots
from batchednodes.simulation.planning.plan import plan

ROUNDS = [
    "timing={kind: rounds, steps: 100}",
    "update.clock.kind=never",
    "gossip.on_receipt=merge_update",
    "gossip.merge={kind: mean}",
    "network.topology={kind: k_regular, degree: 20}",
]
FIVE = ["task.data.features=4"]
"""A model of five numbers, 20 bytes."""
PULLS = [
    "gossip.clock.rate=2",
    "gossip.exchange=push_pull",
    "gossip.delay={kind: bandwidth, rate: 150}",
    "run.until=100",
]
RUNS = {
    "accounts in rounds": (
        1000,
        3000,
        [*ROUNDS, "gossip.flow={kind: generalized}", "gossip.delay={kind: uniform, high: 10}"],
    ),
    "accounts": (
        100,
        100,
        ["gossip.clock.rate=5", "gossip.flow={kind: generalized, capacity: 100}", "gossip.delay={kind: constant}"],
    ),
    "in order": (
        4,
        100,
        ["gossip.clock.rate=5", "gossip.fifo=true", "gossip.delay={kind: lognormal, median: 0.5, sigma: 2}"],
    ),
    "slow links": (
        100,
        150,
        [
            *FIVE,
            "gossip.clock.rate=2",
            "network.topology.kind=ring",
            "gossip.exchange=push_pull",
            "gossip.delay={kind: bandwidth, rate: 110, spread: 0.5}",
        ],
    ),
    "lost": (100, 100, [*PULLS, "gossip.loss={kind: independent, probability: 0.9}"]),
    "off": (100, 100, [*PULLS, "network.availability={kind: per_message, probability: 0.2}"]),
    "days": (
        50,
        100,
        [
            "gossip.clock.rate=2",
            "network.availability={kind: diurnal, period: 50}",
            "gossip.delay={kind: bandwidth, rate: 60}",
        ],
    ),
}


def under_way(in_flight):
    """Returns how many models are under way."""
    some = in_flight.messages[in_flight.messages["heap"][: in_flight.head[HEAP]]]
    return int((some["snapshot"] >= 0).sum())


@pytest.mark.parametrize("name", RUNS)
def test_what_is_planned_is_what_is_needed(name):
    n, until, options = RUNS[name]
    config = load({}, [*options, f"network.nodes={n}", f"run.until={until}", "task.data.samples_per_node=2"])
    timeline = assembly.timeline([config])
    planned, clocks, flying, rows = plan([config], timeline), timeline.begin(), 0, 0
    for end in np.linspace(0, until, 401)[1:]:
        _, clocks = timeline.window(clocks, float(end))
        flying = max(flying, under_way(clocks.in_flight))
        rows = max(rows, int((clocks.in_flight.messages["place"][clocks.in_flight.messages["readers"] > 0] >= n).sum()))
    assert planned.exact
    assert slots(clocks) == planned.slots
    assert planned.slots / 2 <= rows + n // 8 + 8  # the plan is not vain
    assert 0.8 * planned.flying <= flying <= planned.flying  # peaks are sharp, and looked at now and then
    in_flight = clocks.in_flight
    room = 3 * in_flight.messages.size * (in_flight.messages.itemsize + 16)
    assert 0.5 * room < planned.memory["messages (host)"] < 3 * room + 2000 * n


def test_networks_of_a_batch_get_the_rows_that_each_needs():
    configs = [
        load({}, [f"gossip.delay={{kind: constant, time: {t}}}", "network.nodes=40", "run.until=60"]) for t in (0, 9)
    ]
    timeline = assembly.timeline(configs)
    _, clocks = timeline.window(timeline.begin(), 60.0)
    assert slots(clocks) == timeline.slots
    few, many = timeline.forecast.pools
    assert many > 10 * few


def test_a_long_run_is_estimated_and_says_so():
    """Its first part is followed; what it needs then is in the plan, and so is what laws say about the rest."""
    for options in (
        ["gossip.delay={kind: exponential, mean: 3}", "gossip.clock.rate=2"],
        ["gossip.delay={kind: constant}", "gossip.clock.rate=5", "gossip.flow={kind: generalized, capacity: 100}"],
        ["gossip.delay={kind: exponential}", "gossip.clock.rate=10", "gossip.fifo=true", "network.topology.kind=ring"],
    ):
        short = assembly.timeline([load({}, [*options, "run.until=200"])])
        long = assembly.timeline([load({}, [*options, "run.until=1e6"])])
        assert short.forecast.exact
        assert not long.forecast.exact
        assert 1 <= long.slots / short.slots < 2
        assert 1 <= long.forecast.flying / short.forecast.flying < 2


def test_a_run_that_is_too_large_to_be_followed_is_estimated_by_the_laws():
    """Of 600,000 nodes none is followed; accounts may all be spent at once."""
    n, options = (
        600_000,
        ["network.nodes=600000", "gossip.clock.rate=1", "staleness.track=none", "run.until=50"],
    )
    forecast = assembly.timeline([load({}, [*options, "gossip.delay={kind: exponential, mean: 3}"])]).forecast
    mean = 3 * n
    assert not forecast.exact
    assert forecast.flying == np.ceil(mean + 6 * np.sqrt(mean))
    flow = "gossip.flow={kind: simple, capacity: 7}"
    assert assembly.timeline([load({}, [*options, "gossip.delay={kind: constant}", flow])]).forecast.flying > 8 * n


def test_models_that_depend_on_data_are_estimated():
    """With epochs, the steps of updates, and so the ages of models, follow from data that a plan does not load."""
    options = ["gossip.delay={kind: constant}", "gossip.flow={kind: generalized}", "run.until=50"]
    assert assembly.timeline([load({}, options)]).forecast.exact
    assert not assembly.timeline([load({}, [*options, "local.epochs=1"])]).forecast.exact
    always = "gossip.flow={kind: generalized, usefulness: always}"
    assert assembly.timeline([load({}, [options[0], always, "run.until=50", "local.epochs=1"])]).forecast.exact


@pytest.mark.parametrize(
    ("option", "found"),
    [
        ("gossip.loss={kind: independent, probability: 0.5}", "3"),
        ("gossip.loss={kind: bursts, good_to_bad: 0.25, bad_to_good: 0.75}", "3.5"),
        ("network.availability={kind: per_message, probability: 0.6}", "3.2"),
        ("network.churn.leave={kind: choice, values: [100]}", "4"),
    ],
)
def test_links_carry_replies_to_what_comes(option, found):
    slow = [*PULLS[:2], "gossip.delay={kind: bandwidth, rate: 100}", "run.until=100", option]  # 44 bytes: 2.3 a second
    message = f"[B/s], got {found} models a second that take 0.44 s each, as at node 0; raise the rate"
    with pytest.raises(ValueError, match=re.escape(message)):
        assembly.timeline([load({}, slow)])


def test_short_overloads_are_planned():
    slow = ["gossip.clock.rate=2", "gossip.delay={kind: bandwidth, rate: 80}"]  # 10% more than a link carries
    assert assembly.timeline([load({}, [*slow, "run.until=80"])]).forecast.exact  # 14.5 models wait at the end
    gone = "network.churn={leave: 70}"
    assert assembly.timeline([load({}, [*slow, "run.until=1000", gone])]).forecast.exact
    with pytest.raises(ValueError, match="must let a link carry what its node sends"):
        assembly.timeline([load({}, [*slow, "run.until=100"])])


def test_the_last_message_of_each_link_is_found_at_once():
    """They are in a hash table; a chain of it is short, whatever a node has under way to others."""
    config = load(
        {},
        [
            "network.nodes=3000",
            "network.topology.kind=star",
            "gossip.exchange=pull",
            "gossip.delay={kind: exponential, mean: 2}",
            "gossip.fifo=true",
            "run.until=4",
            "task.data.samples_per_node=1",
            "staleness.track=none",
        ],
    )
    timeline = assembly.timeline([config])
    clocks = timeline.begin()
    for end in (1.0, 2.5, 4.0):
        _, clocks = timeline.window(clocks, end)
        messages, last = clocks.in_flight.messages, {}
        some = messages["heap"][: clocks.in_flight.head[HEAP]]
        assert (messages["kind"][some] != JOINING).all()
        for h in some[np.argsort(messages["order"][some] % (1 << 62), kind="stable")].tolist():
            last[int(messages["sender"][h]), int(messages["receiver"][h])] = h
        chains = []
        for h in messages["chain"].tolist():
            chains.append([])
            while h >= 0:
                chains[-1].append(h)
                h = int(messages["next"][h])
        assert sorted(h for chain in chains for h in chain) == sorted(last.values())
        assert len(last) > 1000
        assert max(map(len, chains)) < 10  # at one a place at most in the mean, more are rarer than one in a million
