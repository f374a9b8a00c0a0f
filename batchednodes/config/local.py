"""The settings of local SGD, which `batchednodes.algorithms.local_sgd` computes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from batchednodes.algorithms.optim import SGD, Constant, Optimizer, Schedule
from batchednodes.data import StepCount
from batchednodes.data.minibatches import largest
from batchednodes.numerics.values import PerNode, check_sizes, number, per_node, shown


@dataclass(frozen=True)
class Privacy:
    """Differentially private steps (DP-SGD, Abadi et al. 2016): examples' gradients are clipped, and noise is added."""

    clip: PerNode = 1.0
    """Largest norm of the gradient of each single example over all parameters, to which longer ones are shortened;
    positive and finite."""

    noise: PerNode = 1.0
    """Noise multiplier: the sum of a minibatch's gradients gets Gaussian noise of standard deviation noise * clip in
    each direction; non-negative and finite; dimensionless."""

    delta: float = 1e-5
    """Probability delta with which the privacy loss may exceed the epsilon that metrics report; in (0, 1)."""

    def __post_init__(self) -> None:
        number(self.delta, 1, "delta", high=1.0, open_low=True)

    def is_noisy(self) -> bool:
        """Returns whether any node has noise."""
        return self.noise not in (0, [0] * (len(self.noise) if isinstance(self.noise, list) else 0))

    def check(self, n: int, seed: int, size: int) -> None:
        """Checks what may differ from node to node, of the first nodes of a network.

        Raises:
            ValueError: something is out of range.
        """
        per_node(self.clip, n, seed, "local.privacy.clip", open_low=True, size=size)
        per_node(self.noise, n, seed, "local.privacy.noise", size=size)


@dataclass(frozen=True)
class Local:
    """Local SGD: what a node does in one update.

    Example:
        >>> from batchednodes.config import Local
        >>> Local(steps=2, batch_size=16).shape(examples=100), Local(epochs=2, batch_size=16).shape(examples=100)
        ((2, 16), (14, 16))
        >>> Local(steps=2, epochs=2)
        Traceback (most recent call last):
            ...
        ValueError: steps must be left out where epochs are given, got steps 2 and epochs 2; leave out one of them
    """

    steps: int | StepCount = 1
    """Minibatch steps of one update; at least 1; left out where there are epochs; or a law, from which each update of
    each node draws its own number."""

    epochs: int | None = None
    """Passes over the node's own examples of one update, in place of steps; at least 1. Each is in a new random order,
    in minibatches of batch_size of which the last is what is left; null: steps full minibatches."""

    batch_size: int | Literal["all"] = 32
    """Examples of a minibatch; at least 1; more than a node owns means that it sees some twice, and with epochs that a
    pass is one minibatch of all. all: each minibatch is all examples of its node, for full gradients."""

    lr: PerNode = 0.1
    """Step size; non-negative and finite; dimensionless."""

    momentum: PerNode = 0.0
    """Momentum, 0 <= momentum < 1; dimensionless; the buffer stays at its node and is never mixed."""

    nesterov: bool = False
    """Whether the gradient step looks ahead by the momentum (Nesterov); needs momentum."""

    weight_decay: PerNode = 0.0
    """Coefficient of the L2 penalty's gradient, weight_decay * x; non-negative and finite; dimensionless."""

    proximal: PerNode = 0.0
    """Coefficient of the gradient of a proximal term, proximal * (x - the model from which the update began); added
    before `clip` and the optimizer; needs more than one step; non-negative and finite; dimensionless."""

    optimizer: Optimizer = SGD()
    """What makes a minibatch step of a gradient; what it keeps stays at its node."""

    schedule: Schedule = Constant()
    """How the step size changes as a node goes on."""

    clip: PerNode | None = None
    """Largest norm of a minibatch gradient over all parameters, to which longer ones are shortened; positive and
    finite; null: they stay as they are."""

    privacy: Privacy | None = None
    """Differential privacy of each example of a node; null: none."""

    sampling: Literal["shuffle", "replacement", "poisson"] = "shuffle"
    """shuffle: each epoch of a node deals its examples once, in a new order; replacement: independent draws; poisson:
    each example is in a minibatch with probability batch_size over those that the node owns, independently, so that
    sizes are random and sums are divided by batch_size."""

    compile: Literal["auto", "on", "off"] = "auto"
    """off: each step is one call of vmap; auto: in a run of many updates, a tape or program traced from it once; on:
    always such a program, compiled by torch.compile, which takes seconds the first time. Changes rounding only."""

    chunk: int | None = None
    """Rows updated by one vmap call; at least 1; null: as many as fit the workspace. Changes rounding only."""

    def __post_init__(self) -> None:
        full = self.batch_size == "all"
        size = None if isinstance(self.batch_size, str) else self.batch_size
        steps = self.steps if isinstance(self.steps, int) else None
        if full and steps is None:
            raise ValueError(f"steps must be a number with batch_size=all, got {shown(self.steps)}")
        check_sizes(steps=steps, epochs=self.epochs, batch_size=size, chunk=self.chunk)
        for name, is_given in (("epochs", self.epochs is not None), ("sampling", self.sampling != "shuffle")):
            if full and is_given:
                got = shown(getattr(self, name))
                raise ValueError(
                    f"{name} must be left out with batch_size=all, got {got}; steps says how many are made"
                )
        if self.epochs is not None and self.steps != 1:
            got = f"steps {self.steps} and epochs {self.epochs}"
            raise ValueError(f"steps must be left out where epochs are given, got {got}; leave out one of them")
        if self.epochs is not None and self.sampling != "shuffle":
            raise ValueError(
                f"sampling must be shuffle where epochs are given, which deal each example once, got {self.sampling!r}"
            )

    def check(self, n: int, seed: int, size: int) -> None:
        """Checks what may differ from node to node, of the first nodes of a network.

        Raises:
            ValueError: something is out of range, or has no effect.
        """
        per_node(self.lr, n, seed, "local.lr", size=size)
        per_node(self.weight_decay, n, seed, "local.weight_decay", size=size)
        per_node(self.proximal, n, seed, "local.proximal", size=size)
        if self.proximal != 0 and self.steps == 1 and self.epochs is None:
            raise ValueError(
                f"local.proximal must be left out where an update is one step, from its own model, got "
                f"{shown(self.proximal)}; set local.steps or local.epochs"
            )
        momentum = per_node(self.momentum, n, seed, "local.momentum", high=1.0, size=size)
        if not isinstance(self.optimizer, SGD) and (self.momentum != 0 or self.nesterov):
            key = "nesterov" if self.nesterov else "momentum"
            raise ValueError(
                f"local.{key} must be left out unless local.optimizer.kind=sgd, got {shown(getattr(self, key))}"
            )
        still = np.flatnonzero(momentum == 0)
        if self.nesterov and still.size:
            where = f"at node {still[0]}" if still.size < size else "at every node"
            raise ValueError(f"local.nesterov must be false where local.momentum is 0, got true and momentum 0 {where}")
        self.optimizer.per_node(n, seed, "local.optimizer", size)
        self.schedule.per_node(n, seed, "local.schedule", size)
        if self.privacy is not None:
            self.privacy.check(n, seed, size)
        if self.clip is not None:
            per_node(self.clip, n, seed, "local.clip", open_low=True, size=size)

    def shape(self, examples: int) -> tuple[int, int]:
        """Returns the most steps of an update, and examples of a minibatch, of a node that owns some examples."""
        steps = self.steps if isinstance(self.steps, int) else self.steps.cumulated().size
        if isinstance(self.batch_size, str):
            return steps, examples
        if self.sampling == "poisson":
            return steps, largest(max(examples, self.batch_size), self.batch_size)
        if self.epochs is None:
            return steps, self.batch_size
        return self.epochs * -(-examples // self.batch_size), min(self.batch_size, examples)
