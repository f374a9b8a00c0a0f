r"""A kit that checks any algorithm: on random networks, events, delays and losses, by what must hold of all of them.

    from batchednodes.simulation.check import assert_sound

    def test_my_algorithm():
        assert_sound("mine.algorithms:SlowAverage", {"pull": 0.2})

`batchednodes check mine.algorithms:SlowAverage` does the same. What fails is named with the smallest case found.

Notation: n nodes, t time [s].
"""

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchednodes.algorithms.base import Algorithm
from batchednodes.algorithms.one_by_one import OneByOne
from batchednodes.algorithms.rowwise import Rowwise
from batchednodes.algorithms.waves import Waves
from batchednodes.config import Config, load, to_dict
from batchednodes.events.timeline import UPDATE
from batchednodes.simulation import training
from batchednodes.simulation.build import assembly
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.simulation.engine import Batched, Serial, Unobserved
from batchednodes.simulation.planning.plan import plan

NEAR = 1e-9
"""Relative difference up to which numbers in float64 count as equal: sums in another order, a few thousand of them."""

_PLAIN: dict[str, Any] = {
    "dtype": "float64",
    "task": {"data": {"features": 3, "samples_per_node": 4, "test_samples": 4}},
    "local": {"batch_size": 2, "lr": 0.05},
    "gossip": {"clock": {"rate": 2}},
    "run": {"mark_every": 1.0},
    "staleness": {"track": "none"},
}


@dataclass(frozen=True)
class Failure:
    """Something that does not hold."""

    what: str
    """The rule that is broken."""
    how: str
    """What was found."""
    case: dict[str, Any]
    """Settings of the smallest case that was found."""

    def __str__(self) -> str:
        """Returns all of it in a few lines."""
        settings = " ".join(f"{key}={value}" for key, value in self.case.items())
        return f"{self.what}: {self.how}\n  smallest case found: {settings}"


def check(target: str, args: Mapping[str, Any] | None = None, cases: int = 12, seed: int = 0) -> list[Failure]:
    """Returns what does not hold of an algorithm; nothing, if all does.

    Args:
        target: of its class, as "module:Class", or a built-in kind.
        args: its settings.
        cases: random cases to try; at least 1.
        seed: of the cases.

    Raises:
        ValueError: the target cannot be used at all.
    """
    kind = {"kind": "python", "target": target, "args": {**(args or {})}}
    algorithm = kind if ":" in target else {"kind": target, **(args or {})}
    found, draw = dict[str, Failure](), np.random.default_rng(seed)
    with_timing = {"kind": "synchronous"}
    probe = _algorithm(algorithm, with_timing)
    for case in itertools.islice(_cases(type(probe), probe.shape(), draw), cases):
        for rule, holds in RULES.items():
            if rule in found:
                continue
            how = _tried(holds, _config(algorithm, case))
            if how is not None:
                found[rule] = _smallest(rule, holds, algorithm, case, how)
    return list(found.values())


def assert_sound(target: str, args: Mapping[str, Any] | None = None, cases: int = 12, seed: int = 0) -> None:
    """Raises AssertionError, with what fails and the smallest case found, unless all holds; arguments: of `check`.

    Example:
        >>> from batchednodes.simulation.check import assert_sound
        >>> assert_sound("push_sum", cases=1)  # a test of an algorithm; "mine.py:Mine" is one of your own
    """
    failures = check(target, args, cases, seed)
    assert not failures, "\n".join(map(str, failures))


# ------------------------------------------------------------------------------------------------------------- cases


def _algorithm(algorithm: dict[str, Any], timing: dict[str, Any]) -> Algorithm:
    """Returns an algorithm, made wherever it is sound."""
    before, after = ({"gossip.clock": {"kind": "at_update", "order": order}} for order in ("before", "after"))
    for options in ({}, _MEET, _MEET | before, _MEET | after, {"gossip.clock": _TO_ALL}, {"timing": timing}):
        try:
            return _config(algorithm, options).method
        except ValueError as error:
            last = error
    raise last


_MEET = {"gossip.exchange": "meet"}
_TO_ALL = {"kind": "at_update", "order": "after", "peers": "all"}
_DELAYS = ({"kind": "none"}, {"kind": "uniform", "low": 0.1, "high": 1.5}, {"kind": "exponential", "mean": 0.5})
_LOSSES = ({"kind": "none"}, {"kind": "independent", "probability": 0.3})
_GRAPHS = {
    "any": ("complete", "ring", "star", "erdos_renyi"),
    "tree": ("chain", "star", "binary_tree"),
    "two_trees": ("double_binary_tree",),
    "star": ("star",),
}


def _cases(algorithm: type[Algorithm], shape: str, draw: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yields settings of random cases in which an algorithm says that it is sound."""
    turns, own = itertools.cycle(algorithm.timing), algorithm.has_own_rounds()
    while True:
        case: dict[str, Any] = {
            "network.nodes": int(draw.integers(2, 9)),
            "network.topology.kind": str(draw.choice(_GRAPHS[shape])),
            "seed": int(draw.integers(1 << 20)),
            "run.until": float(draw.integers(2, 6)),
        }
        if case["network.topology.kind"] == "erdos_renyi":
            case["network.topology.probability"] = 0.5
        if next(turns) == "rounds":
            case["timing"] = {"kind": "synchronous"}
            if case["network.topology.kind"] != "complete" and algorithm.mixing != "column" and not own:
                case["network.weights.kind"] = "metropolis_hastings"
                if algorithm.least_eigenvalue > -1:  # of at most 7 neighbours each has less than half of what is left
                    case |= {"network.weights.kind": "constant", "network.weights.value": 0.09}
            yield case
            continue
        if algorithm.contact == "to_all":
            case["gossip.clock"] = _TO_ALL
        elif algorithm.contact != "any":
            order = "after" if algorithm.contact == "after_update" else "before"
            case["gossip.clock"] = {"kind": "at_update", "order": order}
        elif draw.random() < 0.2:
            case["gossip.clock"] = {"kind": "at_update", "order": "after"}
        takes = algorithm.occupies_sender() and not algorithm.linear()
        exchanges = ["push", "meet"] if takes else ["push", "pull", "meet"]
        exchange = "push" if algorithm.mixing == "column" else str(draw.choice(exchanges))
        meets = algorithm.mixing == "double" or algorithm.contact == "after_update"
        case["gossip.exchange"] = "meet" if meets else exchange
        if case["gossip.exchange"] != "meet" and not takes and not _sends_edges(algorithm):
            case["gossip.delay"] = _DELAYS[draw.integers(len(_DELAYS))]
        if case["gossip.exchange"] == "meet" or not takes:
            case["gossip.loss"] = _LOSSES[draw.integers(len(_LOSSES))]
        yield case


def _sends_edges(algorithm: type[Algorithm]) -> bool:
    return bool(algorithm.living("edge")) and algorithm.emit_ is not Algorithm.emit_


def _config(algorithm: dict[str, Any], case: dict[str, Any]) -> Config:
    clock = case.get("gossip.clock", {"rate": 2})
    base = _PLAIN | ({"gossip": {}} if "timing" in case else {"gossip": {"clock": clock}})
    rest = {key: value for key, value in case.items() if key != "gossip.clock"}
    return load(base, [{"algorithm": algorithm}, rest])


def _tried(holds: Callable[[Config], str | None], config: Config) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # graphs that are not connected are sound, too
            return holds(config)
    except Exception as error:  # whatever the user's methods raise
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _smallest(rule: str, holds: Callable, algorithm: dict[str, Any], case: dict[str, Any], how: str) -> Failure:
    """Returns a failure with settings from which nothing more can be left out."""
    going = True
    while going:
        going = False
        for smaller in _smaller(case):
            try:
                config = _config(algorithm, smaller)
                assembly.timeline([config])
            except (ValueError, UserWarning):  # settings that do not fit, or a graph that is not connected
                continue
            found = _tried(holds, config)
            if found is not None:
                case, how, going = smaller, found, True
                break
    return Failure(rule, how, case)


def _smaller(case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields settings with less in them."""
    for key in ("gossip.delay", "gossip.loss", "network.topology.probability", "network.weights"):
        fewer = {name: value for name, value in case.items() if not name.startswith(key)}
        if fewer != case:
            yield fewer
    if case["network.topology.kind"] != "complete":
        kept = {name: value for name, value in case.items() if not name.startswith("network.topology")}
        yield kept | {"network.topology.kind": "complete"}
    for key, least in (("network.nodes", 2), ("run.until", 1.0)):
        if case[key] > least:
            yield case | {key: type(least)(max(least, case[key] // 2))}
            yield case | {key: case[key] - 1}


# ------------------------------------------------------------------------------------------------------------- rules


def _run(config: Config, executor: str = "batched", independent: bool = False) -> Simulation:
    """Returns a run that is ready to begin."""
    config = replace(config, executor=executor)
    events = assembly.timeline([config])
    run = assembly.assemble([config], events, plan([config], events).chunks)
    if executor == "batched":
        return run
    algorithm = run.engine.executor.algorithm
    if isinstance(algorithm, OneByOne):
        own = Serial(replace(algorithm, independent=independent))
        return replace(run, engine=replace(run.engine, executor=own))
    return run


def _rowwise(run: Simulation) -> Rowwise:
    algorithm = run.engine.executor.algorithm
    assert isinstance(algorithm, Waves | OneByOne)
    return algorithm.rowwise


def _ended(run: Simulation) -> Simulation:
    run.engine.run_(run.state, run.engine.begin(), Unobserved())
    return run


def _apart(a: Simulation, b: Simulation) -> str | None:
    """Returns in what two runs that should be alike are not; rows of messages that are not under way do not count."""
    for name, mine in a.state.tensors().items():
        theirs = b.state.tensors()[name]
        size = a.state.nodes if mine.ndim == 2 and name not in a.state.on_edges else len(mine)
        mine, theirs = mine[:size].double(), theirs[:size].double()
        scale = max(1.0, float(mine.abs().nan_to_num(0.0, 0.0, 0.0).max())) if mine.numel() else 1.0
        if not torch.allclose(mine, theirs, rtol=0.0, atol=NEAR * scale, equal_nan=True):
            return f"{name} differs by {float((mine - theirs).abs().nan_to_num(torch.inf).max()):.3g}"
    return None


def _waves(config: Config) -> str | None:
    return _apart(_ended(_run(config)), _ended(_run(config, "serial")))


def _independent(config: Config) -> str | None:
    if not hasattr(config.method, "event_"):
        return None
    return _apart(_ended(_run(config)), _ended(_run(config, "serial", independent=True)))


def _others(config: Config) -> str | None:
    """Lets all rows update at once, then with all but one of them made NaN."""
    run = _ended(_run(config))
    rowwise, n = _rowwise(run), run.state.nodes
    nodes, times = torch.arange(n), torch.full((n,), 7.0, dtype=torch.float64)
    owners = None if rowwise.edges is None else rowwise.edges.keys // n
    counts = torch.full((n,), 3)
    examples = run.problem.draw(np.arange(n), np.full(n, 3))
    whole, _ = rowwise.updated(run.state, nodes, nodes, times, counts, examples)
    kept = {name: tensor.clone() for name, tensor in run.state.tensors().items()}
    for i in range(n):
        for name, tensor in run.state.tensors().items():
            if name not in ("versions", "updated", "gained", "diverged_at") and tensor.is_floating_point():
                owner = owners if name in run.state.on_edges else None
                tensor[(torch.arange(len(tensor)) if owner is None else owner) != i] = torch.nan
        alone, _ = rowwise.updated(run.state, nodes, nodes, times, counts, examples)
        for name, tensor in run.state.tensors().items():
            tensor.copy_(kept[name])
        for name, value in whole.items():
            if not torch.allclose(value[i].double(), alone[name][i].double(), rtol=NEAR, atol=NEAR):
                return f"{name} of node {i} depends on the rows of other nodes"
    return None


def _laws(config: Config) -> str | None:
    """Runs one event at a time; a mixing must keep what each law says."""
    run = _run(config, "serial")
    algorithm = run.engine.executor.algorithm
    if not isinstance(algorithm, OneByOne) or not type(config.method).laws:
        return None
    events, _ = run.engine.timeline.window(run.engine.begin().clocks, config.run.until)
    for k in range(len(events)):
        before = _said(algorithm.rowwise, run)
        algorithm.event_(run.state, events, k)
        after = _said(algorithm.rowwise, run)
        for name in before if events.kind[k] != UPDATE else ():
            scale = max(1.0, float(before[name].abs().max()))
            if not torch.allclose(before[name], after[name], rtol=0.0, atol=1e-12 * scale):
                off = float((before[name] - after[name]).abs().max())
                return f"the law {name!r} is off by {off:.3g} after a mixing at t = {events.time[k]:g}"
    return None


def _said(rowwise: Rowwise, run: Simulation) -> dict[str, torch.Tensor]:
    """Returns what each law says."""
    held = rowwise.held(run.state)
    return {name: law(held).clone() for name, law in rowwise.algorithm.laws.items()}


def _equal(config: Config) -> str | None:
    """Mixes models that are equal, and have not been trained: they must stay as they are."""
    if isinstance(config.timing, type(load({}).timing)):
        config = load(to_dict(config), [{"update.clock": {"kind": "never"}}])
        if type(config.method).contact != "any":
            return None
    else:
        config = load(to_dict(config), ["local.lr=0"])
    run = _run(config)
    run.state.x[: run.state.nodes] = run.state.x[0].clone()
    before = run.evaluator.held(run.state).x.clone()
    after = _ended(run).evaluator.held(run.state).x
    if torch.allclose(before, after, rtol=NEAR, atol=NEAR):
        return None
    return f"equal models move by {float((before - after).abs().max()):.3g} when they are mixed"


def _resumed(config: Config) -> str | None:
    """Stops a run after its first half, lets it go on from its files, and compares it with one that did not stop."""
    with tempfile.TemporaryDirectory() as place:
        stopped, whole = Path(place) / "stopped", Path(place) / "whole"
        half = load(to_dict(config), [f"run.until={max(1.0, config.run.until // 2)}"])
        training.train(half, out=stopped)
        end = training.resume(stopped, f"run.until={config.run.until}")
        other = training.train(config, out=whole)
        if torch.equal(end.x, other.x) or not torch.isfinite(other.x).all():
            return None
        return f"models differ by {float((end.x - other.x).abs().max()):.3g} after a run that stopped and went on"


def _drift(config: Config) -> str | None:
    """Mixes for a long time without training: sums in float64 must not wander away."""
    config = load(to_dict(config), ["local.lr=0", f"run.until={40 * config.run.until}", "run.mark_every=1000"])
    run = _run(config)
    if not isinstance(run.engine.executor, Batched) or not type(config.method).laws:
        return None
    before = _said(_rowwise(run), run)
    after = _said(_rowwise(_ended(run)), run)
    for name in before:
        scale = max(1.0, float(before[name].abs().max()))
        if "g" not in config.method.fields and not torch.allclose(
            before[name], after[name], rtol=0.0, atol=NEAR * scale
        ):
            return f"the law {name!r} is off by {float((before[name] - after[name]).abs().max()):.3g} after a long time"
    return None


RULES: dict[str, Callable[[Config], str | None]] = {
    "waves equal one event at a time": _waves,
    "waves equal the algorithm's own form of an event": _independent,
    "a row depends on nothing but itself": _others,
    "mixing keeps what the laws say": _laws,
    "equal models stay equal": _equal,
    "a run that stops goes on bit for bit": _resumed,
    "sums do not drift": _drift,
}
"""What must hold of an algorithm in every case."""
