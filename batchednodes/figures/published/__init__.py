"""Experiments: the published figures, each as runs, numbers and a drawing."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    from batchednodes.figures.published import (
        acid,
        base_graph,
        byzantine,
        choco,
        event_tracking,
        matcha,
        quickstart,
        regression,
        relaysgd_cifar10,
        relaysgd_quadratics,
        staleness_criterion,
        staleness_scaling,
        topologies,
        topology_quadratics,
    )
    from batchednodes.figures.published.experiment import Experiment, Size
else:
    acid = deferred("batchednodes.figures.published.acid")
    event_tracking = deferred("batchednodes.figures.published.event_tracking")
    base_graph = deferred("batchednodes.figures.published.base_graph")
    byzantine = deferred("batchednodes.figures.published.byzantine")
    choco = deferred("batchednodes.figures.published.choco")
    matcha = deferred("batchednodes.figures.published.matcha")
    relaysgd_cifar10 = deferred("batchednodes.figures.published.relaysgd_cifar10")
    quickstart = deferred("batchednodes.figures.published.quickstart")
    regression = deferred("batchednodes.figures.published.regression")
    relaysgd_quadratics = deferred("batchednodes.figures.published.relaysgd_quadratics")
    staleness_criterion = deferred("batchednodes.figures.published.staleness_criterion")
    staleness_scaling = deferred("batchednodes.figures.published.staleness_scaling")
    topologies = deferred("batchednodes.figures.published.topologies")
    topology_quadratics = deferred("batchednodes.figures.published.topology_quadratics")

EXPERIMENTS: "dict[str, Callable[[Size], Experiment]]" = {
    "staleness-scaling": lambda size: staleness_scaling.sized(size),
    "linear-regression": lambda size: regression.linear(size),
    "nonlinear-regression": lambda size: regression.nonlinear(size),
    "staleness-criterion": lambda size: staleness_criterion.sized(size),
    "relaysgd-quadratics": lambda size: relaysgd_quadratics.sized(size),
    "acid": lambda size: acid.sized(size),
    "event-tracking": lambda size: event_tracking.sized(size),
    "quickstart": lambda size: quickstart.sized(size),
    "topologies-quadratics": lambda size: topology_quadratics.sized(size),
    "topologies": lambda size: topologies.sized(size),
    "base-graph": lambda size: base_graph.sized(size),
    "matcha": lambda size: matcha.sized(size),
    "choco": lambda size: choco.sized(size),
    "byzantine": lambda size: byzantine.sized(size),
    "relaysgd-cifar10": lambda size: relaysgd_cifar10.sized(size),
}
"""Name of a figure -> the experiment at a size; naming them imports none."""

__all__ = ["EXPERIMENTS"]
