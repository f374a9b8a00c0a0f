"""Nodes from whom nothing comes: what they changed in others, and how many of their updates reached whom."""

import json

import numpy as np
import pytest
import scipy
import torch

import batchednodes
from batchednodes.algorithms.mixing.rounds import silenced
from batchednodes.cli.app import app
from batchednodes.figures import influence

SMALL = {
    "network": {"nodes": 6},
    "local": {"lr": 0.3},
    "task": {"data": {"kind": "digits"}, "model": {"kind": "linear"}},
    "run": {"until": 3, "mark_every": 3},
}
SILENT = "sweep.network.silent=[[], [1], [1, 4]]"


@pytest.mark.parametrize(
    "settings",
    [
        ["gossip.exchange=meet"],
        ["algorithm.kind=ad_psgd", "gossip.exchange=meet", "gossip.clock.kind=at_update"],
        ["gossip.exchange=push_pull", "gossip.delay={kind: exponential, mean: 0.3}"],
        ["timing={kind: synchronous}", "network.topology={kind: ring}", "gossip.merge={kind: median}"],
    ],
    ids=["meet", "ad_psgd", "messages", "robust rounds"],
)
def test_nothing_comes_from_silent_nodes_and_batched_equals_serial(settings):
    batched, serial = (
        batchednodes.train(SMALL, SILENT, "dtype=float64", *settings, f"executor={executor}")
        for executor in ("batched", "serial")
    )
    assert torch.allclose(batched.x, serial.x, rtol=1e-12, atol=1e-14)  # sums over examples in another order
    assert all(torch.equal(a, b) for a, b in zip(batched.tables, serial.tables, strict=True))
    run, without = (batched.reached(g).to_numpy() for g in (0, 1))
    assert without[1, 1] > 0
    assert not np.delete(without[:, 1], 1).any()
    assert np.delete(run[:, 1], 1).any()
    assert np.delete(without[1], 1).any()  # it goes on hearing others


def test_tables_say_what_models_with_and_without_silent_nodes_do():
    run = batchednodes.train(SMALL, "sweep.network.silent=[[], [1, 4]]", "gossip.clock.rate=2")
    found, scores, n = run.influence, run.evaluate(), 6
    assert found["without"].tolist() == ["1 4"] * n
    apart = torch.linalg.vector_norm((run.x[:n] - run.x[n:]).double(), dim=1)
    np.testing.assert_allclose(found["distance"], apart, rtol=1e-12)
    assert found["reached"].tolist() == run.reached(0)[[1, 4]].max(axis=1).tolist()
    said = influence.summary(found).iloc[0]
    others = [0, 2, 3, 5]
    for name in ("loss", "accuracy"):
        values = scores[name].to_numpy()
        assert found[name].tolist() == values[:n].tolist()
        assert found[f"{name}_without"].tolist() == values[n:].tolist()
        assert said[f"{name}_gained"] == pytest.approx((values[:n] - values[n:])[others].mean(), rel=1e-9)
    assert (said["changed"], said["distance_max"]) == (np.count_nonzero(apart[others]), apart[others].max().item())
    assert influence.settings(batchednodes.load(SMALL), [3]).sweep == {"network.silent": [[], [3]]}


@pytest.mark.parametrize("compile_", ["auto", "off"])
def test_a_node_that_never_gossips_changes_no_other_bit_for_bit(compile_):
    never = ["gossip.clock.rate=[2, 2, 2, 0, 2, 2]", f"local.compile={compile_}", "run.until=30", "run.mark_every=30"]
    found = batchednodes.train(SMALL, *never, "sweep.network.silent=[[], [3], [0]]").influence
    assert not found.query("without == '3'")["distance"].to_numpy().any()
    assert found.query("without == '0' and node != 0")["distance"].to_numpy().all()


def test_a_silent_share_goes_to_the_own_model():
    w = np.array([[0.5, 0.3, 0.2], [0.3, 0.4, 0.3], [0.2, 0.3, 0.5]])
    found = silenced(scipy.sparse.csr_array(w), (2,), 3).toarray()
    assert np.allclose(found, [[0.7, 0.3, 0], [0.3, 0.7, 0], [0.2, 0.3, 0.5]], atol=1e-15)  # one sum may round


def test_the_commands_print_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps(SMALL))
    app(["influence", "mine.json", "--without", "1,4", "--json", "-o", "out"], standalone_mode=False)
    rows = json.loads(capsys.readouterr().out)
    assert [*dict.fromkeys(row["without"] for row in rows)] == ["1", "4", "1 4"]
    assert len(rows) == 18
    assert {*rows[0]} >= {"node", "reached", "distance", "loss", "loss_without", "accuracy", "accuracy_without"}
    assert next(row for row in rows if row["without"] == "1" and row["node"] == 1)["reached"] > 0
    app(["reached", "out", "--network", "1"], standalone_mode=False)
    assert capsys.readouterr().out.splitlines()[0] == "node,0,1,2,3,4,5"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["network.silent=[6]"], r"network\.silent must be different numbers of nodes, from 0 to 5, got \[6\]"),
        (["network.silent=[1]", "algorithm.kind=push_sum"], "more than a mean at the node that receives"),
        (["network.silent=[1]", "gossip.on_receipt=update"], r"gossip\.on_receipt must be merge or merge_update"),
    ],
)
def test_what_is_wrong_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        batchednodes.train(SMALL, *settings)


@pytest.mark.parametrize("without", ["", "a", "9"])
def test_without_must_name_nodes(without, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps(SMALL))
    with pytest.raises(ValueError, match=r"--without must|silent must be"):
        app(["influence", "mine.json", "--without", without], standalone_mode=False)
