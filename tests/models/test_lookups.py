"""Look-ups: an index out of range is refused before a run, as PyTorch refuses it, and never reaches another node."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from batchednodes import train
from batchednodes.config import KINDS
from batchednodes.models.lookups import Lookups
from batchednodes.models.stacked import Stack
from tests.support.likenesses import Words

CPU = torch.device("cpu")
EXAMPLES, BAD = 600, (-(10**12), -16, -9, -6, -5, -2, -1, 3, 4, 5, 7, 15, 10**12)


class Table(nn.Module):
    """Looks up a table of 5 rows by a function of (table, features)."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.table = function, nn.Parameter(torch.randn(5, 3, dtype=torch.float64))
        self.register_buffer("other", torch.tensor([0, 2, 3, 1, 4, 0, 2]))

    def forward(self, x):
        return self.function(self.table, x)


def _put(w, x):
    made = torch.zeros(len(x), 5, dtype=w.dtype)
    made[torch.arange(len(x)), x[:, 0]] = w[0, 0]
    return made


OTHER = torch.tensor([0, 2, 3, 1, 4, 0, 2])

FAMILY = {
    "embedding": lambda w, x: F.embedding(x, w).sum(1),
    "bag": lambda w, x: F.embedding_bag(x, w),
    "bag of offsets": lambda w, x: F.embedding_bag(x.flatten(), w, 4 * torch.arange(len(x)), mode="max"),
    "index_select": lambda w, x: w.index_select(0, x[:, 0]),
    "gather": lambda w, x: w.gather(0, x[:, :3].expand(len(x), 3)[:5]) if len(x) < 5 else w.gather(0, x[:, :3]),
    "take_along_dim": lambda w, x: torch.take_along_dim(w, x[:, :1], 0),
    "indexing": lambda w, x: w[x[:, 0]],
    "indexing by two": lambda w, x: w[x[:, 0], x[:, 1] % 3].unsqueeze(1),
    "indexing from the end": lambda w, x: w[-x[:, 0] - 1],
    "one_hot": lambda w, x: F.one_hot(x[:, 0], 5).to(w) @ w,
    "chained": lambda w, x: F.embedding(OTHER[x[:, 0]], w),
    "take": lambda w, x: torch.take(w, x[:, :3]),
    "written": _put,
    "added": lambda w, x: torch.zeros(5, 3, dtype=w.dtype).index_add(0, x[:, 0], w[:1].expand(len(x), 3)),
    "filled": lambda w, x: w.index_fill(0, x[:, 0], 0.0).sum(0).expand(len(x), 3),
    "bag by frequency": lambda w, x: F.embedding_bag(x, w, scale_grad_by_freq=True),
    "several labels": lambda w, x: F.multilabel_margin_loss(
        w[:, 0].expand(len(x), 5), F.pad(x, (0, 1), value=-1), reduction="none"
    ),
    "labels": lambda w, x: F.cross_entropy(w[0].expand(len(x), 3), x[:, 0], reduction="none"),
    "labels, some ignored": lambda w, x: F.nll_loss(w[:2].T.expand(len(x), 3, 2), x[:, :2], ignore_index=-1),
}
"""Ways to look something up; of features from 0 to 2 all are within."""


@pytest.mark.parametrize("name", FAMILY)
def test_an_index_is_refused_where_pytorch_refuses_it_and_named(name):
    module = Table(FAMILY[name])
    good = np.random.default_rng(0).integers(0, 3, (EXAMPLES, 4))
    lookups = Lookups.of(Stack.of(module, torch.float64, CPU), torch.from_numpy(good[:256]))
    assert lookups is not None
    assert lookups.fault(good, torch.from_numpy) is None
    for value in BAD:
        features = good.copy()
        features[[300, 500], 0] = value
        try:
            module(torch.from_numpy(features[300:301]))
        except (IndexError, RuntimeError):
            refused = True
        else:  # what PyTorch bends into range is refused all the same
            refused = name == "take_along_dim" and not -5 <= value < 5
        fault = lookups.fault(features, torch.from_numpy)
        assert (fault is not None) == refused, value
        if fault is not None:
            row, said = fault
            assert row == 300
            assert re.fullmatch(r"index -?\d+, where [a-z_0-9]+ takes -?\d+ to \d+", said)


def test_places_of_maxima_are_looked_up():
    module = Table(lambda w, x: F.max_unpool1d(w[:1, :1].expand(len(x), 1, 1), x[:, :1].unsqueeze(1), 5))
    places = np.zeros((20, 1), np.int64)
    lookups = Lookups.of(Stack.of(module, torch.float64, CPU), torch.from_numpy(places))
    assert lookups is not None
    places[13] = 5
    assert lookups.fault(places, torch.from_numpy) == (13, "index 5, where max_unpool2d takes 0 to 4")


def test_models_that_look_nothing_up_are_not_traced(monkeypatch):
    monkeypatch.setattr("batchednodes.models.lookups.make_fx", lambda *_, **__: pytest.fail("is traced"))
    features = torch.zeros(4, 3, dtype=torch.float64)
    assert Lookups.of(Stack.of(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), torch.float64, CPU), features) is None


@pytest.mark.parametrize("row", [0, 7])  # a model is tried on the first row
@pytest.mark.parametrize("executor", ["batched", "serial"])
@pytest.mark.parametrize("part", ["", "test_"])
@pytest.mark.parametrize("model", [{"kind": "python", "target": "example_models:Tokens"}, {"kind": "words"}])
def test_a_run_names_row_node_value_and_range(model, executor, part, row, tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS["task.model"], "words", Words)
    draw = np.random.default_rng(1)
    arrays = {f"{kind}features": draw.integers(0, 5, (12, 4)) for kind in ("", "test_")}
    arrays |= {f"{kind}targets": draw.integers(0, 2, 12) for kind in ("", "test_")}
    arrays[f"{part}features"][row, 2] = 5
    np.savez(tmp_path / "d.npz", node=np.arange(12) // 4, **arrays)
    config = {
        "network": {"nodes": 3},
        "executor": executor,
        "task": {
            "data": {"kind": "npz", "path": str(tmp_path / "d.npz")},
            "partition": {"kind": "natural"},
            "model": model,
        },
    }
    where = f"test row {row}" if part else f"training row {row} of node {row // 4}"
    rule = (
        rf"got index 5, where embedding takes 0 to 4, in {where} \(.*\), which is \[\d, \d, 5, \d\]; correct the data"
    )
    with pytest.raises(ValueError, match=rule):
        train(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Growing(nn.Module):
    """Looks up a table by an index that its parameters decide, which grow until it is out of range."""

    def __init__(self, how: str, asks: bool = False) -> None:
        super().__init__()
        self.how, self.table = FAMILY[how], nn.Parameter(torch.randn(5, 3))
        self.grows, self.asks = nn.Parameter(torch.zeros(1)), asks
        self.register_buffer("three", torch.tensor(3))

    def forward(self, x):
        if self.asks and self.three > 2:  # which a trace cannot follow
            x = x + 0
        index = (10 * self.grows.detach()).long().expand(len(x), 4)
        return self.grows.expand(len(x), 1) + self.how(self.table, index).sum(1, keepdim=True).detach()


@pytest.mark.parametrize("executor", ["batched", "serial"])
@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("how", ["embedding", "index_select", "indexing", "one_hot", "filled"])
def test_an_index_that_training_brings_out_of_range_ends_the_run_in_one_message(executor, how, asks):
    model = {"kind": "python", "target": "test_lookups:Growing", "args": {"how": how, "asks": asks}}
    data = {"kind": "linear_regression", "features": 4, "samples_per_node": 6, "test_samples": 5}
    config = {"network": {"nodes": 2}, "executor": executor, "task": {"data": data, "model": model}}
    rule = "task.model must take what training makes of its parameters, got: index .*in Growing"
    with pytest.raises(ValueError, match=rule):
        train(
            config, "local.lr=3", "local.batch_size=4", "run.until=100", "run.baseline=none", "run.on_divergence=ignore"
        )
