"""Experiments: the published figures, each as runs, numbers and a drawing."""

from collections.abc import Callable

from batchednodes.experiments import staleness_scaling
from batchednodes.experiments.experiment import Experiment, Published, Size, publish

EXPERIMENTS: dict[str, Callable[[Size], Experiment]] = {
    "staleness-scaling": staleness_scaling.sized,
}
"""Name of a figure -> the experiment at a size."""

__all__ = ["EXPERIMENTS", "Experiment", "Published", "Size", "publish"]
