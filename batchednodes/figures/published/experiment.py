r"""Experiment: a published figure as runs, numbers and a drawing of those numbers.

    settings of batches -> metrics of their runs -> table of plotted numbers (CSV) -> drawing (PNG, PDF)

The drawing and the findings need the table only, so both can be made again from the CSV. One that searches, for step
sizes for example, does so before its batches are known; one that is theory alone has none.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from batchednodes import config
from batchednodes.figures import plots
from batchednodes.numerics.torch_modes import own
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.paths import check_absent, make, unmake
from batchednodes.simulation import training
from batchednodes.simulation.training import Watch

Size = Literal["quick", "cpu", "cuda"]
"""How large: a minute or two on two cores, a quarter of an hour on them, or what only a GPU does in that time."""

Train = Callable[[dict[str, Any]], pd.DataFrame]
"""Returns the metrics of a run of given settings."""


class Experiment(ABC):
    """What is run, and what is shown of it; frozen: its fields say how large it is."""

    def tuned(self, train: Train) -> "Experiment":
        """Returns the experiment as runs settle it that are not shown; itself where nothing is searched for.

        Its parts keep their names.
        """
        return self

    def batches(self) -> dict[str, dict[str, Any]]:
        """Returns the settings of each run by the name of its part; one run holds many networks."""
        return {}

    @abstractmethod
    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """Returns the numbers to plot, one row for each point, from the metrics of each run."""

    @abstractmethod
    def draw(self, table: pd.DataFrame) -> Figure:
        """Returns the picture of a table, which may have been read from a CSV file."""

    @abstractmethod
    def findings(self, table: pd.DataFrame) -> list[Table]:
        """Returns what the numbers say, to print."""


@dataclass(frozen=True)
class Published:
    """What an experiment leaves."""

    experiment: Experiment
    """As it was run."""
    table: pd.DataFrame
    """The plotted numbers."""
    findings: list[Table]
    """What they say."""
    paths: list[Path]
    """Pictures, CSV, and the settings of each run."""


@own()
def publish(
    name: str,
    experiment: Experiment,
    out: Path,
    watch: Watch | None = None,
    formats: Sequence[str] = ("png", "pdf"),
    force: bool = False,
) -> Published:
    """Runs an experiment and leaves its picture, its numbers and the settings of its runs.

    Args:
        name: of the files.
        experiment: what is run and drawn.
        out: folder of the files; made where there is none.
        watch: called after each window and mark of each run.
        formats: of the picture, of `plots.FORMATS`.
        force: whether files that are there are replaced.

    Raises:
        ValueError: a format is none, a file is there already, the folder cannot be made, a run does not fit in memory,
            or it diverged.
    """
    batches = experiment.batches()
    stems = {part: f"{name}-{part}" if len(batches) > 1 else name for part in batches}
    place, numbers, pictures = Inside(out), f"{name}.csv", [f"{name}.{kind}" for kind in formats]
    settings = [f"{stem}.yaml" for stem in stems.values()]
    plots.check_formats(formats)
    check_absent(out, [] if force else [*pictures, numbers, *settings])
    made = make(out)
    try:
        experiment = experiment.tuned(lambda batch: _metrics(config.load(batch | {"name": name}), watch))
        chosen = {part: config.load(batch | {"name": stems[part]}) for part, batch in experiment.batches().items()}
        table = experiment.table({part: _metrics(one, watch) for part, one in chosen.items()})
    except BaseException:
        unmake(made)
        raise
    texts = {file: config.dump(one) for file, one in zip(settings, chosen.values(), strict=True)}
    for file, text in (texts | {numbers: table.to_csv(index=False)}).items():
        plots.write(place / file, text.encode(), force)
    with matplotlib.rc_context(plots.PAPER):
        plots.save(experiment.draw(table), [place / file for file in pictures], force)
    return Published(
        experiment, table, experiment.findings(table), [out / file for file in (*pictures, numbers, *settings)]
    )


def _metrics(chosen: config.Config, watch: Watch | None) -> pd.DataFrame:
    result = training.train(chosen, watch=watch)
    if result.summary["status"] != "finished":
        raise ValueError(result.summary["message"])
    return result.metrics
