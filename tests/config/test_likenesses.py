"""A kind of a user's own that has a property of a built-in kind is treated as that one: same events, same refusals."""

import pytest

from batchednodes import load
from batchednodes.simulation.planning.preflight import timeline
from tests.support import likenesses

TINY = {"network": {"nodes": 10}, "run": {"until": 4}}
RING = {"network.topology": {"kind": "ring"}}
AD_PSGD = {"algorithm": {"kind": "ad_psgd"}, "gossip.exchange": "meet"}
FRESHEST = {"gossip.scheme": {"kind": "freshest"}}
DELAY, RECEIPT = {"gossip.delay": {"kind": "constant"}}, {"gossip.on_receipt": "merge_update"}
PAUSE, MARKOV = {"update.while_off": "pause"}, {"network.availability": {"kind": "markov"}}
ALIKE = [
    ("gossip.delay", "AtOnce", {"kind": "none"}, {"gossip.exchange": "meet"}),
    ("gossip.delay", "AtOnce", {"kind": "none"}, {"gossip.fifo": True}),
    ("gossip.delay", "AtOnce", {"kind": "none"}, FRESHEST),
    ("gossip.delay", "Between", {"kind": "uniform", "low": 0.2, "high": 0.8}, {"timing": {"kind": "rounds"}}),
    ("gossip.delay", "Measured", {"kind": "trace", "path": "nothing.csv"}, {}),
    ("network.availability", "Logged", {"kind": "trace", "path": "nothing.csv"}, {}),
    ("network.availability", "Lucky", {"kind": "per_message", "probability": 0.5}, PAUSE),
    ("update.clock", "Idle", {"kind": "never"}, {**RECEIPT, "run.baseline": "isolated"}),
    ("update.clock", "Idle", {"kind": "never"}, {**PAUSE, **MARKOV}),
    ("gossip.clock", "Beside", {"kind": "at_update"}, AD_PSGD),
    ("gossip.clock", "Beside", {"kind": "at_update", "order": "after"}, {"gossip.exchange": "meet"}),
    ("gossip.clock", "Beside", {"kind": "at_update"}, FRESHEST),
    ("gossip.scheme", "Own", {"kind": "uniform"}, DELAY),
    ("gossip.scheme", "Own", {"kind": "uniform"}, {**RING, "network.weights": {"kind": "metropolis_hastings"}}),
    ("gossip.scheme", "Own", {"kind": "uniform"}, {"network.topology": {"kind": "random_matching"}}),
    ("gossip.scheme", "Own", {"kind": "uniform"}, {
        "gossip.clock": {"kind": "python", "target": "tests.support.users_kinds:Weibull", "args": {"scale": 0.3}}}),
    ("gossip.flow", "Free", {"kind": "none"}, {"gossip.exchange": "pull"}),
    ("gossip.flow", "Free", {"kind": "none"}, {"algorithm": {"kind": "push_sum"}}),
    ("gossip.flow", "Free", {"kind": "none"}, FRESHEST),
    ("gossip.merge", "Half", {"kind": "mean"}, {"algorithm": {"kind": "gradient_tracking"}, "gossip.exchange": "meet"}),
    ("network.topology", "Everyone", {"kind": "complete"}, {"network.weights": {"kind": "max_degree"}}),
    ("network.topology", "Everyone", {"kind": "complete"}, {
        "network.weights": {"kind": "max_degree"}, "timing": {"kind": "synchronous"}}),
]  # fmt: skip


def own(name, **args):
    """Returns the section that names a class."""
    return {"kind": "python", "target": f"{likenesses.__name__}:{name}", "args": args}


def outcome(settings):
    """Returns the events of a run with these settings, or where it is refused, and how."""
    stage = "settings"
    try:
        config = load(TINY, [settings])
        stage = "run"
        line = timeline([config], 88)
    except ValueError as error:
        return stage, str(error)
    events, _ = line.window(line.begin(), config.run.until)
    return tuple(getattr(events, name).tolist() for name in ("time", "kind", "actor", "peer", "count"))


@pytest.mark.parametrize(("section", "name", "kind", "settings"), ALIKE)
def test_a_property_counts_not_the_class_that_has_it(section, name, kind, settings):
    args = {"side": kind["order"]} if "order" in kind else {"path": kind["path"]} if "path" in kind else {}
    expected, word = outcome({**settings, section: kind}), f"kind={kind['kind']},"
    if isinstance(expected[1], str):
        expected = (expected[0] if name != "Everyone" else "run", expected[1].replace(word, "kind=python,"))
    assert outcome({**settings, section: own(name, **args)}) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"timing": {"kind": "rounds"}},
        {"timing": {"kind": "synchronous"}},
        {"gossip.clock": {"kind": "at_update"}, "gossip.exchange": "meet"},
    ],
)
def test_no_scheme_is_given_where_it_would_have_no_effect(settings):
    with pytest.raises(ValueError, match=r"^gossip\.scheme\.kind must be uniform .*; use kind uniform$"):
        load(TINY, [settings, {"gossip.scheme": own("Own")}])
