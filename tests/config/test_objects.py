"""Python objects stand in place of settings: each becomes an ordinary setting, and lies in the folder of a run."""

import functools
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import networkx
import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, Subset, TensorDataset

import batchednodes
from batchednodes.config import load, objects
from batchednodes.config.objects import replaced
from batchednodes.data import from_objects
from batchednodes.models import written
from batchednodes.models.criterion import FunctionLoss
from batchednodes.numerics import inputs
from batchednodes.numerics.source_text import text_of

X = np.linspace(-1, 1, 120).reshape(40, 3)
Y = np.arange(40) % 2
SHORT = {"run.until": 1, "network.nodes": 4, "task.data.test_fraction": 0.5}

CELL = """
from dataclasses import dataclass
import torch.nn as nn
from torch.nn.functional import relu

WIDTHS = {"hidden": 4}
x = object()  # a name that forward has for something else

def squash(x):
    return relu(x)

@dataclass(eq=False)
class Block(nn.Module):
    width: int = 3

    def __post_init__(self):
        super().__init__()
        self.inner = nn.Linear(3, self.width)

    def forward(self, x):
        return squash(self.inner(x))

class Net(nn.Module):
    def __init__(self, classes=2):
        super().__init__()
        self.layers = nn.Sequential(Block(WIDTHS["hidden"]), nn.Linear(WIDTHS["hidden"], classes))

    def forward(self, x):
        return self.layers(x)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)

make = lambda: nn.Linear(3, 2)

class Odd(nn.Module):
    def forward(self, y):
        return x

def local():
    class Inner(nn.Module):
        def forward(self, x):
            return x
    return Inner
"""


class Squares(Dataset):
    """A data set with a length, as torchvision's are."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.full((2, 2), float(i)), i % 3


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What a notebook has after a cell: classes of `__main__`, whose text only linecache knows."""
    main, name = ModuleType("__main__"), "<cell 1>"
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setitem(linecache.cache, name, (len(CELL), None, CELL.splitlines(keepends=True), name))
    exec(compile(CELL, name, "exec"), vars(main))
    return main


def arrays(found: Any) -> dict[str, np.ndarray]:
    with np.load(inputs.located(from_objects(found).path)) as file:
        return dict(file)


# ------------------------------------------------------------------------------------------------- runs of objects


def test_a_run_of_objects_is_repeated_and_goes_on_wherever_its_folder_is(
    cell: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    graph = networkx.cycle_graph(4)
    settings = {"run.until": 2, "model": cell.Net, "loss": cell.loss, "local": {"lr": np.full(4, 0.1)}}
    half = batchednodes.train(settings, data=(X, Y), graph=graph, out=tmp_path / "run")
    whole = batchednodes.train(settings, {"run.until": 3}, data=(X, Y), graph=graph)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert sorted(path.name.partition("-")[0] for path in (moved / "inputs").iterdir()) == ["code", "code", "data"]
    forget(monkeypatch)
    monkeypatch.chdir("/")
    assert torch.equal(batchednodes.train(moved / "config.yaml").x, half.x)
    longer = batchednodes.resume(moved, "run.until=3")
    assert torch.equal(longer.x, whole.x)
    assert type(longer.model(0)).__name__ == "Net"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process know as little of the objects as another one does."""
    monkeypatch.setattr(inputs, "_PLACES", {})
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    for name in [name for name in sys.modules if name.startswith(inputs.FOLDER)]:
        monkeypatch.delitem(sys.modules, name)


def test_objects_may_stand_in_mappings_and_a_plan(cell: ModuleType):
    nested = {"task": {"model": cell.Net, "data": (X, Y)}, "network": {"topology": networkx.cycle_graph(5)}}
    assert load(nested) == load({"model": cell.Net}, [{"data": (X, Y)}, {"graph": networkx.cycle_graph(5)}])
    assert batchednodes.plan(nested).parameters == 4 * 4 + 5 * 2


def test_a_run_without_a_folder_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    batchednodes.train(SHORT, model=nn.Linear(3, 2), data=(X, Y))
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["data", "code"])
def test_an_input_with_other_content_is_refused(
    cell: ModuleType, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    run = batchednodes.train(SHORT, model=cell.Net, data=(X, Y), out=tmp_path / "run")
    assert run.folder is not None
    (file,) = (run.folder / "inputs").glob(f"{name}-*")
    file.write_bytes(file.read_bytes() + b" ")
    forget(monkeypatch)
    with pytest.raises(ValueError, match=f"{file.name}' must hold what its name tells, got other content"):
        batchednodes.resume(run.folder, "run.until=2")


# ---------------------------------------------------------------------------------------------------------- models


def test_all_nodes_begin_with_the_weights_of_a_module(cell: ModuleType):
    torch.manual_seed(3)
    module = cell.Net()
    run = batchednodes.train(SHORT, "update.clock={kind: never}", model=module, data=(X, Y))
    for mine, own in zip(run.model(2).parameters(), module.parameters(), strict=True):
        assert torch.equal(mine, own)
    assert type(run.model(2)).__name__ == "Net"


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.GroupNorm(1, 2), nn.Dropout(0.25), nn.Flatten()).eval(),
        nn.LSTM(3, 4, num_layers=2),
        nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", dropout=0.0),
        nn.Embedding(5, 3).requires_grad_(False),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_written_module_is_read_as_it_was(module: nn.Module):
    found = written.read(**written.write(module, "model"))
    assert repr(found) == repr(module)
    assert [m.training for m in found.modules()] == [m.training for m in module.modules()]
    for (name, mine), (other, own) in zip(found.named_parameters(), module.named_parameters(), strict=True):
        assert (name, mine.requires_grad) == (other, own.requires_grad)
        assert torch.equal(mine, own)


def test_tied_weights_stay_tied():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    found: Any = written.read(**written.write(module, "model"))
    assert found[1].weight is found[0].weight


def test_annotations_may_name_what_is_there_for_readers_only(monkeypatch: pytest.MonkeyPatch):
    text = "from __future__ import annotations\ndef make(x: Tensor) -> Tensor:\n    return x\n"
    main, name = ModuleType("__main__"), "<cell 2>"
    monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(keepends=True), name))
    exec(compile(text, name, "exec"), vars(main))
    made: dict[str, Any] = {}
    exec(text_of([main.make], "loss"), made)
    assert made["make"](3) == 3


def test_a_partial_gives_arguments():
    args = {"in_features": 3, "out_features": 2}
    made = replaced({"model": functools.partial(nn.Linear, **args)}, {})["task.model"]
    assert made == {"kind": "python", "target": "torch.nn.modules.linear:Linear", "args": args}


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (lambda cell: cell.make, "model must be defined by class or def at the top .*, got <lambda>"),
        (lambda cell: cell.local(), "model must be defined by class or def at the top .*, got Inner"),
        (lambda cell: cell.Odd, "model must refer to what can be written down, got x = <object"),
        (lambda cell: 3.0 + 1j, "model must be an nn.Module, or a class or function that makes one, got"),
        (lambda cell: _held(nn.Linear(3, 2), object()), "model must hold .* got seen: a object, .*; give the class"),
    ],
)
def test_what_no_folder_could_hold_is_refused(cell: ModuleType, thing: Callable[[Any], Any], message: str, tmp_path):
    with pytest.raises(ValueError, match=message):
        batchednodes.train(SHORT, model=thing(cell), data=(X, Y), out=tmp_path / "run")
    assert [*tmp_path.iterdir()] == []


def _held(module: Any, thing: object) -> nn.Module:
    module.seen = thing
    return module


# ------------------------------------------------------------------------------------------------------------ data


def test_forms_of_the_same_data_give_the_same_arrays():
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(grown=np.where(Y == 1, "south", "north"))
    tensors = torch.from_numpy(X), torch.from_numpy(Y)
    expected = arrays((X, Y))
    named = frame[["grown", "a", "b", "c"]], "grown"
    for found in (tensors, TensorDataset(*tensors), frame, named, (X, frame["grown"])):
        made = arrays(found)
        assert made.keys() == expected.keys()
        assert all(np.array_equal(made[name], expected[name]) for name in made)


def test_a_data_set_with_a_length_is_stacked():
    made = arrays(Subset(Squares(9), range(6)))
    assert made["features"].shape == (6, 2, 2)
    assert made["targets"].tolist() == [0, 1, 2, 0, 1, 2]


def test_a_data_set_of_hugging_face_is_taken():
    datasets = pytest.importorskip("datasets")
    found = datasets.Dataset.from_dict({"x": X[:, 0], "z": X[:, 1], "label": Y})
    made = arrays(found)
    assert np.array_equal(made["features"], X[:, :2])
    assert np.array_equal(made["targets"], Y)
    both = arrays(datasets.DatasetDict(train=found, test=found.select(range(4))))
    assert both["test_targets"].tolist() == [0, 1, 0, 1]


def test_a_list_has_a_data_set_for_each_node_and_says_how_many_there_are():
    run = batchednodes.train({"run.until": 1}, data=[(X[k::3], Y[k::3]) for k in range(3)])
    assert run.settings.network.nodes == 3
    assert all(np.isin(run.data.train[k][0], X[k::3]).all() for k in range(3))


@pytest.mark.parametrize("kind", ["texts", "frames", "Hugging Face"])
def test_classes_of_all_nodes_are_numbered_together(kind: str):
    names = [["b", "d", "b"], ["c", "d", "d"]] if kind == "texts" else [[5, 9, 5], [7, 9, 9]]
    if kind == "texts":
        found: Any = [(X[:3], one) for one in names]
    elif kind == "frames":
        found = [pd.DataFrame({"a": X[:3, 0], "y": one}) for one in names]
    else:
        datasets = pytest.importorskip("datasets")
        found = [datasets.Dataset.from_dict({"x": X[:3, 0], "label": one}) for one in names]
    assert arrays(found)["targets"].tolist() == [0, 2, 0, 1, 2, 2]


def test_test_rows_of_ones_own_are_kept():
    run = batchednodes.train(SHORT, data=(X[:30], Y[:30], X[30:], Y[30:]))
    assert np.array_equal(run.data.test[1], Y[30:])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "data must be a list of at least one data set"),
        ((X,), r"data must be \(X, y\) of arrays or tensors"),
        (X, r"data must be \(X, y\) of arrays or tensors"),
        ([X, Y], r"data\[0\] must be \(X, y\) of arrays"),
        ((X, Y[:3]), r"data must have as many rows of features as of targets, got shapes \[40, 3\] and \[3\]"),
        (([["a"], ["b"]], [0, 1]), "data must have numbers as features, got <U1"),
        ([(X, Y), (X[:, :2], Y)], r"data\[1\] must have rows of features as data\[0\], \[3\], got \[2\]"),
        ([(X, Y), (X, Y, X, Y)], r"data\[1\] must have test rows as data\[0\] has, or none"),
        (pd.DataFrame({"a": ["u", "v"], "y": [0, 1]}), "data must have numbers as features, got column 'a' of type"),
        ((pd.DataFrame({"a": [1.0], "y": [0]}), "z"), "data must have a column 'z', the target, and others"),
        (pd.DataFrame({"a": [1.0, 2.0], "y": ["u", None]}), "data must have a target in each row, got none in row 1"),
        (
            pd.DataFrame([[1, 2, 0]], columns=["a", "a", "y"]),
            "data must have columns of different names, got 'a' twice",
        ),
        (pd.DataFrame(), r"data must have columns, got \[\]"),
        ([(X, Y), (X, Y.astype(str))], r"data\[1\] must have .* classes or real targets, as data\[0\]; give both"),
        ((torch.eye(3).to_sparse(), [0, 1, 0]), "data: features must be a dense tensor, got"),
        ((np.ma.masked_less(X, 0), Y), "data: features must have all numbers, got a masked array"),
    ],
)
def test_data_of_no_use_are_refused(found: Any, message: str):
    with pytest.raises(ValueError, match=message):
        from_objects(found)


# ----------------------------------------------------------------------------------------- graphs, losses, numbers


def test_forms_of_the_same_graph_give_the_same_setting():
    graph = networkx.cycle_graph(5)
    matrix = networkx.to_numpy_array(graph)
    expected = load({"graph": graph})
    assert expected.network.nodes == 5
    for found in (matrix, torch.from_numpy(matrix), scipy.sparse.csr_array(matrix)):
        assert load({"graph": found}) == expected
    one_way = np.triu(matrix)
    topology: Any = load({"graph": one_way}).network.topology
    assert topology.directed


def test_a_large_graph_is_a_file_of_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    graph = networkx.gnp_random_graph(6, 0.5, seed=1, directed=True)
    small = batchednodes.train({"run.until": 1}, graph=graph)
    monkeypatch.setattr(objects, "LONGEST", 10)
    large = batchednodes.train({"run.until": 1}, graph=graph, out=tmp_path / "run")
    assert [path.name[:6] for path in (tmp_path / "run" / "inputs").iterdir()] == ["graph-"]
    forget(monkeypatch)
    for found in (large, batchednodes.train(tmp_path / "run" / "config.yaml")):
        assert torch.equal(found.x, small.x)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (np.ones((2, 3)), r"graph must be a square matrix, one row for each node, got shape \[2, 3\]"),
        (np.eye(3)[[1, 2, 0]] * 0.5, "graph must be a matrix of zeros and ones, got an entry 0.5; probabilities"),
        (networkx.Graph(), "graph must have at least one node, got none"),
        (torch.eye(3).to_sparse(), "graph must be a dense tensor, or a sparse matrix of SciPy, got"),
        (np.array([["a", "b"], ["c", "d"]]), "graph must be a matrix of zeros and ones, got <U1"),
        ({(0, 1)}, "graph must be one of networkx, a sparse matrix of SciPy, or an adjacency matrix, got"),
    ],
)
def test_graphs_of_no_use_are_refused(graph: Any, message: str):
    with pytest.raises(ValueError, match=message):
        load({"graph": graph})


def test_the_number_of_nodes_must_be_that_of_the_objects():
    with pytest.raises(ValueError, match=r"network.nodes must be 3, as many as graph has, got 4; leave it out"):
        load({"network.nodes": 4}, [{"graph": networkx.path_graph(3)}])
    with pytest.raises(ValueError, match=r"network.nodes must be 2, as many as data has, got 3"):
        load({"graph": networkx.path_graph(3), "data": [(X, Y), (X, Y)]})


def test_losses_of_examples_and_means_of_minibatches_are_the_same_run(cell: ModuleType):
    each = functools.partial(functional.cross_entropy, reduction="none")
    given = [cell.loss, functional.cross_entropy, each, nn.CrossEntropyLoss()]
    runs = [batchednodes.train(SHORT, "local.lr=0.3", data=(X, Y), loss=loss) for loss in given]
    plain = batchednodes.train(SHORT, "local.lr=0.3", data=(X, Y))
    assert all(torch.allclose(run.x, plain.x, atol=1e-6) for run in runs)  # float32, sums in another order
    assert not torch.equal(plain.x, torch.zeros_like(plain.x))


def test_a_loss_that_fails_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ValueError, match=r"task.loss.target must take outputs of shape \[3, 2\] .*, by torch:atan2"):
        batchednodes.train(SHORT, {"task.loss": FunctionLoss("torch:atan2")}, data=(X, Y), out=tmp_path / "run")
    with pytest.raises(ValueError, match="loss must be a function of outputs and targets"):
        load({"loss": [1, 2]})
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("make", [np.array, torch.tensor, pd.Series], ids=["numpy", "torch", "pandas"])
def test_arrays_are_quantities_of_nodes(make: Callable[[list[float]], Any]):
    made = load({"network.nodes": 3, "gossip": {"weight": make([0.1, 0.2, 0.25])}})
    assert made.gossip.weight == pytest.approx([0.1, 0.2, 0.25])
