"""The settings of local SGD, which `batchednodes.algorithms.local_sgd` computes.

Letters: none.
"""

from dataclasses import dataclass
from typing import Literal

from batchednodes.numerics.values import PerNode, check_sizes


@dataclass(frozen=True)
class Local:
    """Local SGD: what a node does in one update."""

    steps: int = 1
    """Minibatch steps of one update; at least 1; left out where there are epochs."""

    epochs: int | None = None
    """Passes over the node's own examples of one update, in place of steps; at least 1. Each is in a new random order,
    in minibatches of batch_size of which the last is what is left; null: steps full minibatches."""

    batch_size: int = 32
    """Examples of a minibatch; at least 1; more than a node owns means that it sees some twice, and with epochs that a
    pass is one minibatch of all."""

    lr: PerNode = 0.1
    """Step size; non-negative and finite; dimensionless."""

    momentum: PerNode = 0.0
    """Momentum, 0 <= momentum < 1; dimensionless; the buffer stays at its node and is never mixed."""

    nesterov: bool = False
    """Whether the gradient step looks ahead by the momentum (Nesterov); needs momentum."""

    weight_decay: PerNode = 0.0
    """Coefficient of the L2 penalty's gradient, weight_decay * x; non-negative and finite; dimensionless."""

    sampling: Literal["shuffle", "replacement"] = "shuffle"
    """shuffle: each epoch of a node deals its examples once, in a new order; replacement: independent draws."""

    compile: Literal["auto", "on", "off"] = "auto"
    """off: each step is one call of vmap; auto: in a run of many updates, a tape or program traced from it once; on:
    always such a program, compiled by torch.compile, which takes seconds the first time. Changes rounding only."""

    chunk: int | None = None
    """Rows updated by one vmap call; at least 1; null: as many as fit the workspace. Changes rounding only."""

    def __post_init__(self) -> None:
        check_sizes(steps=self.steps, epochs=self.epochs, batch_size=self.batch_size, chunk=self.chunk)
        if self.epochs is not None and self.steps != 1:
            got = f"steps {self.steps} and epochs {self.epochs}"
            raise ValueError(f"steps must be left out where epochs are given, got {got}; leave out one of them")
        if self.epochs is not None and self.sampling != "shuffle":
            raise ValueError(
                f"sampling must be shuffle where epochs are given, which deal each example once, got {self.sampling!r}"
            )

    def shape(self, examples: int) -> tuple[int, int]:
        """Returns the steps of an update, and the most examples of a minibatch, of a node that owns some examples."""
        if self.epochs is None:
            return self.steps, self.batch_size
        return self.epochs * -(-examples // self.batch_size), min(self.batch_size, examples)
