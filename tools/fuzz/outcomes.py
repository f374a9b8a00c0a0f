"""Outcomes: how a case ends, batched and one event at a time, and what is wrong with that."""

import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from batchednodes import Result, load, train
from batchednodes.config import Config, sweep
from batchednodes.simulation.build import datasets
from batchednodes.simulation.planning import memory_plan
from fuzz import data as sets
from fuzz.cases import HOST_ONLY, Case

TOLERANCE = {"float64": 1e-10, "float32": 2e-4, "bfloat16": 0.2}
"""How far models may differ, relative to the largest number in them: sums in another order, over dozens of updates; in
float64 a million units in the last place, since layers amplify rounding."""

GROWN = 1e3
"""Size of a number in models above which they have run away, and rounding with them: they are then not compared."""

LONG = 2000
"""The most characters of a message."""

_OWN = re.compile(r"^(task|local|network|run|gossip|update|staleness)\b")
"""How warnings, and refusals, of the package begin."""

_KNOWN = re.compile(
    r"^(task|local|network|run|gossip|update|staleness|dtype|sweep|replicas|unknown key|the (loss|run))\b"
)


@dataclass(frozen=True)
class Outcome:
    """How one run ended."""

    result: Result | None = None
    """What it left; None: it was refused, or failed."""
    error: BaseException | None = None
    """How it was refused, or failed."""
    warned: tuple[str, ...] = ()
    """Warnings."""
    left: tuple[str, ...] = ()
    """Files of a run that was refused."""

    @property
    def rule(self) -> str:
        """What became of the run: "trained", or the rule by which it was refused, or how it failed."""
        if self.error is None:
            return "trained"
        words = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "N", re.split(r", got\b|, where\b|; ", str(self.error))[0])
        return words if isinstance(self.error, ValueError) else f"{type(self.error).__name__}: {words}"


@dataclass
class Verdict:
    """What a case came to."""

    rule: str
    """See `Outcome.rule`; of the batched run."""
    wrong: list[str] = field(default_factory=list)
    """What is wrong, each beginning with a word that names its kind."""

    @property
    def kind(self) -> str:
        """Names of what is wrong."""
        return ", ".join(sorted({words.split(":")[0] for words in self.wrong}))


def judged(case: Case) -> Verdict:
    """Runs a case batched and one event at a time, and says what is wrong."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        np.savez(folder / "d.npz", **sets.arrays(case.data))
        batched, serial = (run(case, folder, executor) for executor in ("batched", "serial"))
        verdict = Verdict(batched.rule)
        for executor, outcome in (("batched", batched), ("serial", serial)):
            verdict.wrong += [f"{words} ({executor})" for words in _faults(outcome)]
        verdict.wrong += _differences(case, batched, serial)
        if case.is_sound and batched.error is not None and isinstance(batched.error, ValueError):
            verdict.wrong.append(f"refused: {batched.error}")
        if not verdict.wrong and batched.result is not None:
            verdict.wrong += _misscored(case, folder, batched.result)
    return verdict


def config(case: Case, folder: Path, executor: str) -> Config:
    """Returns the settings of a case."""
    settings = [s for s in case.settings if executor == "batched" or not s.startswith(HOST_ONLY)]
    model = {"kind": "python", "target": "fuzz.network:build", "args": case.network}
    task = {"data": {"kind": "npz", "path": str(folder / "d.npz")}, "model": model}
    return load({"task": task, "executor": executor, "run": {"threads": 1}}, settings)


def run(case: Case, folder: Path, executor: str) -> Outcome:
    """Returns how a case ends."""
    out = folder / "out" if case.files and executor == "batched" else None
    before = set(os.listdir(folder))
    with warnings.catch_warnings(record=True) as told, _traced(case.traced):
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # of a file that a random module holds
        try:
            made = Outcome(train(config(case, folder, executor), out=out))
        except (Exception, SystemExit) as error:
            made = Outcome(error=error)
    left = set(os.listdir(folder)) - before if made.error is not None else set()
    return Outcome(made.result, made.error, tuple(dict.fromkeys(str(w.message) for w in told)), tuple(left))


@contextmanager
def _traced(short: bool) -> Iterator[None]:
    """Lets short runs, too, use tapes and programs."""
    before = memory_plan._PROGRAMS
    memory_plan._PROGRAMS = 0 if short else before
    try:
        yield
    finally:
        memory_plan._PROGRAMS = before


def _faults(outcome: Outcome) -> list[str]:
    """Returns what is wrong with one run."""
    found, error = [], outcome.error
    said = str(error)
    if error is not None and not isinstance(error, ValueError):
        found.append(f"traceback: {type(error).__name__}: {said[:300]}")
    elif error is not None and (len(said) > LONG or "\n" in said or not _KNOWN.match(said)):
        found.append(f"message: {said[:300]!r}")
    found += [f"warning: {words[:300]!r}" for words in outcome.warned if not _OWN.match(words)]
    if outcome.left and not said.startswith("the loss or the model"):
        found.append(f"files: {outcome.left} after {said[:100]!r}")
    return found


def _differences(case: Case, batched: Outcome, serial: Outcome) -> list[str]:
    """Returns what differs between the two runs."""
    a, b = batched.result, serial.result
    if a is None or b is None:
        if batched.rule == serial.rule:
            return []
        said = [str(outcome.error)[:200] if outcome.error else "trained" for outcome in (batched, serial)]
        return [f"ends differ: batched {said[0]!r}, serial {said[1]!r}"]
    found = [] if all(torch.equal(x, y) for x, y in zip(a.tables, b.tables, strict=True)) else ["versions differ"]
    dtype = next((s.removeprefix("dtype=") for s in case.settings if s.startswith("dtype=")), "float32")
    if case.jumps and dtype != "float64":
        return found
    return found + _far(a, b, TOLERANCE[dtype], dtype == "float64")


def _far(a: Result, b: Result, tolerance: float, exact: bool) -> list[str]:
    """Returns what differs by more than a tolerance between models, losses and accuracies."""
    x, y = a.x.double(), b.x.double()
    sizes = [float(one.nan_to_num(math.inf).abs().max()) for one in (x, y)]
    if min(sizes) > GROWN:
        return []
    error = float((x - y).nan_to_num(math.inf).abs().max()) / max(*sizes, 1e-3)
    found = [f"models differ: by {error:.2g}"] if error > tolerance else []
    for name in a.metrics.columns:
        if name.startswith("loss_") or (exact and name.startswith("accuracy_")):
            left, right = (r.metrics[name].to_numpy(dtype=float, na_value=math.nan) for r in (a, b))
            if not np.allclose(left, right, 100 * tolerance, 100 * tolerance, equal_nan=True):
                found.append(f"metrics differ: {name} {left[-1]:.6g} and {right[-1]:.6g}")
    return found


def _misscored(case: Case, folder: Path, result: Result) -> list[str]:
    """Returns where the last losses and accuracies are not those of the models by themselves, one after the other."""
    point = sweep.points(config(case, folder, "batched"))[0].config
    skipped = point.dtype == "bfloat16" or point.run.eval_nodes or point.run.on_divergence == "quarantine" or case.jumps
    if skipped or not result.x.isfinite().all() or float(result.x.abs().max()) > GROWN:
        return []
    test = datasets.split(point)[0]
    targets = torch.from_numpy(test.test_targets)
    row = result.metrics[result.metrics["network"] == 0].iloc[-1]
    tolerance = 100 * TOLERANCE[point.dtype]
    try:
        outputs = [_outputs(result, i, test.test_features) for i in range(point.network.nodes)]
    except Exception as error:
        return [f"module: of a node raises {type(error).__name__}: {str(error)[:200]}"]
    if not torch.equal(outputs[0], _outputs(result, 0, test.test_features)):
        return []  # dropout that is never off, which a module by itself draws from a generator
    found, seen = [], [_scores(y, targets, point.task.loss) for y in outputs]
    for name, column in (("loss_mean", 0), ("accuracy_mean", 1)):
        wanted = np.mean([score[column] for score in seen])
        got = float(row[name]) if row.get(name) is not None else math.nan
        if not np.isclose(got, wanted, tolerance, tolerance, equal_nan=True):
            found.append(f"score: {name} {got:.6g}, but of modules {wanted:.6g}")
    return found


def _outputs(result: Result, i: int, features: np.ndarray) -> Tensor:
    """Returns what the module of one node puts out by itself."""
    module, x, dtype = result.model(i).eval(), torch.from_numpy(features), result.x.dtype
    torch.backends.mha.set_fastpath_enabled(False)  # which gives NaN where a token sees none, unlike the other path
    with torch.no_grad():
        try:
            return module(x.to(dtype) if x.is_floating_point() else x)
        except Exception:  # of a module that takes real numbers only
            return module(x.to(dtype))


def _scores(y: Tensor, targets: Tensor, loss: str) -> tuple[float, float]:
    """Returns loss and accuracy of some outputs."""
    if targets.is_floating_point():
        return float(F.mse_loss(y, targets.to(y))), math.nan
    hit = float((y.argmax(-1) == targets).double().mean())
    if loss == "mse":
        return float(F.mse_loss(y, F.one_hot(targets, y.shape[-1]).to(y))), hit
    return float(F.cross_entropy(y.flatten(0, -2), targets.flatten())), hit
