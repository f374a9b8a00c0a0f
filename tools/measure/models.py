"""Local updates of networks against what anybody writes by hand: a Python loop over modules, each with its optimizer.

Notation: w rows of a wave, b examples of a minibatch.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from batchednodes.algorithms.waves import UpdateWave
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.simulation.engine import Batched
from measure.networks import NETWORKS, Network
from measure.timing import Work, gathered, ratios, spread
from measure.workloads import built

SAMPLES = 32
"""Examples that each node owns."""


@contextmanager
def settings(network: Network, compile: str) -> Iterator[dict[str, Any]]:
    """Gives settings of as many nodes as rows, with random data in a temporary file, of a run long enough to trace."""
    draw, n = np.random.default_rng(0), network.rows
    shape = n * SAMPLES, *network.features
    if network.tokens is None:
        features, targets = draw.standard_normal(shape, np.float32), draw.integers(0, 10, n * SAMPLES)
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
            "device": "cpu",
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
    parts = (*2 * (torch.from_numpy(nodes),), torch.from_numpy(times), torch.from_numpy(index))
    return partial(run.engine.executor.algorithm.update_, run.state, wave, *parts)


class Loop:
    """The same updates by one module and one optimizer a row."""

    def __init__(self, run: Simulation, index: torch.Tensor, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Makes the modules; index: of the examples of each [w, 1, b], among all features and targets."""
        self.index, self.features, self.targets = index, features, targets
        self.modules = [run.problem.stack.module(row) for row in run.state.x]
        trained = [[w for w in module.parameters() if w.requires_grad] for module in self.modules]
        self.optimizers = [torch.optim.SGD(parameters, lr=0.01) for parameters in trained]

    def work(self) -> None:
        """Makes an update of each."""
        for module, optimizer, examples in zip(self.modules, self.optimizers, self.index[:, 0], strict=True):
            optimizer.zero_grad()
            features, targets = self.features[examples], self.targets[examples]
            F.cross_entropy(module(features).flatten(0, -2), targets.flatten()).backward()
            optimizer.step()


def operations(work: Work) -> float:
    """Returns the floating-point operations of some work's products and convolutions."""
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:  # LSTM counts as none
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
