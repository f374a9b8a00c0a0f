"""Sweeps and replicas: many networks in one batch, each with the trajectory that it has alone."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from batchednodes import load, train
from batchednodes.config.sweep import points
from batchednodes.topology import Ring, Star

BASE = {
    "network": {"nodes": 6},
    "run": {"until": 4, "mark_every": 2},
    "dtype": "float64",
    "task": {"data": {"samples_per_node": 5, "test_samples": 20}},
}


def swept(sweep: dict, **more) -> dict:
    return BASE | {"sweep": sweep} | more


def test_a_product_has_each_value_with_each_and_all_replicas():
    found = points(load(swept({"network.nodes": [5, 7], "gossip.clock.rate": [1, "log(n)"]}, replicas=3, seed=10)))
    assert [(p.config.network.nodes, p.config.gossip.clock.rate, p.config.seed, p.replica) for p in found] == [
        (n, rate, 10 + r, r) for n in (5, 7) for rate in (1, "log(n)") for r in range(3)
    ]
    assert found[4].settings == {"network.nodes": 5, "gossip.clock.rate": "log(n)"}
    assert found[4].label == "network.nodes=5,gossip.clock.rate=log(n)"
    assert all(p.config.sweep == {} and p.config.replicas == 1 for p in found)


def test_a_zip_goes_through_the_lists_together():
    found = points(load(swept({"network.nodes": [5, 7], "local.lr": [0.1, 0.2]}, sweep_mode="zip")))
    assert [(p.config.network.nodes, p.config.local.lr) for p in found] == [(5, 0.1), (7, 0.2)]


def test_a_config_without_a_sweep_is_one_network():
    (only,) = points(load(BASE))
    assert only.config == load(BASE)
    assert (only.settings, only.replica, only.label) == ({}, 0, "all")


def test_what_fits_together_is_the_matter_of_each_network():
    weights = {"nodes": 6, "weights": {"kind": "metropolis_hastings"}}
    rings = swept({"network.topology.kind": ["ring", "star"]}, network=weights)  # the base has the complete graph
    assert [p.config.network.topology for p in points(load(rings))] == [Ring(), Star()]
    some = swept({"network.topology.kind": ["ring", "complete"]}, network=weights)
    with pytest.raises(
        ValueError, match=r"network\.weights\.kind must be uniform with network\.topology\.kind=complete"
    ):
        points(load(some))
    with pytest.raises(ValueError, match=r"staleness\.track must be at most network\.nodes = 5, got 6"):
        points(load(swept({"network.nodes": [7, 5]}, staleness={"track": 6})))


def test_sweeps_can_be_given_on_the_command_line():
    found = points(load(BASE, ["sweep.network.nodes=[5, 7]", "replicas=2"]))
    assert [p.config.network.nodes for p in found] == [5, 5, 7, 7]


@pytest.mark.parametrize(
    "sweep",
    [
        {"network.nodes": [1, 5, 8], "gossip.clock.rate": [1, "log(n)"]},
        {
            "network.topology.kind": ["complete", "ring", "star"],
            "local.momentum": [0, 0.5],
            "local.weight_decay": [0, 0.1],
        },
        {
            "network.topology": [{"kind": "k_regular", "degree": 2}, {"kind": "torus"}],
            "staleness.track": [2, "none", "all"],
        },
        {
            "gossip.weight": [0.1, 0.9],
            "update.clock": [{"kind": "deterministic", "period": 0.7}, {"kind": "exponential"}],
        },
        {
            "gossip.scheme": [
                {"kind": "uniform"},
                {"kind": "freshest"},
                {"kind": "fixed_duration", "duration": 0.5},
                {"kind": "age_aware", "wait": 1},
            ],
            "gossip.clock.rate": [1, "n"],
        },
        {"task.data.test_samples": [7, 20], "network.nodes": [4, 6], "staleness.track": ["all", 3]},
        {"task.data.noise": [0, 1], "task.partition": [{"kind": "iid"}, {"kind": "quantity_skew"}], "seed": [3, 4]},
    ],
    ids=lambda sweep: " ".join(sweep),
)
def test_each_network_has_the_trajectory_that_it_has_alone(sweep):
    together, first = train(swept(sweep, replicas=2)), 0
    for g, point in enumerate(points(load(swept(sweep, replicas=2)))):
        alone, last = train(point.config), first + point.config.network.nodes
        assert torch.equal(together.tables[g], alone.versions)
        error = (together.x[first:last] - alone.x).abs().max() / alone.x.abs().max()
        assert float(error) <= 1e-12  # the same sums in another order
        mine = together.metrics[together.metrics["network"] == g].reset_index(drop=True)
        for key in alone.metrics.columns.drop(["network", "replica"]):
            own, expected = (frame[key].astype(float).to_numpy() for frame in (mine, alone.metrics))
            exact = key.startswith("staleness") or key in ("time", "seed", "n", "updates", "gossips")
            tolerance = 0 if exact else 1e-12  # the same sums in another order
            assert own == pytest.approx(expected, rel=tolerance, abs=tolerance, nan_ok=True), key
        first = last
    assert first == together.x.shape[0]


@pytest.mark.parametrize("options", [[], ["executor=serial"], ["run.mixing=sparse"]])
def test_versions_are_not_padded_to_the_largest_network(options, tmp_path):
    result = train(swept({"network.nodes": [7, 3, 5], "staleness.track": ["all", 2]}), *options, out=tmp_path / "run")
    assert [list(t.shape) for t in result.tables] == [[7, 7], [7, 2], [3, 3], [3, 2], [5, 5], [5, 2]]
    with pytest.raises(ValueError, match=r"versions must have one width, got networks with \[7, 2, .*; use tables"):
        _ = result.versions
    final = load_file(tmp_path / "run" / "final.safetensors")
    for g, table in enumerate(result.tables):
        assert torch.equal(final[f"versions.{g}"], table)
    alone = train(BASE, "network.nodes=5", "staleness.track=2", *options)
    assert torch.equal(result.tables[5], alone.versions)


def test_networks_of_one_width_are_one_table():
    result = train(swept({"network.nodes": [7, 3]}), "staleness.track=2")
    assert result.versions.shape == (10, 2)
    assert torch.equal(result.versions[7:], result.tables[1])


def test_rows_carry_their_settings_and_networks_have_their_own_curves(tmp_path):
    train(swept({"gossip.clock.rate": [1, "n/4"]}, replicas=2), "run.baseline=isolated", out=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * 3
    assert {(r["network"], r["gossip.clock.rate"], r["replica"], r["seed"]) for r in rows} == {
        (0, 1, 0, 0), (1, 1, 1, 1), (2, "n/4", 0, 0), (3, "n/4", 1, 1),
    }  # fmt: skip
    folders = sorted(str(p.parent.relative_to(tmp_path / "run")) for p in Path(tmp_path).rglob("*tfevents*"))
    assert folders.pop() == "summary"
    names = [f"gossip.clock.rate={rate}/replica-{r}" for rate in ("1", "n|4") for r in (0, 1)]
    assert folders == names + [f"isolated/{name}" for name in names]
    board = EventAccumulator(str(tmp_path / "run" / folders[2]))
    board.Reload()
    assert [e.value for e in board.Scalars("loss/node_mean")] == pytest.approx(
        [r["loss_mean"] for r in rows if r["network"] == 2], rel=1e-6  # TensorBoard keeps float32
    )  # fmt: skip
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [row["gossip.clock.rate"] for row in summary["networks"]] == [1, 1, "n/4", "n/4"]
    assert [row["gossips"] for row in summary["isolated"]] == [0] * 4


@pytest.mark.parametrize(
    ("sweep", "more", "message"),
    [
        ({"dtype": ["float32", "float64"]}, {}, "sweep.dtype must be .* can differ .*separate commands"),
        ({"task.model.hidden": [[4], [8]]}, {}, "sweep.task.model.hidden must be .*separate commands"),
        ({"local.batch_size": [4, 8]}, {}, "sweep.local.batch_size must be .*separate commands"),
        ({"task.data.features": [4, 8]}, {}, "sweep.task.data must keep the kind, the features and the targets"),
        ({"task.data.kind": ["linear_regression", "digits"]}, {}, "sweep.task.data must keep the kind"),
        ({"network.nodes": 5}, {}, "sweep.network.nodes must be a list of at least one value, got 5"),
        ({"network": [{"nodes": 3}]}, {}, "sweep.network must name settings of it"),
        ({"network.nodes": []}, {}, "sweep.network.nodes must be a list of at least one value"),
        ({"network.nodes": [5, 0]}, {}, r"network.nodes must be an integer in \[1, .*, got 0"),
        ({"network.nodez": [5]}, {}, "network.nodez"),
        ({"network.nodes": [5, 6], "local.lr": [1]}, {"sweep_mode": "zip"}, "sweep must hold lists of one length when"),
        ({}, {"replicas": 0}, r"replicas must be an integer in \[1, .*, got 0"),
    ],
)  # fmt: skip
def test_sweeps_that_cannot_run_are_refused(sweep, more, message):
    with pytest.raises(ValueError, match=message):
        train(swept(sweep, **more))
