"""What runs cost beside the plainest ones: messages under way, tracked versions, many nodes, evaluation.

Notation: n nodes.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from batchednodes import load
from batchednodes.simulation.build import assembly
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.simulation.engine import Unobserved
from batchednodes.simulation.planning.plan import plan
from measure.timing import gathered, interleaved, ratios, seconds, spread
from measure.whole import events_a_second
from measure.workloads import LOGREG, built, settings

_DELAYED = 'gossip.delay={"kind": "exponential", "mean": 0.05}'


def messages(n: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns events per second of runs with small delays over those of instant gossip, and what the host makes."""
    with settings(LOGREG, n, str(device), "1") as source:
        until = 200_000 / n
        works = {
            "delayed": lambda: events_a_second(source, until, _DELAYED),
            "instant": lambda: events_a_second(source, until),
        }
        speed = gathered(works, repeats)
        laws = assembly.timeline([load(source, [_DELAYED])])
    _, clocks = laws.window(laws.begin(), 0.5 * until)
    events, _ = laws.window(clocks, until)
    times = interleaved({"window": lambda: laws.window(clocks, until)}, repeats, torch.device("cpu"))["window"]
    return {
        "messages over instant gossip": ratios(speed["delayed"], speed["instant"]),
        "messages, ns/event": spread([t / len(events) * 1e9 for t in times]),
    }


def tracking(n: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns the time of an event, at capacity log n, where all versions are tracked, over that where none are."""
    with settings(LOGREG, n, str(device)) as source:
        until = 100_000 / n
        works = {
            kind: lambda kind=kind: events_a_second(source, until, f"staleness.track={kind}")
            for kind in ("none", "all")
        }
        speed = gathered(works, repeats)
    return {"track: all, cost over none": ratios(speed["none"], speed["all"])}


def events(n: int, device: torch.device, repeats: int, few: int = 1_000, count: int = 1_000_000) -> dict[str, Any]:
    """Returns the time of an event of rate 1, untracked, over that of a thousand nodes, from runs of about as many.

    Each run is built once, and goes from its begin to its end again and again.

    Args:
        n: nodes.
        device: of both runs.
        repeats: interleaved pairs.
        few: nodes of the other run.
        count: events of each kind, updates and pushes, in a run.
    """
    works, amounts, threads = dict[str, Callable[[], float]](), dict[str, float](), torch.get_num_threads()
    for name, nodes in (("few", few), ("many", n)):
        with settings(replace(LOGREG, samples=1), nodes, str(device), "1", eval_nodes=1, until=count / nodes) as source:
            works[name] = partial(_from_begin, built(source), _threads(source), device)
            amounts[name] = sum(assembly.timeline([load(source)]).expected(count / nodes))
    found = gathered(works, repeats)
    torch.set_num_threads(threads)
    speed = {name: [amounts[name] / t for t in times] for name, times in found.items()}
    return {
        f"cost an event over n = {few:,}, n = {n:,}": ratios(speed["few"], speed["many"]),
        f"events/s, n = {n:,}": spread(speed["many"]),
    }


def _threads(source: dict[str, Any]) -> int:
    """Returns how many threads a run takes, by its plan."""
    config = load(source)
    return plan([config], assembly.timeline([config])).threads


def _from_begin(run: Simulation, threads: int, device: torch.device) -> float:
    """Returns the time that a run takes from its begin to its end [s]."""
    torch.set_num_threads(threads)
    return seconds(lambda: run.engine.run_(run.state, run.engine.begin(), Unobserved()), device)


def evaluation(repeats: int) -> dict[str, Any]:
    """Returns microseconds that the test scores of one model of the quickstart take on the CPU, and what by hand."""
    config = load(Path(__file__).parents[2] / "configs" / "quickstart.yaml", ["device=cpu"])
    laws = assembly.timeline([config])
    run = assembly.assemble([config], laws, plan([config], laws).chunks)
    models, tests = run.state.models.unsqueeze(0), run.problem.tests[0]
    works = {
        "scores": lambda: run.problem.scores(models, tests),
        "by hand": lambda: _by_hand(run.problem.stack.views(models[0]), tests.features[0], tests.targets[0]),
    }
    times = interleaved(works, repeats, torch.device("cpu"))
    return {
        "evaluation, us a model": spread([t / models.shape[1] * 1e6 for t in times["scores"]]),
        "evaluation over batched products by hand": ratios(times["scores"], times["by hand"]),
    }


def _by_hand(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns losses and accuracies of the quickstart's networks, as batched products that anybody would write."""
    w1, b1, w2, b2 = parameters.values()
    hidden = torch.baddbmm(b1.unsqueeze(1), x.expand(len(w1), -1, -1), w1.transpose(1, 2)).relu_()
    out = torch.baddbmm(b2.unsqueeze(1), hidden, w2.transpose(1, 2))
    labels = y.expand(len(w1), -1)
    losses = F.cross_entropy(out.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
    return losses, (out.argmax(2) == labels).double().mean(1)
