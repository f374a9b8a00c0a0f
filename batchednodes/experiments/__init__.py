"""Experiments: the published figures, each as runs, numbers and a drawing."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from batchednodes.imports import deferred

if TYPE_CHECKING:
    from batchednodes.experiments import quickstart, regression, staleness_criterion, staleness_scaling, topologies
    from batchednodes.experiments.experiment import Experiment, Size
else:
    quickstart = deferred("batchednodes.experiments.quickstart")
    regression = deferred("batchednodes.experiments.regression")
    staleness_criterion = deferred("batchednodes.experiments.staleness_criterion")
    staleness_scaling = deferred("batchednodes.experiments.staleness_scaling")
    topologies = deferred("batchednodes.experiments.topologies")

EXPERIMENTS: "dict[str, Callable[[Size], Experiment]]" = {
    "staleness-scaling": lambda size: staleness_scaling.sized(size),
    "linear-regression": lambda size: regression.linear(size),
    "nonlinear-regression": lambda size: regression.nonlinear(size),
    "staleness-criterion": lambda size: staleness_criterion.sized(size),
    "quickstart": lambda size: quickstart.sized(size),
    "topologies": lambda size: topologies.sized(size),
}
"""Name of a figure -> the experiment at a size; naming them imports none."""

__all__ = ["EXPERIMENTS"]
