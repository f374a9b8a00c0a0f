"""Trains a module as a run does, batched and one event at a time, and scores it."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from batchednodes.algorithms.fields import Field
from batchednodes.algorithms.local_sgd import LocalSGD
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.algorithms.reference import Reference
from batchednodes.algorithms.state import begin
from batchednodes.algorithms.versions import Layout
from batchednodes.data import Sampler
from batchednodes.models.losses import choose
from batchednodes.models.problem import Problem, Tests
from batchednodes.models.stacked import Stack
from batchednodes.models.trial import Trial

NODES, EXAMPLES, STEPS, BATCH = 3, 5, 2, 4
CPU = torch.device("cpu")


def posed(module: nn.Module, features: Tensor, targets: Tensor) -> Problem:
    """Returns the task of some nodes with a module, once it has been tried."""
    dtype = features.dtype
    local, rows = np.arange(NODES), np.arange(NODES * EXAMPLES)
    offsets = np.arange(NODES + 1) * EXAMPLES
    sampler = Sampler(np.full(NODES, 7, np.uint64), local, rows, offsets, BATCH, STEPS, "shuffle")
    tests = (Tests(np.zeros(1, np.int64), features[None, :BATCH], targets[None, :BATCH]),)
    stack = Stack.of(module, dtype, CPU)
    problem = Problem(stack, choose("auto", None), None, features, targets, tests, sampler)
    ways = Trial(problem, features[:BATCH], targets[:BATCH]).ways()
    return replace(problem, stack=replace(stack, ways=ways), sampler=replace(sampler, keyed=ways.draws))


def rates(problem: Problem, momentum: float = 0.5) -> Hyperparameters:
    """Returns the step sizes of all nodes."""
    some = torch.linspace(0.01, 0.03, NODES, dtype=problem.stack.dtype)
    return Hyperparameters(some, torch.full_like(some, momentum), None, False)


def batched(problem: Problem, x: Tensor, updates: int = 2, compiled: bool = False) -> Tensor:
    """Returns the models after some updates of each node, all nodes at once."""
    x, some = x.clone(), rates(problem)
    v = torch.zeros_like(x)
    descent = LocalSGD.of(
        problem.objective,
        problem.stack.views,
        some,
        problem.features,
        problem.targets,
        keyed=problem.sampler.keyed,
        kept=tuple(problem.stack.kept),
    )
    if compiled:
        descent = descent.traced(x.shape[1], BATCH, some, compiled=False)
    for k in range(updates):
        descent.run_(x, v, problem.draw(np.arange(NODES), np.full(NODES, k)), some)
    return x


def serial(problem: Problem, x: Tensor, updates: int = 2) -> Tensor:
    """Returns the same, one update after the other."""
    layout = Layout.of([NODES], [0], CPU)
    state = begin(x.clone(), layout.zeros(torch.int16), NODES, {"v": Field(travels=True)})
    none = torch.full((NODES,), -1)
    algorithm = Reference(problem, rates(problem), torch.zeros(NODES), layout, none)
    for k in range(updates):
        for i in range(NODES):
            row, _ = algorithm.trained(state, state.x[i], i, i, k, 0.0)
            state.x[i] = row
    return state.x


def plain(problem: Problem, x: Tensor, updates: int = 2) -> Tensor:
    """Returns the same, by PyTorch alone."""
    rows = []
    for i in range(NODES):
        module = problem.stack.module(x[i])
        some = rates(problem)
        trained = [w for w in module.parameters() if w.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=float(some.lr[i]), momentum=float(some.momentum[i]))
        for k in range(updates):
            for entries in problem.draw(np.array([i]), np.array([k]))[0]:
                features, targets = problem.batch(entries)
                optimizer.zero_grad()
                problem.criterion.mean(module(features), targets).backward()
                optimizer.step()
        rows.append(problem.stack.row(module))
    return torch.stack(rows)


def scored(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the test losses of some models, and those that PyTorch alone gives in evaluation mode."""
    with torch.no_grad():
        tests = problem.tests[0]
        modules = [problem.stack.module(row).eval() for row in x]
        alone = [problem.criterion.mean(m(tests.features[0]), tests.targets[0]) for m in modules]
        return problem.scores(x.unsqueeze(0), tests)[0][0], torch.stack(alone)
