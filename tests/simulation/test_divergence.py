"""Nodes whose loss or model is not finite: found, cut off or reported, with the likely cause."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_exactness import LINEAR, finish
from test_mixing import one_network, phase

from batchednodes import Result, load, resume, train
from batchednodes.algorithms.mixing import cpu, cuda, sparse
from batchednodes.data import LinearRegression
from batchednodes.numerics import devices
from batchednodes.simulation import divergence
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning.plan import plan

N, BAD = 10, [2, 7]
TINY = {
    "network": {"nodes": N},
    "run": {"until": 6.0},
    "dtype": "float64",
    "gossip": {"clock": {"rate": 2.0}},
    "task": {"data": {"features": 4, "samples_per_node": 6, "test_samples": 20}},
    "local": {"batch_size": 4, "steps": 3},
}
CUT = "run.on_divergence=quarantine"
LOSS = f"local.lr={[1e200 if i in BAD else 0.05 for i in range(N)]}"
"""The loss of the second step of an update, about 1e400, is not finite."""
MODEL = f"local.lr={[1.7e308 if i in BAD else 0.05 for i in range(N)]}"
"""With one step, the loss is finite and the model after it is not, where the gradient is not small: with seed 2."""


def healthy(n: int = N) -> torch.Tensor:
    return torch.tensor([i for i in range(n) if i % N not in BAD])


def same(a: Result, b: Result) -> None:
    """Asserts that two runs agree: cut nodes are not finite, others finite and equal, all versions and times equal."""
    assert torch.equal(a.versions, b.versions)
    assert a.summary["diverged"] == b.summary["diverged"]
    assert a.metrics["quarantined"].tolist() == b.metrics["quarantined"].tolist()
    assert not a.x[BAD].isfinite().all(1).any()
    assert not b.x[BAD].isfinite().all(1).any()
    error = (a.x[healthy()] - b.x[healthy()]).abs().max() / b.x[healthy()].abs().max()
    assert float(error) <= LINEAR


# --------------------------------------------------------------------------------------------------------- quarantine


@pytest.mark.parametrize("exchange", ["push", "pull", "meet"])
@pytest.mark.parametrize("applies", ["at_completion", "delta"])
@pytest.mark.parametrize(
    "how", [[LOSS], [MODEL, "local.steps=1", "seed=2"], [LOSS, "local.momentum=0.5"]], ids=" ".join
)
@pytest.mark.parametrize("mixing", ["auto", "sparse"])
def test_batched_equals_serial_under_quarantine(exchange, applies, how, mixing):
    options = [CUT, f"gossip.exchange={exchange}", f"update.applies={applies}", *how]
    result = train(TINY, *options, f"run.mixing={mixing}")
    same(result, train(TINY, *options, "executor=serial"))
    assert result.metrics["quarantined"].tolist() == sorted(result.metrics["quarantined"])
    assert result.metrics["quarantined"].iloc[-1] == 2
    assert (result.versions[healthy()][:, BAD] == 0).all()  # their first update is never sent
    others = result.versions[healthy()][:, healthy()]
    assert (others > 0).sum() > others.shape[0]  # the others gossip


@pytest.mark.parametrize(
    "options",
    [
        ["network.topology.kind=ring"],
        ["gossip.weight=1", "gossip.exchange=meet"],
        ["gossip.weight={kind: uniform, low: 0, high: 1}"],
        ["gossip.scheme.kind=freshest", "gossip.clock.rate=n"],
        ["gossip.scheme={kind: age_aware, wait: 0.5}", "gossip.exchange=meet"],
        ["staleness.track=4"],
        ["staleness.track=none", "task.model.init=independent"],
    ],
    ids=" ".join,
)
def test_batched_equals_serial_under_quarantine_in_corners(options):
    same(train(TINY, CUT, LOSS, *options), train(TINY, CUT, LOSS, *options, "executor=serial"))


@pytest.mark.parametrize("change", ["local.chunk=1", "run.mark_every=0.37", "run.window=0.11", "local.compile=auto"])
def test_nothing_but_the_settings_of_the_trajectory_changes_who_is_cut_off(change, monkeypatch):
    first = train(TINY, CUT, LOSS, "local.compile=off")
    monkeypatch.setattr(
        "batchednodes.simulation.planning.memory_plan._PROGRAMS", 0
    )  # updates are programs from here on
    second = train(TINY, CUT, LOSS, change)
    assert first.summary["diverged"] == second.summary["diverged"]
    error = (first.x - second.x)[healthy()].abs().max() / first.x[healthy()].abs().max()
    assert float(error) <= LINEAR


@pytest.mark.parametrize("exchange", ["push", "pull", "meet"])
@pytest.mark.parametrize("kernel", ["sparse", "blocks", "columns"])
def test_kernels_leave_out_the_contacts_of_some_nodes(exchange, kernel):
    if kernel == "columns":
        pytest.importorskip("triton", reason="Triton has no build for this platform")
    weight = torch.rand(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mixing, contacts = phase(30, exchange, 3, weight)
    generator = torch.Generator().manual_seed(2)
    x, cut = torch.randn(30, 7, generator=generator, dtype=torch.float64), torch.zeros(30, dtype=torch.bool)
    x[0, :3], x[1], x[2, 0] = torch.nan, torch.inf, 0.0
    x[3, 0] = -0.0
    cut[[0, 1, 2]] = True  # one of them with a finite model
    layout = one_network(30, 5)
    versions = torch.randint(0, 99, (layout.numbers,), generator=generator, dtype=torch.int32)
    expected, table = x.clone(), versions.clone().view(30, 5)
    for i, j, _ in contacts:
        if i > 2 and j > 2:
            a, b, w = expected[i].clone(), expected[j].clone(), weight[i]
            v = torch.maximum(table[i], table[j])
            if exchange != "pull":
                expected[j], table[j] = (1 - w) * b + w * a, v
            if exchange != "push":
                expected[i], table[i] = (1 - w) * a + w * b, v
    if kernel == "columns" and devices.count():
        pytest.skip("compiled for a GPU, kernels take tensors of the GPU only; they do in the runs on CUDA")
    kernels = {"sparse": sparse, "blocks": cpu, "columns": cuda}[kernel]
    gained = torch.zeros(30, dtype=torch.float64)
    with np.errstate(invalid="ignore"):  # Triton's interpreter computes in NumPy
        kernels.mix_(x, mixing.without(torch.where(cut, 0.0, torch.inf).double()))
    kernels.merge_(versions, gained, mixing.without(torch.where(cut, 0.0, torch.inf).double()), layout)
    assert torch.allclose(x[3:], expected[3:], rtol=1e-13, atol=1e-14)  # fused products round once less
    assert torch.equal(x[2], expected[2])
    assert not x[:2].isfinite().all(1).any()
    assert torch.equal(versions.view(30, 5), table)
    assert (gained[:3] == 0).all()
    assert (gained[3:] > 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_phase_without_anyone_changes_no_bit(dtype):
    mixing, _ = phase(20, "meet", 3, torch.full((20,), 0.3, dtype=dtype))
    x = torch.randn(20, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[0, 0], x[0, 1] = 0.0, -0.0
    before = x.clone()
    for kernels in (cpu, sparse):
        kernels.mix_(x, mixing.without(torch.zeros(20, dtype=torch.float64)))
        assert torch.equal(x, before)
        assert kernels is sparse or torch.equal(x.signbit(), before.signbit())  # sparse sums begin at +0


def test_networks_in_one_batch_are_cut_as_they_are_alone():
    sweep = train(TINY, CUT, LOSS, "replicas=2", "sweep={gossip.clock.rate: [1.0, 3.0]}")
    assert sweep.summary["diverged"]["count"] == 8
    for g, (rate, seed) in enumerate([(1.0, 0), (1.0, 1), (3.0, 0), (3.0, 1)]):
        alone = train(TINY, CUT, LOSS, f"gossip.clock.rate={rate}", f"seed={seed}")
        part = slice(g * N, (g + 1) * N)
        assert torch.equal(sweep.tables[g], alone.versions)
        assert float((sweep.x[part] - alone.x)[healthy()].abs().max()) <= LINEAR * float(alone.x[healthy()].abs().max())
        mine = [{**node, "network": 0} for node in sweep.summary["diverged"]["nodes"] if node["network"] == g]
        assert mine == alone.summary["diverged"]["nodes"]
        ours, theirs = (r.metrics[r.metrics["network"] == k] for r, k in ((sweep, g), (alone, 0)))
        for key in ("loss_mean", "loss_max", "consensus_distance", "staleness_mean", "quarantined"):
            assert ours[key].to_numpy() == pytest.approx(theirs[key].to_numpy(), rel=1e-9), key


def test_statistics_are_of_the_nodes_that_are_left(tmp_path):
    options = ["task.data.kind=digits", "task.model.kind=mlp", "run.until=12", "dtype=float32", "local.steps=3"]
    lr = f"local.lr={[1e30 if i in BAD else 0.05 for i in range(N)]}"
    result = train(TINY | {"task": {}}, CUT, lr, *options, out=tmp_path / "run")
    data = load({}, ["task.data.kind=digits"]).task.data.load(N, 0)
    features, labels = torch.from_numpy(data.test_features).float(), torch.from_numpy(data.test_targets)
    models = [result.model(i) for i in healthy().tolist()]
    losses, accuracies = [], []
    for module in models:
        outputs = module(features).detach()
        losses.append(float(torch.nn.functional.cross_entropy(outputs, labels)))
        accuracies.append(float((outputs.argmax(1) == labels).double().mean()))
    row = result.metrics.iloc[-1]
    assert row["quarantined"] == 2
    wanted = {"loss_mean": np.mean(losses), "loss_max": max(losses), "loss_min": min(losses)}
    wanted |= {"loss_median": sorted(losses)[3], "accuracy_mean": np.mean(accuracies)}
    wanted |= {"accuracy_min": min(accuracies), "accuracy_max": max(accuracies)}
    for key, value in wanted.items():
        assert row[key] == pytest.approx(value, rel=1e-5), key  # float32, sums in another order
    x = result.x[healthy()].double()
    distances = (x - x.mean(0)).norm(dim=1)
    assert row["consensus_distance"] == pytest.approx(float(distances.square().mean().sqrt()), rel=1e-6)
    assert np.isfinite(row["loss_mean_model"])
    board = EventAccumulator(str(tmp_path / "run"))
    board.Reload()
    assert [e.value for e in board.Scalars("run/quarantined")] == result.metrics["quarantined"].tolist()
    final = load_file(tmp_path / "run" / "final.safetensors")
    assert final["diverged_at"].isfinite().nonzero()[:, 0].tolist() == BAD


def test_the_exact_law_is_left_out_once_a_node_is_cut_off():
    metrics = train(TINY, CUT, LOSS).metrics
    assert metrics["quarantined"].iloc[0] == 0
    known = metrics["staleness_theory"].notna()
    assert known.tolist() == (metrics["quarantined"] == 0).tolist()
    assert metrics["staleness_mean"].notna().all()  # over all nodes


def test_nobody_is_left_of_the_nodes_that_are_scored():
    bad = f"local.lr={[1e200] * 9 + [0.05]}"
    run = assembly_of(CUT, bad, "run.eval_nodes=2")
    assert 9 not in run.evaluator.evaluated[0]
    final = train(TINY, CUT, bad, "run.eval_nodes=2").metrics.iloc[-1]
    assert final["quarantined"] == 9
    assert np.isnan(final["loss_mean"])
    assert np.isfinite(final["loss_mean_model"])
    assert final["consensus_distance"] == 0


def test_a_run_of_which_no_node_is_left_has_diverged():
    result = train(TINY, CUT, "local.lr=1e200", "run.until=50")
    assert result.summary["status"] == "diverged"
    assert "the loss or the model of 10 nodes is not finite" in result.summary["message"]
    assert result.metrics["quarantined"].iloc[-1] == 10
    assert result.metrics["time"].iloc[-1] < 50


def test_a_network_of_which_no_node_is_left_does_not_stop_the_others():
    result = train(TINY, CUT, "sweep={local.lr: [1e200, 0.05]}", "run.baseline=isolated")
    assert result.summary["status"] == "finished"
    lost, kept = result.summary["networks"]
    assert (lost["quarantined"], kept["quarantined"]) == (10, 0)
    assert np.isnan(lost["loss_mean"])
    assert np.isfinite(kept["loss_mean"])
    assert [row["quarantined"] for row in result.summary["isolated"]] == [10, 0]


def test_who_was_cut_off_passes_through_a_file(tmp_path):
    config = load(TINY, [CUT, LOSS, "update.applies=delta", "local.momentum=0.5", "update.clock.rate=1"])
    (straight, _), (restarted, _) = finish([config]), finish([config], restart=tmp_path / "half.safetensors")
    assert straight.diverged_at.isfinite().sum() == 2
    for name, tensor in straight.tensors().items():
        assert torch.equal(tensor.nan_to_num(), restarted.tensors()[name].nan_to_num()), name


def test_models_that_are_not_finite_at_the_start_are_never_sent():
    model = "task.model={kind: python, target: 'example_models:nowhere'}"
    run = assembly_of(CUT, model)
    assert (run.state.diverged_at == 0).all()
    assert train(TINY, CUT, model).metrics["quarantined"].tolist() == [10]
    assert (assembly_of(model).state.diverged_at == torch.inf).all()


def test_a_branch_cuts_off_the_nodes_whose_models_were_not_finite(tmp_path):
    train(TINY, CUT, LOSS, out=tmp_path / "run")
    result = train(TINY, CUT, f"run.start_from={tmp_path / 'run'}")
    assert set(result.metrics["quarantined"]) == {2}
    assert {(node["node"], node["time"]) for node in result.summary["diverged"]["nodes"]} == {(i, 0.0) for i in BAD}
    assert result.x[healthy()].isfinite().all()


def test_a_cut_run_goes_on_as_it_was(tmp_path):
    straight = train(TINY, CUT, LOSS)
    train(TINY, CUT, LOSS, "run.until=3", out=tmp_path / "run")
    again = resume(tmp_path / "run", "run.until=6")
    assert torch.equal(again.x[healthy()], straight.x[healthy()])
    assert again.summary["diverged"] == straight.summary["diverged"]
    assert again.metrics["quarantined"].tolist() == straight.metrics["quarantined"].tolist()


# ------------------------------------------------------------------------------------------------------ stop, ignore


def test_ignored_divergence_spreads_and_is_counted(tmp_path):
    result = train(TINY, LOSS, "run.on_divergence=ignore", "run.until=20", out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert "message" not in summary
    assert summary["diverged"]["count"] == N
    nodes = summary["diverged"]["nodes"]
    assert {node["node"] for node in nodes} == set(range(N))
    assert [node["time"] for node in nodes] == sorted(node["time"] for node in nodes)
    assert 0 < nodes[0]["time"] <= nodes[-1]["time"] <= 20
    assert nodes[0]["node"] in BAD
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 21
    assert {row["quarantined"] for row in rows} == {None}
    assert result.metrics["staleness_theory"].notna().all()


def test_a_summary_names_a_hundred_nodes_at_most():
    result = train(TINY, "network.nodes=120", "local.lr=1e200", "run.on_divergence=ignore")
    assert result.summary["diverged"]["count"] == 120
    assert len(result.summary["diverged"]["nodes"]) == 100
    assert train(TINY).summary["diverged"] == {"count": 0, "nodes": []}


def assembly_of(*overrides: str) -> assembly.Simulation:
    config = load(TINY, overrides)
    events = assembly.timeline([config])
    return assembly.assemble([config], events, plan([config], events).chunks)


def said(*overrides: str) -> str:
    return train(TINY, "run.until=200", *overrides).summary["message"]


def test_the_cause_is_a_step_size_above_what_the_curvature_allows():
    run = assembly_of()
    data = LinearRegression(features=4, samples_per_node=6, test_samples=20).load(N, 0)
    first = train(TINY, "local.lr=1e200").summary["diverged"]["nodes"][0]["node"]
    rows = run.problem.sampler.rows[run.problem.sampler.offsets[first] : run.problem.sampler.offsets[first + 1]]
    features = np.concatenate([data.features[rows], np.ones((6, 1))], 1)  # the bias
    h = float(np.linalg.eigvalsh(2 / 6 * features.T @ features)[-1])
    message = said("local.lr=1e200")
    assert f"; local.lr of node {first} is 1e+200, above 2 / curvature = " in message
    assert message.endswith(", measured on its data: lower local.lr")
    bound = float(message.split("curvature = ")[1].split(",")[0])
    assert bound == pytest.approx(2 / h, rel=0.02)  # twenty products find the largest of five eigenvalues to a percent
    assert f"above 2 (1 + momentum) / curvature = {1.5 * bound:.2g}" in said("local.lr=1e200", "local.momentum=0.5")
    with_nesterov = said("local.lr=1e200", "local.momentum=0.5", "local.nesterov=true")
    assert f"above 2 (1 + momentum) / (1 + 2 momentum) / curvature = {0.75 * bound:.2g}" in with_nesterov


def test_the_cause_is_sought_at_the_node_of_the_largest_step_size():
    message = said(f"local.lr={[1e30 if i == 3 else 0.05 for i in range(N)]}", "gossip.clock.rate=20", "run.until=3")
    assert "local.lr of node 3 is 1e+30, above 2 / curvature" in message


@pytest.mark.parametrize("factor", [0.97, 1.06])
@pytest.mark.parametrize("momentum", ["momentum=0", "momentum=0.5", "nesterov=true"])
def test_the_bound_is_where_descent_begins_to_grow(factor, momentum):
    """A lone node with all its examples in each minibatch diverges above the bound that the message states."""
    options = ["network.nodes=1", "local.batch_size=6", "gossip.clock.kind=never", "local.steps=50", "dtype=float32"]
    options += ["local.momentum=0.5"] if momentum == "nesterov=true" else []
    options += [f"local.{momentum}"]
    bound = float(said(*options, "local.lr=1e30").split("curvature = ")[1].split(",")[0])
    result = train(TINY, *options, f"local.lr={factor * bound}", "run.until=60", "run.mark_every=60")
    assert result.summary["status"] == ("finished" if factor < 1 else "diverged")


@pytest.mark.parametrize(
    ("dtype", "largest", "code"),
    [("float32", 3.37e38, 0), ("float32", -3.5e38, 2), ("bfloat16", 3.37e38, 0), ("bfloat16", 3.4e38, 2),
     ("float64", 1e300, 0)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["features", "targets"])
def test_numbers_beyond_those_of_the_models_are_refused(name, dtype, largest, code, tmp_path):
    arrays = {"features": np.ones((60, 4)), "targets": np.ones((60, 1))}
    arrays[name][13, 0] = largest
    np.savez(tmp_path / "mine.npz", **arrays)
    data, options = {"task": {"data": {"kind": "npz", "path": str(tmp_path / "mine.npz")}}}, [f"dtype={dtype}"]
    if code == 0:
        assert train(TINY | data, *options, "run.on_divergence=ignore", "run.until=1").x.shape[0] == N
    else:
        rule = rf"task.data.{name} must be within \+-3.38e\+38 with dtype={dtype}, got 3.{'5' if largest < 0 else '4'}e"
        with pytest.raises(ValueError, match=rule):
            train(TINY | data, *options)


def test_the_cause_may_be_the_data(tmp_path):
    draw = np.random.default_rng(0)
    features, targets = draw.normal(size=(60, 4)), draw.normal(size=(60, 1))
    node = np.repeat(np.arange(N), 6)
    data = ["task.data={kind: npz, path: '%s'}" % (tmp_path / "mine.npz"), "dtype=float32"]
    targets[13] = 1e30  # its square is not finite
    np.savez(tmp_path / "mine.npz", features=features, targets=targets, node=node)
    message = train(TINY | {"task": {}}, *data, "run.until=50", "local.lr=0.001").summary["message"]
    assert "local.lr of node 2 is 0.001, below 2 / curvature = " in message
    assert message.endswith("so the data, the model or the loss may be the cause instead")


def test_a_model_without_second_derivatives_has_a_shorter_message():
    model = "task.model={kind: python, target: 'example_models:Distances'}"
    run, linear = assembly_of(model), assembly_of()
    some = run.problem.batch(torch.arange(5))
    assert divergence.curvature(run, load(TINY, [model]), 0, *some) is None
    assert divergence.curvature(linear, load(TINY), 0, *some) is not None
    message = train(TINY, model, "local.lr=1e308", "run.until=50").summary["message"]
    assert message.endswith(" s; lower local.lr")


def test_the_setting_is_checked():
    with pytest.raises(ValueError, match=r"run.on_divergence must be one of stop, quarantine, ignore, got 'go'"):
        load(TINY, ["run.on_divergence=go"])
