"""Models that keep running statistics: with which settings they are sound."""

from batchednodes.config import READER, Config
from batchednodes.config.robust import is_robust
from batchednodes.config.rules import refuse
from batchednodes.models.stacked import Stack


def check_statistics(config: Config, stack: Stack) -> None:
    """Checks that a model's running statistics are written by steps of local SGD, and averaged, and nothing else.

    Raises:
        ValueError: a setting does more with them.
    """
    g, method = config.gossip, config.algorithm
    averages = method.averages or (method.plain() and method.linear())
    kind, names = READER.plain(config.algorithm, "algorithm")["kind"], f"({next(iter(stack.kept), '')}, ...)"
    partial = g.merge.selects() or g.merge.divides() or is_robust(config)
    where = f"where task.model keeps running statistics {names}"
    refuse(
        (f"{key} {where}", bool(stack.kept) and broken, f"{remedy}, or GroupNorm, or track_running_stats=False")
        for key, broken, remedy in (
            (f"algorithm.kind must be one that trains by local SGD and averages models, got {kind!r},", not averages,
             "use gossip_sgd or fedavg"),
            ("update.applies must be at_completion", config.update.applies != "at_completion", "leave it out"),
            ("gossip.compress must be left out", not g.compress.exact, "leave it out"),
            ("gossip.merge must average whole models, and nobody attack,", partial, "leave that out"),
            ("local.privacy must be left out", config.local.privacy is not None, "leave it out"),
            ("dtype must be float32 or float64", config.dtype == "bfloat16", "use float32"),
        )
    )  # fmt: skip
