"""The command `race`, and what `resume` does in the folder of one: arguments are checked before PyTorch is imported."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchednodes.cli import over_ranks
from batchednodes.cli.arguments import ConfigFile, Formats, OutFolder, Overrides, Quiet, TimeLimit
from batchednodes.cli.console import loading
from batchednodes.cli.interruption import seconds
from batchednodes.numerics import start
from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    from batchednodes import config
    from batchednodes.cli import racing
    from batchednodes.figures.race import entry, rules
    from batchednodes.numerics import values
    from batchednodes.results.folder import paths
else:
    config = deferred("batchednodes.config")
    racing = deferred("batchednodes.cli.racing")
    entry = deferred("batchednodes.figures.race.entry")
    rules = deferred("batchednodes.figures.race.rules")
    values = deferred("batchednodes.numerics.values")
    paths = deferred("batchednodes.results.folder.paths")


Algorithms = Annotated[
    str,
    typer.Option(
        help="Who races: names, or name(option=value, ...); an option with a dot is any setting of the entrant.",
        metavar="A,B,...",
    ),
]
Tune = Annotated[
    str | None,
    typer.Option(help="What is chosen for each by successive halving: `lr=1e-3..1`.", metavar="KEY=LOW..HIGH"),
]
Budget = Annotated[
    str,
    typer.Option(
        help="What each may spend: `time`, `gradients` or `bytes`, as much as the config itself until `run.until`; or "
        "with an amount of a node, `bytes=1e6`."
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        help="Metric that is ranked; `max:KEY`, `min:KEY` where its name does not say which is better.",
        metavar="KEY",
        show_default="accuracy_mean, or loss_mean without labels",
    ),
]
Rank = Annotated[
    str, typer.Option(help="Its `final` value, the `best` one, or `to=0.9`: what is spent until it is there.")
]


def race(
    settings: ConfigFile,
    algorithms: Algorithms,
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option(help="Networks of each, with seeds seed, seed + 1, ...")] = 3,
    tune: Tune = None,
    budget: Budget = "time",
    by: By = None,
    rank: Rank = "final",
    out: OutFolder = None,
    formats: Formats = None,
    time_limit: TimeLimit = None,
    quiet: Quiet = False,
) -> None:
    """Runs several algorithms on the same data, seeds, clocks and budget, tunes each alike, and ranks them.

    Example: `batchednodes race mine.yaml --algorithms "gossip_sgd, d_psgd, fedavg(fraction=0.2)" --tune lr=1e-3..1`
    """
    over_ranks.check_alone("a race", None)
    limit, chosen = seconds(time_limit), config.load(settings, overrides or [])
    place = paths.OutputFolder(out) if out else paths.OutputFolder.numbered(f"{chosen.name}-race")
    paths.check_new(place.folder)
    asked = rules.Rules(seeds, tune, budget, by, rank)
    made = entry.Entry.of(chosen, algorithms, asked, formats or ["png", "pdf"])
    start.check_torch()
    with loading("PyTorch", quiet):
        run = racing.start  # imports PyTorch
    run(made, place, limit, quiet)


def resume(folder: Path, overrides: Sequence[str], limit: float | None, quiet: bool) -> None:
    """Goes on with the race in a folder.

    Raises:
        ValueError: settings are to change, or the folder holds no whole race.
    """
    if overrides:
        raise ValueError(f"KEY=VALUE must be left out for a race, got {values.shown(overrides[0])}; start a new one")
    made = entry.Entry.read(folder)
    paths.check_writable(folder)
    start.check_torch()
    with loading("PyTorch", quiet):
        run = racing.resume  # imports PyTorch
    run(made, paths.OutputFolder(folder), limit, quiet)
