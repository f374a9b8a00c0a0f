"""The package from Python: what the commands do, as functions that take objects and return them."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchednodes import config
from batchednodes.config import Config, Override, sweep
from batchednodes.figures import bars
from batchednodes.figures.race import finished
from batchednodes.figures.race import race as races
from batchednodes.figures.race.entry import Entry
from batchednodes.figures.race.race import Race
from batchednodes.figures.race.rules import Rules
from batchednodes.figures.result import Result
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.torch_modes import own
from batchednodes.numerics.values import shown
from batchednodes.results import comparison, tables
from batchednodes.results.callbacks import Callback
from batchednodes.results.folder.paths import OutputFolder, check_new
from batchednodes.simulation import training
from batchednodes.simulation.engine import Pause, never
from batchednodes.simulation.observer import Watch
from batchednodes.simulation.planning import plan as planning
from batchednodes.simulation.planning.plan import Plan
from batchednodes.simulation.planning.preflight import prepare

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from batchednodes.figures import plots
else:
    plots = deferred("batchednodes.figures.plots")

Source = str | Path | Mapping[str, Any] | Config
"""Settings: path of a YAML file, a mapping, nested or by full keys, or a `Config`."""


def train(
    source: Source | None = None,
    *overrides: Override,
    model: Any = None,
    adapter: Any = None,
    data: Any = None,
    graph: Any = None,
    loss: Any = None,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    watch: Watch | None = None,
    stop: Pause = never,
) -> Result:
    """Runs a config to its end.

    Objects may stand in place of settings, here or in mappings, {"task": {"model": Net}} or {"model": Net}. Each
    becomes a setting; arrays and weights, and the text of classes and functions that were defined in a notebook or a
    script, lie in the folder `inputs` of the run, beside its config.yaml, so that it is repeated and resumed wherever
    its folder is.

    PyTorch's and NumPy's modes (default type and device, gradients, autocast, ...) are the run's own meanwhile, in
    `watch`, `stop` and `callbacks` too, and the caller's again on return.

    Example:
        >>> import batchednodes
        >>> run = batchednodes.train({"network": {"nodes": 10}}, "run.until=5", {"gossip.clock.rate": "2*log(n)"})
        >>> run.metrics[["time", "loss_mean", "staleness_mean", "staleness_theory"]].round(2).iloc[-1].to_dict()
        {'time': 5.0, 'loss_mean': 0.18, 'staleness_mean': 0.73, 'staleness_theory': 0.61}
        >>> import networkx
        >>> from sklearn.datasets import load_iris
        >>> from torch import nn
        >>> ring, iris = networkx.cycle_graph(6), load_iris(return_X_y=True)
        >>> batchednodes.train({"run.until": 3}, model=nn.Linear(4, 3), data=iris, graph=ring).x.shape
        torch.Size([6, 15])

    Args:
        source: path of a YAML file, a nested mapping, or a `Config`; None: all defaults.
        overrides: settings as "key=value", for example "gossip.clock.rate=2*log(n)", or in mappings, nested or by full
            keys: {"network": {"nodes": 50}, "gossip.clock.rate": 2}.
        model: of each node: an `nn.Module`, with whose weights all begin, or a class or function that makes one.
        adapter: what of it is trained: settings of `task.model.adapter`, as {"kind": "lora", "targets": ["query"]}.
        data: (X, y) of arrays or tensors, or (X, y, X_test, y_test); a `TensorDataset`, or any data set of PyTorch with
            a length; a DataFrame whose last column is the target, or (DataFrame, name of the target); a data set of
            Hugging Face; or a list of these, one for each node.
        graph: of networkx, a sparse matrix of SciPy or an adjacency matrix; there are as many nodes as it has.
        loss: a function of outputs and targets that returns the loss of each example, or their mean.
        out: new folder for the files of the run; None: nothing is written but temporary files.
        callbacks: are told of the start, marks, checkpoints and the end, see `batchednodes.Callback`.
        progress: whether a bar is shown; None: in notebooks.
        watch: called after each window and mark.
        stop: asked often; once it returns True, the run halts within a wave, leaves a checkpoint, and its status is
            "interrupted".

    Raises:
        ValueError: a setting, the data, the model, the device or the folder is not usable, an object cannot be written
            down, as a lambda, or the run does not fit in memory; the message names the key, the rule and the value.
            Nothing has been written then.
        OSError: a file cannot be written; what was written before is whole, and `resume` goes on from it.
    """
    changes = _with_objects(overrides, model, adapter, data, graph, loss)
    with ExitStack() as stack:
        shown_ = stack.enter_context(bars.shown(progress, watch))
        run = training.train(source or {}, *changes, out=out, watch=shown_, stop=stop, callbacks=callbacks)
    return Result.of(run)


def resume(
    folder: str | Path,
    *overrides: Override,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    watch: Watch | None = None,
    stop: Pause = never,
) -> Result:
    """Goes on with a run that was killed or interrupted, in place; or extends one that is finished.

    On one device the result is bit for bit that of a run without a pause.

    Example:
        >>> import batchednodes
        >>> settings = {"network.nodes": 3, "run": {"mark_every": 1}}
        >>> batchednodes.train(settings, "run.until=2", out="run").metrics["time"].tolist()
        [0.0, 1.0, 2.0]
        >>> longer = batchednodes.resume("run", "run.until=4")
        >>> bool((longer.x == batchednodes.train(settings, "run.until=4").x).all())
        True

    Args:
        folder: of the run.
        overrides: settings to change, "run.until=200" or {"run.until": 200}; few can: `run.until`, `device`, and those
            about checkpoints, loggers and the baseline.
        callbacks, progress, watch, stop: as in `train`.

    Raises:
        ValueError: the folder holds no run, or one that diverged, another process works in it, or a setting must not
            change.
        OSError: a file cannot be written.
    """
    with ExitStack() as stack:
        shown_ = stack.enter_context(bars.shown(progress, watch))
        run = training.resume(folder, *overrides, watch=shown_, stop=stop, callbacks=callbacks)
    return Result.of(run)


def plan(
    source: Source | None = None,
    *overrides: Override,
    model: Any = None,
    adapter: Any = None,
    data: Any = None,
    graph: Any = None,
    loss: Any = None,
) -> Plan:
    """Returns what a run would do and need: events, waves, memory; runs nothing.

    Example:
        >>> import batchednodes
        >>> plan = batchednodes.plan({"network.nodes": 50}, "run.until=20")
        >>> plan.parameters, round(plan.updates), plan.fits
        (11, 1000, True)

    Args:
        source, overrides, model, adapter, data, graph, loss: as in `train`.

    Raises:
        ValueError: as of `train`, but that the run may be one that does not fit: see `Plan.fits`.
    """
    with own():
        chosen = config.load(source or {}, _with_objects(overrides, model, adapter, data, graph, loss))
        return planning.planned(prepare(sweep.points(chosen)))[1]


def compare(*runs: str | Path | Result, by: str | None = None, rank: str = "final") -> "pd.DataFrame":
    """Returns the final metrics of runs side by side: a row for each setting, means over its replicas.

    Beside each metric of several replicas stand the ends of its 95% interval, `<metric>_low` and `<metric>_high`.
    Several runs are ranked as entrants of a race are, the best first, over the seeds that all have: `rank`, the score
    with its interval, the gap to the first with its interval, and the ranks it is tied with. The settings of one run
    are ranked where `by` or `rank` is given.

    Example:
        >>> import batchednodes
        >>> run = batchednodes.train({"network.nodes": 3, "run.until": 2}, {"sweep": {"local.lr": [0.1, 0.2]}})
        >>> batchednodes.compare(run)[["local.lr", "replicas", "loss_mean"]].round(3).to_dict("list")
        {'local.lr': [0.1, 0.2], 'replicas': [1, 1], 'loss_mean': [0.663, 0.488]}
        >>> batchednodes.compare(run, by="loss_mean")[["local.lr", "rank", "gap"]].round(3).to_dict("list")
        {'local.lr': [0.2, 0.1], 'rank': [1, 2], 'gap': [nan, 0.175]}

    Args:
        runs: folders of runs, or results.
        by: metric that is ranked, as of `race`; None: accuracy_mean, or loss_mean where there are no labels.
        rank: its "final" value, the "best" one, or "to=0.9", the time by which it is there.

    Raises:
        ValueError: there is no run, or a folder holds none that is finished; or a ranking is asked for, and there is
            none: a metric that nobody measured, no seed that all have.
    """
    if not runs:
        raise ValueError("runs must be folders of runs, or results, got none")
    found, marks, diverged = list[dict[str, Any]](), list[dict[str, Any]](), list[str]()
    for k, run in enumerate(runs):
        name = _name(run, runs[:k])
        finals, rows, bad = _rows(run, name, rank)
        found, marks, diverged = [*found, *finals], [*marks, *rows], [*diverged, *([name] if bad else [])]
    table = tables.frame(found)
    if len(runs) > 1 or by is not None or rank != "final":
        try:
            table = finished.ranked(found, marks, diverged, by, rank).frame(table)
        except ValueError as error:
            if by is not None or rank != "final":
                raise
            warnings.warn(f"runs are not ranked: {error}", stacklevel=2)
    return table.dropna(axis="columns", how="all")


def _name(run: str | Path | Result, before: Sequence[str | Path | Result]) -> str:
    """Returns the folder of a run; of one without, its name, numbered where results before it have the same."""
    if not isinstance(run, Result):
        return str(run)
    if run.folder is not None:
        return str(run.folder)
    same = [
        one for one in before if isinstance(one, Result) and one.settings.name == run.settings.name and one is not run
    ]
    return f"{run.settings.name} ({len(same) + 1})" if same else run.settings.name


def _rows(run: str | Path | Result, name: str, rank: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], bool]:
    """Returns the final rows of the networks of a run, those that a ranking needs, and whether the run diverged."""
    if not isinstance(run, Result):
        finals, summary = comparison.read(Path(run))[0], comparison.summary(Path(run))
        return finals, finished.at_marks(Path(run), finals, rank, False), summary.get("status") == "diverged"
    last = run.metrics.tail(len(sweep.points(run.settings)))  # of a run that has no summary yet
    finals = [{"run": name} | comparison.checked(row) for row in run.summary.get("networks") or last.to_dict("records")]
    rows = [{"run": name} | comparison.checked(row) for row in run.metrics.to_dict("records")]
    return finals, finals if rank == "final" else rows, run.summary.get("status") == "diverged"


def plot(*runs: str | Path | Result, out: str | Path | None = None) -> "Figure":
    """Returns the curves of runs in one picture: loss, accuracy, consensus and staleness against time.

    Example:
        >>> import batchednodes
        >>> run = batchednodes.train({"network.nodes": 3, "run.until": 2})
        >>> [axes.get_ylabel() for axes in batchednodes.plot(run).axes]
        ['test loss', 'consensus distance', 'staleness [updates]']

    Args:
        runs: folders of runs, or results.
        out: a new file, for example "curves.pdf", into which the picture is written, too.

    Raises:
        ValueError: there is no run, or a folder holds no metrics.
        OSError: there is a file of this name, or it cannot be written.
    """
    if not runs:
        raise ValueError("runs must be folders of runs, or results, got none")
    figure = plots.figure(*(run.drawn if isinstance(run, Result) else Path(run) for run in runs))
    bars.let_figures_show()
    if out is not None:
        with Path(out).open("xb") as file:
            figure.savefig(file, format=Path(out).suffix[1:] or "png")
    return figure


def race(
    source: Source | None = None,
    *overrides: Override,
    algorithms: str | Sequence[str] | Mapping[str, Mapping[str, Any]],
    seeds: int = 3,
    tune: str | None = None,
    budget: str = "time",
    by: str | None = None,
    rank: str = "final",
    model: Any = None,
    adapter: Any = None,
    data: Any = None,
    graph: Any = None,
    loss: Any = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Race:
    """Runs several algorithms on the same data, seeds, clocks and budget, and ranks them.

    Example:
        >>> import batchednodes
        >>> settings = {"network.nodes": 4, "run": {"until": 4, "mark_every": 4}}
        >>> algorithms = "gossip_sgd, fedavg(fraction=0.5)"
        >>> race = batchednodes.race(settings, algorithms=algorithms, seeds=2, tune="lr=0.01..1:4")
        >>> race.ranking[["rank", "algorithm", "local.lr", "tied_with"]].to_dict("records")[0]
        {'rank': 1, 'algorithm': 'fedavg(fraction=0.5)', 'local.lr': 0.215, 'tied_with': '2'}

    Args:
        source, overrides, model, adapter, data, graph, loss, progress: as in `train`.
        algorithms: names, or "name(option=value, ...)", in one text or a list; or settings of each entrant, in which it
            differs from the others, by a name of your own. An option with a dot is any setting by its full key.
        seeds: networks of each, with seeds seed, seed + 1, ...
        tune: a setting, and between which values the best one is looked for, "lr=1e-3..1"; on other seeds.
        budget: "time", "gradients" or "bytes": each entrant stops where it has spent what the config itself spends
            until run.until; or with an amount of a node, in the mean: "bytes=1e6".
        by: metric; "max:f1", "min:f1" where the name does not say which is better; None: accuracy_mean, or loss_mean
            where there are no labels.
        rank: its "final" value, the "best" one, or "to=0.9", what is spent until it is there.
        out: new folder; None: nothing is written. `batchednodes resume` goes on with a race that was killed.

    Raises:
        ValueError: as of `train`; or an algorithm cannot run in these surroundings. Nothing has been written then.
    """
    with own():
        chosen = config.load(source or {}, _with_objects(overrides, model, adapter, data, graph, loss))
        check_new(out)
        entry = Entry.of(chosen, algorithms, Rules(seeds, tune, budget, by, rank))
    with ExitStack() as stack:
        shown_ = stack.enter_context(bars.shown(progress, None))
        return races.start(entry, None if out is None else OutputFolder(Path(out)), shown_)


def _with_objects(
    overrides: Sequence[Override], model: Any, adapter: Any, data: Any, graph: Any, loss: Any
) -> list[Override]:
    """Returns overrides, before which objects stand as settings."""
    given = {"task.model": model, "task.model.adapter": adapter, "task.data": data}
    given |= {"network.topology": graph, "task.loss": loss}
    for one in overrides:
        if not isinstance(one, str | Mapping):
            raise ValueError(f"overrides must be texts key=value or mappings, got {shown(one)}")
    return [{key: value for key, value in given.items() if value is not None}, *overrides]
