r"""Local SGD on the rows of a wave: one `torch.func.vmap` for all of them, or the program traced from it.

    g <- grad loss(x; batch) + weight_decay x
    v <- momentum v + g                          (v starts at 0 and stays at its node; it is never mixed)
    x <- x - lr v            or, with nesterov,  x <- x - lr (g + momentum v)

for each of `steps` minibatches: the arithmetic of `torch.optim.SGD`.

Letters: n nodes, w rows of a wave, p parameters, s steps, b examples of a minibatch, S examples of all nodes, x models,
v momentum buffers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.func import grad, vmap

from batchednodes import program
from batchednodes.graphs import Graphs, recorder
from batchednodes.program import Function
from batchednodes.values import PerNode, check_sizes

Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Local:
    """Local SGD: what a node does in one update."""

    steps: int = 1
    """Minibatch steps of one update; at least 1."""

    batch_size: int = 32
    """Examples of a minibatch; at least 1; more than a node owns means that it sees some twice."""

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

    compile: Compile = "auto"
    """off: each step is one call of vmap; auto: in a run of many updates, a program traced from it once; on: always
    such a program, compiled by torch.compile, which takes seconds the first time. Changes rounding only."""

    chunk: int | None = None
    """Rows updated by one vmap call; at least 1; null: as many as fit the workspace. Changes rounding only."""

    def __post_init__(self) -> None:
        check_sizes(steps=self.steps, batch_size=self.batch_size, chunk=self.chunk)


Coefficient = Float[Tensor, " n"]
"""One number for each node; dimensionless."""


@dataclass(frozen=True)
class Rates:
    """The coefficients of local SGD, one for each node or row."""

    lr: Coefficient
    """Step sizes."""
    momentum: Coefficient | None
    """Momentum of each node; None: no node has any, and no buffer is kept."""
    weight_decay: Coefficient | None
    """Weight decay of each node; None: no node has any."""
    nesterov: bool
    """Whether the step looks ahead by the momentum."""

    def of(self, rows: Int64[Tensor, " w"]) -> "Rates":
        """Returns the coefficients of some rows."""
        lr, momentum, decay = (
            None if r is None else r.index_select(0, rows) for r in (self.lr, self.momentum, self.weight_decay)
        )
        assert lr is not None
        return Rates(lr, momentum, decay, self.nesterov)


Objective = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""Maps (parameters by name, features [b, ...], targets [b, ...]) to the mean loss of a minibatch."""

Views = Callable[[Tensor], dict[str, Tensor]]
"""Maps rows [w, p] to the named parameters that they hold, as views [w, ...]."""


@dataclass(frozen=True, eq=False)
class Descent:
    """What rows descend: the loss of their minibatches, by one function for all of a wave."""

    step_: Function
    """Makes one minibatch step: maps (x [w, p], examples [w, b], features, targets, lr [w]; then, where nodes have
    them, momentum [w] and v [w, p]; then weight decay [w]) to the losses [w], and writes into x and v."""
    features: Float[Tensor, "S ..."]
    """Inputs of the examples of all nodes."""
    targets: Tensor
    """Their labels [S] or values [S, k]."""
    graphs: Graphs | None = None
    """All steps of an update as CUDA graphs; None: operations are launched one by one."""

    @staticmethod
    def of(objective: Objective, views: Views, rates: Rates, features: Tensor, targets: Tensor) -> "Descent":
        """Returns the descent of an objective by vmap, where coefficients are of the kinds of some rates."""
        momentum, decay = rates.momentum is not None, rates.weight_decay is not None
        return Descent(_step_function(objective, views, momentum, decay, rates.nesterov), features, targets)

    def traced(self, p: int, batch_size: int, rates: Rates, compiled: bool) -> "Descent":
        """Returns the same as a program, for rows of p numbers.

        Args:
            p: parameters.
            batch_size: examples of a minibatch.
            rates: of all nodes.
            compiled: whether `torch.compile` makes one kernel of many operations; takes seconds, the first time.

        Raises:
            program.UntraceableError: there is no such program.
        """

        def arguments(w: int) -> tuple[Tensor, ...]:
            lr = rates.lr
            x = 0.1 * torch.randn(w, p, generator=torch.Generator().manual_seed(0)).to(lr)
            examples = torch.arange(w * batch_size, device=lr.device).view(w, batch_size) % len(self.features)
            some = rates.of(torch.arange(w, device=lr.device) % lr.numel())
            x, examples, *more = _tensors(x, None if rates.momentum is None else 0.1 * x, examples, some)
            return (x, examples, self.features, self.targets, *more)

        return replace(self, step_=program.trace(self.step_, arguments, compiled))

    def recorded(self, largest: int) -> "Descent":
        """Returns the same as CUDA graphs, for at most `largest` rows at once."""
        return replace(self, graphs=Graphs(self._steps_, largest, recorder()))

    def run_(
        self,
        x: Float[Tensor, "w p"],
        v: Float[Tensor, "w p"] | None,
        examples: Int64[Tensor, "w s b"],
        rates: Rates,
    ) -> Float[Tensor, " w"]:
        """Makes the steps of one local update of each row, in place; returns the mean loss over them.

        Args:
            x: models; changed.
            v: momentum buffers, changed; None without momentum.
            examples: places of each row's minibatches among all examples.
            rates: coefficients of these rows.

        Returns:
            The losses, which hold until the next call.
        """
        with torch.no_grad():
            return (self.graphs or self._steps_)(*_tensors(x, v, examples, rates))

    def _steps_(self, x: Tensor, examples: Tensor, *more: Tensor) -> Tensor:
        first, *rest = examples.unbind(1)
        total = self.step_(x, first.contiguous(), self.features, self.targets, *more)
        for some in rest:
            total = total + self.step_(x, some.contiguous(), self.features, self.targets, *more)
        return total / examples.shape[1] if rest else total


def _tensors(x: Tensor, v: Tensor | None, examples: Tensor, rates: Rates) -> list[Tensor]:
    """Returns what a step takes for each row, without what these nodes do not have."""
    return [t for t in (x, examples, rates.lr, rates.momentum, v, rates.weight_decay) if t is not None]


def _step_function(objective: Objective, views: Views, momentum: bool, decay: bool, nesterov: bool) -> Function:
    """Returns the function of a step by vmap; see `Descent.step_`."""
    plain = not momentum and not decay

    def scaled(
        parameters: dict[str, Tensor], features: Tensor, targets: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        loss = objective(parameters, features, targets)
        return scale * loss, loss

    gradient = vmap(grad(scaled, has_aux=True))

    def step_(x: Tensor, examples: Tensor, features: Tensor, targets: Tensor, lr: Tensor, *more: Tensor) -> Tensor:
        flat = examples.flatten()
        inputs, labels = (t.index_select(0, flat).unflatten(0, examples.shape) for t in (features, targets))
        parts, scale = views(x), lr if plain else torch.ones_like(lr)  # plain: grad (lr loss) = lr grad loss
        g, loss = gradient(parts, inputs, labels, scale)
        m, v = more[:2] if momentum else (None, None)
        buffers = {} if v is None else views(v)
        for name, part in parts.items():
            if plain:
                part.sub_(g[name])
            else:
                _descend_(part, buffers.get(name), g[name], Rates(lr, m, more[-1] if decay else None, nesterov))
        return loss

    return step_


def _descend_(x: Tensor, v: Tensor | None, g: Tensor, rates: Rates) -> None:
    """Makes the gradient step of one parameter of all rows in place."""
    if rates.weight_decay is not None:
        g = g + _along(rates.weight_decay, x) * x
    if rates.momentum is not None and v is not None:
        momentum = _along(rates.momentum, x)
        v.mul_(momentum).add_(g)
        g = g + momentum * v if rates.nesterov else v
    x.sub_(_along(rates.lr, x) * g)


def _along(rate: Coefficient, x: Tensor) -> Tensor:
    """Returns a coefficient of each row such that it broadcasts over a parameter."""
    return rate.view(-1, *[1] * (x.ndim - 1))
