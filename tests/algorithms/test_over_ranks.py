"""Networks that several ranks hold by columns: what they come to is, bit for bit, what one process comes to."""

import json

import numpy as np
import pytest
import torch
from test_algorithms import TREES, WAYS
from test_compression import WAYS_OF, way
from test_personal import WAYS as PERSONAL
from test_robust import WAYS as ROBUST

from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.over_ranks import sources
from batchednodes.algorithms.versions import Layout
from batchednodes.models.builtin import MLP, Linear, PythonModule
from batchednodes.models.stacked import Stack
from batchednodes.numerics.ranks import Ranks
from tests.support import ranks

RANDOM = "network.topology={kind: erdos_renyi, probability: 0.4}"
BASE = {"run": {"until": 2.0, "mark_every": 2.0}, "network": {"nodes": 9}, "local": {"lr": 0.05}, "dtype": "float64"}
WIDE = (  # of a row with its 41 parameters each of two ranks has some
    "task.data={kind: linear_regression, features: 40, samples_per_node: 6, test_samples: 20}",
    "local.batch_size=4",
    "task.model.init=independent",
)
DIGITS = {
    "network": {"nodes": 20},
    "run": {"until": 2.0, "mark_every": 2.0},
    "task": {"data": {"kind": "digits"}, "model": {"kind": "mlp", "hidden": [8]}},
    "local": {"steps": 2, "batch_size": 8, "lr": 0.2},
}
OF_SGD = {
    "tape": (),
    "vmap": ("local.compile=off", "network.nodes=60"),
    "torus": ("gossip.exchange=meet", "network.topology.kind=torus", "local.momentum=0.5", "local.nesterov=true"),
    "freshest": ("gossip.scheme.kind=freshest", "local.chunk=3", "staleness.track=none"),
    "delta, delays": ("update.applies=delta", "gossip.delay={kind: exponential, mean: 0.3}", "dtype=bfloat16"),
    "lossy": (
        "gossip.exchange=push_pull",
        "gossip.delay={kind: uniform, low: 0.1, high: 0.4}",
        "gossip.loss={kind: independent, probability: 0.2}",
        "network.churn={join: 0.5}",
    ),
    "partitioned": ("gossip.merge={kind: partitioned, parts: 4}", "gossip.delay={kind: constant, time: 0.2}"),
    "sampled": ("gossip.merge={kind: sampled, share: 0.3}", "gossip.exchange=pull"),
    "update_merge": (
        "gossip.on_receipt=update_merge",
        "gossip.delay={kind: constant, time: 0.2}",
        "local.optimizer.kind=adam",
    ),
    "quarantine": (
        "run.on_divergence=quarantine",
        "local.lr={kind: choice, values: [0.2, 1.0e+38], probabilities: [0.9, 0.1]}",
    ),
    "sweep": ("sweep.network.nodes=[20, 31]", "replicas=2", "staleness.track=17", "run.mixing=sparse"),
    "epochs": ("local.steps=1", "local.epochs=1", "task.partition={kind: quantity_skew, alpha: 0.5}"),
    "private": ("local.privacy={clip: 1.0, noise: 0.5}", "network.silent=[1, 4]", "local.steps=1"),
    "serial": ("executor=serial",),  # refused
    "statistics": (
        f"task.model={{kind: python, target: '{ranks.ROOT / 'tests' / 'models' / 'test_statistics.py'}:resnet'}}",
        "network.nodes=8",
        "local.momentum=0.9",
        "gossip.personal=['2.*', '*bn*', '*shortcut.1*']",
        "timing={kind: synchronous}",
    ),
}
COMPRESSED = {
    f"compressed, {name}": (RANDOM, *WAYS_OF[name][1], way(WAYS_OF[name][0], kind))
    for name, kind in (
        ("choco, at updates", "qsgd"),
        ("choco, losses", "low_rank"),
        ("choco, rounds", "top_k"),
        ("none, delays", "float8"),
    )
}
ZOO = {
    **{f"algorithm {name}": (RANDOM, *options) for name, options in WAYS.items()},
    **{f"algorithm {name}": (*options, "network.topology.kind=binary_tree") for name, options in TREES.items()},
    **COMPRESSED,
    **{f"robust {name}": (RANDOM, *options) for name, options in ROBUST.items()},
    **{f"personal {name}": (RANDOM, *options) for name, options in PERSONAL.items()},
}
"""All settings of other tests of algorithms."""

FIRST = {name.split(",")[0]: name for name in reversed(ZOO) if name.startswith("algorithm")}.values()
"""Each algorithm once."""

SOME = (
    *FIRST,
    *COMPRESSED,
    "robust noise, clipped, delays",
    "robust clipped, meetings",
    "robust krum, rounds",
    "personal messages",
    "personal a tracker, rounds",
)
THREE = ("sweep", "partitioned", "algorithm r_fast", "algorithm push_sum", "personal messages", "serial")
TRACED = ("tape", "algorithm acid", "algorithm r_fast")
"""Those in which steps, updates or contacts go by tapes, which take seconds to record."""

REFUSED = (
    "executor must be batched where 3 ranks hold a network together, got 'serial'; leave it out, or start one process"
)


def settings(names):
    """Returns the cases of some names, as the script of ranks takes them."""
    return [
        (name, DIGITS, list(OF_SGD[name]), name in TRACED)
        if name in OF_SGD
        else (name, BASE, [*WIDE, *ZOO[name]], name in TRACED)
        for name in names
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "names"),
    [(2, (*(one for one in OF_SGD if one != "serial"), *SOME)), (3, THREE)],
    ids=["two", "three"],
)
def test_ranks_come_to_what_one_process_does_and_send_what_is_said(count, names, tmp_path):
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(settings(names)))
    found = [one["ranks"] for one in ranks.run(count, "over_ranks.py", str(file), timeout=1500)]
    assert [each[0]["case"] for each in found] == [*names]
    wrong = [one for each in found for one in each if one.get("wrong") or one.get("refused", REFUSED) != REFUSED]
    assert not wrong, "\n".join(f"{one['case']}: {one}" for one in wrong)
    for one in (one for each in found for one in each if "sent" in one):
        assert one["sent"] == one["expected"], one
        assert one["sent"][1], one  # something was said


@pytest.mark.slow
@pytest.mark.parametrize("init", ["same", "independent"])
@pytest.mark.parametrize(
    "model",
    [Linear, MLP, lambda init: PythonModule("torch.nn:Linear", args={"in_features": 4, "out_features": 3}, init=init)],
    ids=["linear", "mlp", "python"],
)
def test_rows_that_ranks_make_some_at_a_time_begin_as_all_at_once(model, init):
    model = model(init=init)
    stack = Stack.of(model.module((4,), 3), torch.float32, torch.device("cpu"))
    whole, parts = torch.empty(7, stack.p), torch.empty(7, stack.p)
    model.init_(whole, stack, 5, (4,), 3)
    for first, stop in ((0, 3), (3, 4), (4, 7)):
        model.init_(parts[first:stop], stack, 5, (4,), 3, first=first)
    assert torch.equal(whole, parts)
    assert torch.equal(whole[0], whole[1]) == (init == "same")


def test_each_source_is_one_ranks_and_each_column_too():
    whole = Layout.of([40, 50], [40, 20], torch.device("cpu"))
    whole.reserve(3)
    column = torch.cat([torch.arange(40), torch.where(torch.arange(50) < 20, torch.arange(50), -1)])
    own = torch.where(column >= 0, whole.place[:90] + column, -1)
    counted = torch.zeros(90, dtype=torch.int64)
    for rank in range(3):
        cut = Cut(Ranks(rank, 3), {})
        layout, places = sources(cut, whole, own)
        parts = [cut.columns(t) for t in (40, 20)]
        assert layout.widths.tolist() == [part.stop - part.start for part in parts]
        assert layout.place.numel() == 93
        here = places >= 0
        counted += here
        first = torch.tensor([part.start for part in parts])[torch.from_numpy(np.repeat([0, 1], [40, 50]))]
        assert torch.equal((places - layout.place[:90])[here], (column - first)[here])
    assert counted.tolist() == (column >= 0).long().tolist()


def test_what_ranks_send_is_counted_before():
    cut = Cut(Ranks(1, 2), {"x": 100})
    assert cut.bounds(100) == [0, 48, 100]
    assert cut.counts(11) == [4, 7]
    assert cut.sent([(cut.counts(11), 100, 4)], back=False) == 4 * 52 * 4
    assert cut.sent([(cut.counts(11), 100, 4)], back=True, told=7) == 7 * 48 * 4 + 7 * 8
