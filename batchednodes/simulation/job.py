"""Jobs: what is run, who is asked and told, and how a run computes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from batchednodes.algorithms.share import Share
from batchednodes.config import Config
from batchednodes.numerics.memory import Chunks
from batchednodes.numerics.values import shown
from batchednodes.numerics.world import World
from batchednodes.results.callbacks import Callback
from batchednodes.simulation.engine import Progress
from batchednodes.simulation.planning.preflight import Preflight

Watch = Callable[[Config, Progress, dict[str, Any]], None]
"""Called after each window and mark, with the config in progress, how far it is, and the last row of metrics."""


@dataclass(frozen=True)
class Job:
    """What is run, and who is asked."""

    settings: Config
    made: Preflight
    """The networks that the settings stand for."""
    boards: bool
    """Whether TensorBoard's files are written."""
    watch: Watch | None
    stop: Callable[[], bool]
    """Whether the run should halt as soon as it can."""
    callbacks: Sequence[Callback] = ()
    """Who is told what happens."""
    world: World | None = None
    """All ranks of the run; None: this process is the only one."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, and speaks to the user."""
        return self.world is None or self.world.all.rank == 0

    def told(self, thing: Any) -> Any:
        """Returns what the first process gives, on all of them; plain data."""
        return thing if self.world is None else self.world.all.told(thing)

    def own(self, share: Share | None) -> list[Config]:
        """Returns the settings of the networks of a share; None: of all."""
        configs = self.made.configs
        return configs if share is None else [configs[g] for g in share.networks]

    def __post_init__(self) -> None:
        given: Any = self.callbacks
        for one in given if isinstance(given, list | tuple) else [None]:
            if not isinstance(one, Callback):
                got = given if one is None else one
                raise ValueError(
                    f"callbacks must be a list of objects of classes derived from Callback, got {shown(got)}"
                )


@dataclass(frozen=True)
class ComputePlan:
    """How a run computes, which its rounding depends on."""

    chunks: Chunks
    threads: int
    beside: bool
    """Whether checkpoints are copied, and written while the run goes on."""
    share: Share | None = None
    """The networks that this process holds, and with whom; None: it holds all."""
