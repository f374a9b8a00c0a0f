"""Local updates of networks against what anybody writes by hand: a Python loop over modules, each with its optimizer.

Notation: w rows of a wave, b examples of a minibatch.
"""

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from batchednodes.algorithms.waves import UpdateWave
from batchednodes.models.feed import Drawn
from batchednodes.numerics import devices
from batchednodes.numerics.tape import gpu
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.simulation.engine import Batched
from measure.networks import NETWORKS, Network
from measure.timing import Work, gathered, interleaved, ratios, spread
from measure.workloads import built

SAMPLES = 32
"""Examples that each node owns, but where that would be more numbers than"""

NUMBERS = 1 << 28
"""of all data."""

ONE_BY_ONE = 30
"""Rows of the Python loop on another device than the CPU, where it is slow whatever there is to compute."""

BY_HAND = 1 << 26
"""Parameters of the models that the step by hand updates at once there."""


@contextmanager
def settings(network: Network, compile: str, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Gives settings of as many nodes as rows, with random data in a temporary file, of a run long enough to trace."""
    draw, n = np.random.default_rng(0), network.rows
    samples = max(1, min(SAMPLES, NUMBERS // (n * math.prod(network.features))))
    shape = n * samples, *network.features
    if network.tokens is None:
        features, targets = draw.standard_normal(shape, np.float32), draw.integers(0, 10, n * samples)
        targets[:10] = np.arange(10)
    else:
        features = draw.integers(0, network.tokens, shape)
        targets = np.roll(features, -1, 1)
        targets.flat[: network.tokens] = np.arange(network.tokens)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, features=features, targets=targets, test_features=features[:8], test_targets=targets[:8])
        yield {
            "network": {"nodes": n},
            "device": device,
            "local": {"batch_size": network.batch, "lr": 0.01, "compile": compile},
            "task": {
                "data": {"kind": "npz", "path": str(path)},
                "model": {"kind": "python", "target": f"measure.networks:{network.make}"},
            },
            "run": {"until": 1e4, "eval_nodes": 1},
            "staleness": {"track": "none"},
        }


def given(source: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns features and targets as they are in the file."""
    with np.load(source["task"]["data"]["path"]) as file:
        return torch.from_numpy(file["features"]), torch.from_numpy(file["targets"])


def updates(run: Simulation, index: np.ndarray) -> Work:
    """Returns one wave of updates of all rows, on minibatches that were drawn ahead."""
    assert isinstance(run.engine.executor, Batched)
    n = run.state.x.shape[0]
    nodes, times = np.arange(n), np.zeros(n)
    wave = UpdateWave(nodes, np.zeros(n, np.int64), times)
    *parts, drawn = (torch.from_numpy(part).to(run.state.x.device) for part in (nodes, nodes, times, index))
    return partial(run.engine.executor.algorithm.update_, run.state, wave, *parts, Drawn(drawn))


class Loop:
    """The same updates by one module and one optimizer a row."""

    def __init__(self, run: Simulation, index: torch.Tensor, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Makes the modules; index: of the examples of each [k, 1, b], among all features and targets."""
        self.index, self.features, self.targets = index, features, targets
        self.modules = [run.problem.stack.module(row) for row in run.state.x[: len(index)]]
        trained = [[w for w in module.parameters() if w.requires_grad] for module in self.modules]
        self.optimizers = [torch.optim.SGD(parameters, lr=0.01) for parameters in trained]

    def work(self) -> None:
        """Makes an update of each."""
        for module, optimizer, examples in zip(self.modules, self.optimizers, self.index[:, 0], strict=True):
            optimizer.zero_grad()
            features, targets = self.features[examples], self.targets[examples]
            F.cross_entropy(module(features).flatten(0, -2), targets.flatten()).backward()
            optimizer.step()


class Stacked:
    """The same updates by one vmapped step that is written by hand, on parameters that are stacked by hand."""

    def __init__(self, run: Simulation, index: torch.Tensor, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Stacks the models; index: of the examples of each [w, 1, b], among all features and targets."""
        self.index, self.features, self.targets = index, features, targets
        module, w = run.problem.stack.module(run.state.x[0]), len(index)
        trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.rows = max(1, BY_HAND // sum(value.numel() for value in trained.values()))
        self.models = {name: value.detach().expand(w, *value.shape).clone() for name, value in trained.items()}

        def loss(own: dict[str, torch.Tensor], inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(functional_call(module, own, (inputs,)).flatten(0, -2), labels.flatten())

        self.gradient = vmap(grad(loss))

    def work(self) -> None:
        """Makes an update of each."""
        for first in range(0, len(self.index), self.rows):
            part = slice(first, first + self.rows)
            own, examples = {name: value[part] for name, value in self.models.items()}, self.index[part, 0]
            for name, slope in self.gradient(own, self.features[examples], self.targets[examples]).items():
                own[name].sub_(slope, alpha=0.01)


def operations(work: Work) -> float:
    """Returns the floating-point operations of some work's products and convolutions."""
    plain = sdpa_kernel(SDPBackend.MATH)  # in one kernel, products of attention count in part, or not at all
    with plain, torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:  # LSTM likewise
        work()
    return float(counter.get_total_flops())


def processor_seconds(work: Work, least: float = 0.05) -> float:
    """Returns the processor time of some work [s], done as often as it takes to measure it."""
    times = 0
    begun = now = time.process_time()
    while now - begun < least:
        work()
        times, now = times + 1, time.process_time()
    return (now - begun) / times


def models(name: str, repeats: int, ways: tuple[str, ...] = ("auto",)) -> dict[str, Any]:
    """Returns updates by the package over those by a Python loop, on one thread of the CPU, by processor time.

    Args:
        name: of the network.
        repeats: interleaved pairs.
        ways: values of `local.compile`.
    """
    network, works, runs, threads = NETWORKS[name], dict[str, Work](), list[Simulation](), torch.get_num_threads()
    torch.set_num_threads(1)
    for way in ways:
        with settings(network, way) as source:
            runs.append(built(source))
    with settings(network, "off") as source:  # the same data as of each
        data = given(source)
    index = runs[0].problem.sampler.draw(np.arange(network.rows), np.zeros(network.rows, np.int64))
    works |= {way: updates(run, index) for way, run in zip(ways, runs, strict=True)}
    works["loop"] = Loop(runs[0], torch.from_numpy(index), *data).work
    a, c = torch.randn(2, 1024, 1024)
    out, counted = torch.empty_like(a), operations(works["loop"])
    works["product"] = lambda: torch.mm(a, c, out=out)
    times = gathered({key: partial(processor_seconds, work) for key, work in works.items()}, repeats)
    torch.set_num_threads(threads)
    found = {"updates by a Python loop, rows/s": spread([network.rows / t for t in times["loop"]])}
    for way in ways:
        found[f"updates ({way}) over a Python loop"] = ratios(times["loop"], times[way])
        share = [counted / 2.0 / 1024**3 * p / t for p, t in zip(times["product"], times[way], strict=True)]
        found[f"updates ({way}), share of the peak of products"] = spread(share)
    return found


def one_kernel(run: Simulation) -> bool:
    """Returns whether one kernel makes all updates of a wave."""
    assert isinstance(run.engine.executor, Batched)
    return run.engine.executor.algorithm.descent.tape is not None


def by_graphs(source: dict[str, Any]) -> Simulation:
    """Returns a run whose updates are CUDA graphs, not one kernel."""
    most, gpu.LARGEST = gpu.LARGEST, -1
    try:
        return built(source)
    finally:
        gpu.LARGEST = most


def on_device(name: str, n: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns updates of a wave by the package, of n / 8 of n nodes, over those by other ways and by the limit.

    Args:
        name: of the network.
        n: nodes of the run that such a wave would be of.
        device: other than the CPU, where `models` measures.
        repeats: interleaved rounds.
    """
    network = replace(NETWORKS[name], rows=max(1, n // 8))
    with settings(network, "auto", str(device).replace(devices.CUDA, "cuda")) as source:
        run, data = built(source), [part.to(device) for part in given(source)]
        graphs = by_graphs(source)
    drawn = run.problem.sampler.draw(np.arange(network.rows), np.zeros(network.rows, np.int64))
    index = torch.from_numpy(drawn).to(device)
    some, size = index[:ONE_BY_ONE], 1024 if n < 1000 else 8192
    loop, stacked = Loop(run, some, *data), Stacked(run, index, *data)
    a, c = torch.randn(2, size, size, device=device)
    out = torch.empty_like(a)
    works: dict[str, Work] = {"package": updates(run, drawn), "by hand": stacked.work, "loop": loop.work}
    works["product"] = lambda: torch.mm(a, c, out=out)
    if one_kernel(run):
        works["graphs"] = updates(graphs, drawn)
    times = interleaved(works, repeats, device)
    each = {key: [network.rows / t for t in times[key]] for key in ("package", "by hand")}
    each["loop"] = [len(some) / t for t in times["loop"]]
    with settings(replace(network, rows=1), "off") as source:
        one = built(source)
        counted = operations(Loop(one, torch.from_numpy(drawn[:1] % SAMPLES), *given(source)).work)
    most = [2.0 * size**3 / t for t in times["product"]]
    kernel = (
        {"updates by one kernel over CUDA graphs": ratios(times["graphs"], times["package"])}
        if "graphs" in times
        else {}
    )
    return kernel | {
        "updates in a wave, rows/s": spread(each["package"]),
        "updates over a vmapped step by hand": ratios(each["package"], each["by hand"]),
        "updates over a Python loop": ratios(each["package"], each["loop"]),
        "updates, share of the peak of products": ratios([counted * r for r in each["package"]], most),
    }
