"""Clocks and messages under way, put together and taken apart by networks: nothing that comes after is another."""

from dataclasses import fields

import numpy as np
import pytest
from test_messages import drawn

from batchednodes import load
from batchednodes.events.messages.records import HEAP, MESSAGES, SLOTS, SNAPSHOTS, check
from batchednodes.events.messages.regrouping import owners
from batchednodes.events.regrouping import regrouped
from batchednodes.events.timeline import Clocks
from batchednodes.simulation.build import assembly

SCHEMES = [
    ["gossip.scheme={kind: age_aware, wait: 0.5}"],
    ["gossip.scheme.kind=freshest", "gossip.clock.rate=log(n)"],
    ["gossip.exchange=meet", "network.topology.kind=ring"],
]
WAYS = [[[0], [1], [2]], [[0, 2], [1]], [[2, 1, 0]]]
"""Groups of networks that go on apart."""


def configs(options, seed):
    return [load({}, [*options, f"network.nodes={n}", f"seed={seed + k}"]) for k, n in enumerate((6, 9, 7))]


def told(events, first, size, nodes):
    """Returns what events say of a network whose nodes begin at some number; slots of messages have none."""
    actors = np.where(events.actor < nodes, events.actor - first, -1)
    columns = [events.time, events.kind, actors, events.count]
    if events.message is not None:
        columns += [events.message.weight, events.message.part, events.message.sent]
        whose = events.message.node - first
    else:
        whose = actors
    return [row for row, node in zip(zip(*columns, strict=True), whose, strict=True) if 0 <= node < size]


@pytest.mark.filterwarnings("ignore:network.topology is not connected")
@pytest.mark.parametrize("seed", [*range(8), "scheme 0", "scheme 1", "scheme 2"])
def test_networks_that_go_on_apart_do_as_together(seed):
    options = SCHEMES[int(seed[-1])] if isinstance(seed, str) else drawn(seed)
    every = configs(options, 5)
    timeline = assembly.timeline(every)
    sizes, (_, clocks) = timeline.networks.sizes, timeline.window(timeline.begin(), 2.3)
    whole, after = timeline.window(clocks, 5.0)
    first = np.cumsum(sizes) - sizes
    for groups in WAYS:
        parts = list[tuple[Clocks, np.ndarray]]()
        for group in groups:
            own, slots = regrouped([(clocks, sizes)], np.array(group))
            check_whole(own, sizes[group], slots)
            events, end = assembly.timeline([every[g] for g in group]).window(own, 5.0)
            parts.append((end, sizes[group]))
            for k, g in enumerate(group):
                begin = int(sizes[group[:k]].sum())
                apart = told(events, begin, sizes[g], int(sizes[group].sum()))
                assert apart == told(whole, int(first[g]), sizes[g], int(sizes.sum()))
        back, slots = regrouped(parts, np.argsort(np.concatenate(groups)))
        check_whole(back, sizes, slots)
        for name in (f.name for f in fields(Clocks) if f.name != "in_flight"):
            assert np.array_equal(getattr(back, name), getattr(after, name)), name
        later = [timeline.window(one, 7.0)[0] for one in (back, after)]
        assert told(later[0], 0, sizes.sum(), sizes.sum()) == told(later[1], 0, sizes.sum(), sizes.sum())


def check_whole(clocks, sizes, slots):
    """Checks that the tables agree with each other and say what is under way."""
    network = np.repeat(np.arange(sizes.size, dtype=np.int32), sizes)
    clocks.check(network)
    in_flight = clocks.in_flight
    if in_flight is None:
        return
    head, table = in_flight.head, in_flight.messages
    assert np.array_equal(owners(in_flight, sizes), slots.network)
    assert np.unique(slots.number).size == slots.number.size == head[SLOTS]
    used = set(range(table.size)) - {*table["free"][: head[MESSAGES]].tolist()}
    assert used == {*table["heap"][: head[HEAP]].tolist()}
    readers = np.bincount(table["snapshot"][[*used]][table["snapshot"][[*used]] >= 0], minlength=table.size)
    taken = np.setdiff1d(np.arange(table.size), table["spare"][: head[SNAPSHOTS]])
    assert np.array_equal(table["readers"][taken], readers[taken])


def some():
    """Returns what is in flight of two networks."""
    timeline = assembly.timeline(configs(["gossip.delay={kind: constant, time: 1}", "gossip.fifo=true"], 1)[:2])
    _, clocks = timeline.window(timeline.begin(), 3.0)
    check(clocks.in_flight)
    return clocks, timeline.networks.sizes


@pytest.mark.parametrize("name", ["link", "chain", "pools", "spare", "place"])
def test_tables_that_contradict_each_other_are_named(name):
    clocks, sizes = some()
    in_flight = clocks.in_flight
    first = int(in_flight.pools[0, 0])
    if name == "link":
        in_flight.link[first] = first
    elif name == "chain":
        h = int(in_flight.messages["chain"].max())
        in_flight.messages["next"][h] = h
    elif name == "pools":
        in_flight.pools[0] = -1
    elif name == "spare":
        in_flight.messages["spare"][0] = in_flight.messages["snapshot"][in_flight.messages["heap"][0]]
    else:
        at = in_flight.messages["snapshot"][in_flight.messages["heap"][0]]
        in_flight.messages["place"][at] = in_flight.nodes.size + in_flight.head[SLOTS]
    with pytest.raises(ValueError, match=r"clocks.in_flight.* must agree with the other tables"):
        regrouped([(clocks, sizes)], np.array([0]))
