r"""Results: what a run has found, as a person looks at it: numbers, models, tables, curves.

Notation: n nodes, p parameters, t tracked sources, i node.
"""

import base64
import html
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from batchednodes.config import Config, sweep
from batchednodes.figures import bars, examples, influence
from batchednodes.figures.examples import Data, Rows
from batchednodes.models import losses
from batchednodes.models.stacked import Stack
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.torch_modes import own
from batchednodes.numerics.values import shown
from batchednodes.results import comparison
from batchednodes.results.folder import node_file
from batchednodes.simulation import training
from batchednodes.simulation.build import datasets, learning
from batchednodes.simulation.training import Outcome

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from batchednodes.figures import plots
else:
    pd = deferred("pandas")
    plots = deferred("batchednodes.figures.plots")

_OVER_NODES = re.compile(
    r"((?:loss|accuracy|f1|perplexity)(?:_own|_balanced)?)_(mean_model|mean|max|min|median|worst|std)"
)
"""Keys of metrics that are one number of all nodes -> what is measured, and which number."""


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What a run has found: metrics, models, curves; `Result.load(folder)` reads it in another process.

    Example:
        >>> import batchednodes
        >>> run = batchednodes.train({"network.nodes": 3, "run.until": 2})
        >>> run
        <Result 'run': finished, n = 3, t = 2 s, loss_mean 0.663>
        >>> run.x.shape, run.versions.shape  # models, and how many updates of each node each other knows
        (torch.Size([3, 11]), torch.Size([3, 3]))
        >>> run.metrics[["time", "updates"]].to_dict("list")
        {'time': [0.0, 1.0, 2.0], 'updates': [0, 2, 4]}
        >>> run.model(0)
        Sequential(
          (0): Flatten(start_dim=1, end_dim=-1)
          (1): Linear(in_features=10, out_features=1, bias=True)
        )
    """

    settings: Config
    """Of the run."""
    metrics: "pd.DataFrame"
    """One row for each mark and network, with the keys of metrics.jsonl; read from there, where there is a folder, so
    that numbers which are not finite are None or NaN."""
    summary: dict[str, Any]
    """The content of summary.json: final metrics, speed, status."""
    x: Float[Tensor, "n p"]
    """Final models, networks one after the other."""
    tables: tuple[Int[Tensor, "_ _"], ...]
    """Final versions of each network: a row for each of its nodes, a column for each of its tracked sources."""
    folder: Path | None
    """Where the files lie; None if none were asked for."""
    node_rows: np.ndarray | None = field(default=None, repr=False)
    """The records of `nodes`; None without `run.node_metrics`."""
    isolated_rows: np.ndarray | None = field(default=None, repr=False)
    """The records of `isolated_nodes`; None where isolated nodes have not been run."""

    @staticmethod
    def of(outcome: Outcome) -> "Result":
        """Returns the result of a run that has just ended."""
        return Result(**{one.name: getattr(outcome, one.name) for one in fields(Result)})

    @staticmethod
    def load(folder: str | Path) -> "Result":
        """Returns the result of the run in a folder; of one that is not at its end, what it has left so far.

        Example:
            >>> import batchednodes
            >>> run = batchednodes.train({"network.nodes": 3, "run.until": 2}, out="run")
            >>> bool((batchednodes.Result.load("run").x == run.x).all())
            True

        Args:
            folder: of the run; it stays as it is.

        Raises:
            ValueError: the folder holds no run, or none with models.
        """
        return Result.of(training.left(folder))

    # -------------------------------------------------------------------------------------------------------- models

    def row(self, node: int, network: int = 0) -> int:
        """Returns the row of x of a node by its number in its network.

        Raises:
            ValueError: there is no such network, or no such node in it.
        """
        first, end = self._ends(network)
        if not 0 <= node < end - first:
            raise ValueError(f"node must be one of 0 .. {end - first - 1}, got {node}")
        return first + node

    @property
    def versions(self) -> Int[Tensor, "n t"]:
        """Final versions of the tracked sources, networks one after the other.

        Raises:
            ValueError: networks have different numbers of tracked sources.
        """
        widths = [table.shape[1] for table in self.tables]
        if len(set(widths)) > 1:
            raise ValueError(f"versions must have one width, got networks with {widths} tracked sources; use tables")
        return self.tables[0] if len(widths) == 1 else torch.cat(self.tables)

    @property
    def influence(self) -> "pd.DataFrame":
        """What `network.silent` nodes had changed, a row for each network with some and each of its nodes."""
        return influence.table(self._configs, self.x, self.tables, self.evaluate())

    def reached(self, network: int = 0) -> "pd.DataFrame":
        """Returns how many updates of each tracked node (columns) are in each node's model (rows), at most."""
        self._ends(network)  # refuses one that is none
        return influence.reached(self._configs[network], self.tables[network])

    def model(self, i: int, merged: bool = False) -> nn.Module:
        """Returns a module with the weights of node i, 0 <= i < n; merged: with what adapters add in its weights."""
        with own():
            return self._module(self.x[self._node(i)], merged)

    def mean_model(self, network: int = 0, merged: bool = False) -> nn.Module:
        """Returns a module whose weights are the mean over the nodes of a network, of adapters that of each matrix."""
        with own():
            ends = self._ends(network)
            if self._configs[network].gossip.personal:
                raise ValueError("mean_model() must be of nodes that mix all, not gossip.personal; use model(i)")
            return self._module(self.x[slice(*ends)].double().mean(0).to(self.x.dtype), merged)

    def evaluate(
        self, data: Any = None, nodes: Iterable[int] | None = None, *, own_tests: bool = False
    ) -> "pd.DataFrame":
        """Returns loss and accuracy of the models of nodes, a row for each.

        Example:
            >>> import batchednodes
            >>> run = batchednodes.train({"network.nodes": 3, "run.until": 2})
            >>> run.evaluate(nodes=[0, 2]).round(3).to_dict("list")
            {'node': [0, 2], 'network': [0, 0], 'loss': [0.481, 0.996], 'accuracy': [nan, nan]}

        Args:
            data: what the models are to be tried on, in any form that `train` takes; None: the run's own test rows.
                Rows are taken as the nodes see theirs: standardised, if the run's are.
            nodes: their numbers; None: all.
            own_tests: whether each is tried on its own test rows, of `task.own_tests`, instead; NaN where it has none.

        Raises:
            ValueError: a node is none of the run's, or data are of no use.
        """
        chosen = range(len(self.x)) if nodes is None else [self._node(i) for i in nodes]
        given = None if data is None else examples.rows(data, self._classes)
        criterion = losses.choose(self._configs[0].task.loss, self._classes)
        with own(), torch.no_grad():
            scores = [
                examples.scored(self._outputs(self.model(i), rows[0]), rows[1], self._classes, criterion)
                for i, rows in ((i, given or self._tests(i, own_tests)) for i in chosen)
            ]
        loss, accuracy = ([pair[k] for pair in scores] for k in (0, 1))
        networks = [self._network(i) for i in chosen]
        return pd.DataFrame({"node": [*chosen], "network": networks, "loss": loss, "accuracy": accuracy})

    def predictions(self, i: int, data: Any = None) -> np.ndarray:
        """Returns what the model of node i says of each row: its label, or of real targets the numbers.

        Args:
            i: the node.
            data: features, or data in any form that `train` takes; None: the run's own test rows.
        """
        with own(), torch.no_grad():
            features = self._tests(self._node(i))[0] if data is None else examples.features(data, self._classes)
            return examples.said(self._outputs(self.model(i), features), self._classes)

    def confusion(
        self, i: int | Literal["mean", "each"] = "mean", data: Any = None, *, own_tests: bool = False, network: int = 0
    ) -> "pd.DataFrame":
        """Returns how often a model takes rows with each label, a line each, for each label, a column each.

        Example:
            >>> import batchednodes
            >>> task = {"data": {"kind": "sklearn", "name": "iris"}, "own_tests": "dealt"}
            >>> run = batchednodes.train({"network.nodes": 4, "task": task, "run.until": 2})
            >>> parts = [run.confusion("mean", run.data.own_tests[i]) for i in range(4)]
            >>> bool((sum(parts) == run.confusion("mean")).all(axis=None))  # each test row is one node's own
            True

        Args:
            i: the node; "mean": the mean model of a network; "each": the sum over its nodes, each by its own model.
            data: in any form that `train` takes; None: the run's test rows.
            own_tests: whether the rows are the node's own test rows, of `task.own_tests`, instead; of the mean model,
                those of all nodes of the network.
            network: its number, for "mean" and "each".

        Raises:
            ValueError: there are no labels, or no such node or rows.
        """
        if self._classes is None:
            raise ValueError("confusion must be asked of a run with labels, got one with real targets")
        if isinstance(i, str) and i not in ("mean", "each"):
            raise ValueError(f"i must be a node, mean or each, got {shown(i)}")
        given = None if data is None else examples.rows(data, self._classes)
        nodes = range(*self._ends(network)) if isinstance(i, str) else [self._node(i)]
        counts, mean = np.zeros((self._classes, self._classes), np.int64), i == "mean" and self.mean_model(network)
        for k in nodes[:1] if i == "mean" and not own_tests else nodes:  # others would see the same rows
            features, targets = given or self._tests(k, own_tests)
            with own(), torch.no_grad():
                said = examples.said(self._outputs(mean or self.model(k), features), self._classes)
            np.add.at(counts, (targets.ravel(), said.ravel()), 1)
        labels = pd.RangeIndex(self._classes)
        return pd.DataFrame(counts, labels.rename("label"), labels.rename("predicted"))

    # ---------------------------------------------------------------------------------------------- data and tables

    @property
    def data(self) -> Data:
        """What the nodes learned from: `data.train[i]` and `data.test` are (features, targets).

        Example:
            >>> import batchednodes
            >>> run = batchednodes.train({"network.nodes": 3, "run.until": 1, "task.data.samples_per_node": 10})
            >>> len(run.data.train), run.data.train[0][0].shape, run.data.test[1].shape
            (3, (10, 10), (1000, 1))
        """
        return self._data

    @property
    def nodes(self) -> "pd.DataFrame":
        """What was measured of each evaluated node at each mark, a row each; of a run with `run.node_metrics`.

        Example:
            >>> import batchednodes
            >>> run = batchednodes.train({"network.nodes": 3, "run": {"until": 2, "node_metrics": True}})
            >>> run.nodes[["time", "node", "updates"]].tail(3).to_dict("list")
            {'time': [2.0, 2.0, 2.0], 'node': [0, 1, 2], 'updates': [2, 2, 0]}
        """
        return node_file.frame(self.node_rows, "nodes", "run.node_metrics=true")

    @property
    def isolated_nodes(self) -> "pd.DataFrame":
        """The same as `nodes` of the nodes that never gossip, of a run with `run.baseline: isolated` too."""
        return node_file.frame(self.isolated_rows, "isolated_nodes", "run.node_metrics=true and run.baseline=isolated")

    @property
    def table(self) -> "pd.DataFrame":
        """All numbers one a row, as plotting libraries want them: network, settings, node, time, metric, value.

        `node` says of whom a number is: "mean", "max", "min", "median", "std" and "worst" (the worst tenth) are over
        nodes, "mean_model" is of the mean of their models, "all" of the whole network; at the end loss and accuracy of
        each node stand beside, by its number, which are computed when the table is first asked for.

        Example:
            >>> import batchednodes
            >>> run = batchednodes.train({"network.nodes": 3, "run.until": 2})
            >>> part = run.table.query("metric == 'loss' and node == 'mean'")
            >>> part[["network", "time", "value"]].round(3).to_dict("list")
            {'network': [0, 0, 0], 'time': [0.0, 1.0, 2.0], 'value': [0.996, 0.825, 0.663]}
        """
        return self._table

    @cached_property
    def _data(self) -> Data:
        with own():
            return Data(tuple(datasets.split(c) for c in self._configs))

    @cached_property
    def _table(self) -> "pd.DataFrame":
        who = ["network", "replica", "seed", "n", *(key for key in self.metrics if "." in str(key))]
        known = [key for key in who if key in self.metrics]
        long = self.metrics.melt([*known, "time"], var_name="key", value_name="value")
        found = [_OVER_NODES.fullmatch(key) for key in long["key"]]
        long["metric"] = [key if one is None else one[1] for key, one in zip(long["key"], found, strict=True)]
        long["node"] = ["all" if one is None else one[2] for one in found]
        ends = self.metrics.groupby("network")[[*known, "time"]].last().reset_index(drop=True)
        each = self.evaluate().melt(["node", "network"], var_name="metric").merge(ends, on="network")
        both = pd.concat([long[[*known, "node", "time", "metric", "value"]], each], ignore_index=True)
        values = both.pop("value").astype(float)
        kept = ~np.isnan(values.to_numpy())
        columns = [*known, "node", "time", "metric"]
        return both.loc[kept, columns].assign(value=values[kept]).reset_index(drop=True)

    def to_csv(self, path: str | Path) -> None:
        """Writes `table` as CSV into a new file.

        Raises:
            OSError: there is a file of this name, or it cannot be written.
        """
        self.table.to_csv(path, index=False, mode="x")

    def plot(self) -> "Figure":
        """Returns the curves of the run: loss, accuracy, consensus and staleness against time, as `batchednodes.plot`.

        `figure.savefig("curves.pdf")` keeps them.
        """
        bars.let_figures_show()
        return plots.figure(self.drawn)

    @property
    def drawn(self) -> "Path | tuple[str, pd.DataFrame]":
        """What pictures are drawn from: the folder, in which the isolated nodes' rows lie too, or name and metrics."""
        return (self.settings.name, self.metrics) if self.folder is None else self.folder

    # --------------------------------------------------------------------------------------------------------- words

    def __repr__(self) -> str:
        return f"<Result {self.settings.name!r}: {', '.join(self._words())}>"

    def _repr_html_(self) -> str:
        drawn = io.BytesIO()
        self.plot().savefig(drawn, format="png", dpi=90)
        picture = base64.b64encode(drawn.getvalue()).decode()
        title = f"<b>{html.escape(self.settings.name)}</b>: {html.escape(', '.join(self._words()))}"
        return f'<div>{title}<br><img alt="curves of the run" src="data:image/png;base64,{picture}"></div>'

    def _words(self) -> Iterator[str]:
        last = self.metrics.iloc[-1]
        yield str(self.summary.get("status", "running"))
        yield f"{len(self._configs)} networks" if len(self._configs) > 1 else f"n = {len(self.x)}"
        yield f"t = {last['time']:g} s"
        for key in ("loss_mean", "accuracy_mean"):
            values = comparison.known(self.metrics.tail(len(self._configs)).to_dict("records"), key)
            if values.size:
                yield f"{key} {values.mean():.4g}"
        if self.folder is not None:
            yield f"in {self.folder}"

    # ---------------------------------------------------------------------------------------------------- underneath

    @cached_property
    def _configs(self) -> list[Config]:
        """Settings of each network."""
        return [point.config for point in sweep.points(self.settings)]

    @cached_property
    def stack(self) -> Stack:
        """Layout of a row of x."""
        with own():
            first = self._configs[0]
            sizes = first.task.data.sizes(first.network.nodes)  # which were checked, and warned of, before the run
            return learning.skeleton(first, sizes, self.x.dtype, self.x.device)

    @cached_property
    def _kind(self) -> torch.dtype:
        return learning.feature_type(self._configs[0], self.data.sets[0][0].sizes, self.stack)

    @property
    def _classes(self) -> int | None:
        return self.data.sets[0][0].classes

    def _module(self, row: Float[Tensor, " p"], merged: bool) -> nn.Module:
        module, task = self.stack.module(row), self._configs[0].task
        return task.model.merged(module, task.data.sizes(self._configs[0].network.nodes).features) if merged else module

    def _node(self, i: int) -> int:
        if not 0 <= i < self.x.shape[0]:
            raise ValueError(f"i must be a node, 0 <= i < {self.x.shape[0]}, got {i}")
        return int(i)

    def _network(self, i: int) -> int:
        return int(np.searchsorted(np.cumsum([c.network.nodes for c in self._configs]), i, side="right"))

    def _ends(self, network: int) -> tuple[int, int]:
        """Returns the first row of x of a network, and the first one after it."""
        if not 0 <= network < len(self._configs):
            raise ValueError(f"network must be one of 0 .. {len(self._configs) - 1}, got {network}")
        first = sum(c.network.nodes for c in self._configs[:network])
        return first, first + self._configs[network].network.nodes

    def _tests(self, i: int, own_tests: bool = False) -> Rows:
        return self.data.own_tests[i] if own_tests else self.data.tests[self._network(i)]

    def _outputs(self, model: nn.Module, features: np.ndarray) -> Tensor:
        return examples.outputs(model, features, self._kind, self.data.train[0][0].shape[1:])
