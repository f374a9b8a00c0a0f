"""Arguments that several commands take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    from batchednodes.config import reference
else:
    reference = deferred("batchednodes.config.reference")


def keys(incomplete: str) -> list[str]:
    """Returns the settings that begin so, for the shell to complete."""
    settings = (setting.path for kind in reference.catalogue() for setting in kind.settings)
    return [f"{path}=" for path in dict.fromkeys(settings) if path.startswith(incomplete)]


ConfigFile = Annotated[
    Path,
    typer.Argument(help="YAML file of settings; every setting has a default.", metavar="CONFIG", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Settings that replace those of the file: `network.nodes=50 'gossip.clock.rate=2*log(n)'`.",
        metavar="KEY=VALUE",
        show_default=False,
        autocompletion=keys,
    ),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", "-o", help="New folder for the results.", show_default="runs/<name>-<n>")
]
TimeLimit = Annotated[
    str | None,
    typer.Option(help="Wall time after which to halt with a checkpoint: `2h`, `90min`; exit code 124.", metavar="TIME"),
]
Ranks = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        help="Processes of this machine that hold the run together, started by torchrun; with CUDA one a device.",
        min=1,
        metavar="R",
        show_default="1",
    ),
]

Formats = Annotated[
    list[str] | None,
    typer.Option("--format", help="Of the pictures: png, pdf or svg; may be repeated.", show_default="png and pdf"),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
