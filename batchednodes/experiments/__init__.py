"""Experiments: the published figures, each as runs, numbers and a drawing."""

from collections.abc import Callable

from batchednodes.experiments import quickstart, regression, staleness_criterion, staleness_scaling, topologies
from batchednodes.experiments.experiment import Experiment, Published, Size, publish

EXPERIMENTS: dict[str, Callable[[Size], Experiment]] = {
    "staleness-scaling": staleness_scaling.sized,
    "linear-regression": regression.linear,
    "nonlinear-regression": regression.nonlinear,
    "staleness-criterion": staleness_criterion.sized,
    "quickstart": quickstart.sized,
    "topologies": topologies.sized,
}
"""Name of a figure -> the experiment at a size."""

__all__ = ["EXPERIMENTS", "Experiment", "Published", "Size", "publish"]
