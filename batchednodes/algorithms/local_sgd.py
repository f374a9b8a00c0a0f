r"""Local SGD on the rows of a wave: one `torch.func.vmap` for all of them, or the program or tape made from it.

    g <- grad loss(x; batch) + proximal (x - x_0) + weight_decay x      (x_0 the model from which the update began)
    v <- momentum v + g                          (v starts at 0 and stays at its node; it is never mixed)
    x <- x - lr v            or, with nesterov,  x <- x - lr (g + momentum v)

for each of `steps` minibatches: the arithmetic of `torch.optim.SGD`.

Where an update is whole epochs, nodes with fewer examples have smaller minibatches, or fewer: g is then that of a
weighted mean, with weights 0 for the places that are not taken, and rows make only the steps that they have.

Where step sizes are divided by ages, the lr of an entry of x is that of the node over the steps behind the entry, with
this one.

Notation: n nodes, w rows of a wave, p parameters, s steps, b examples of a minibatch, S examples of all nodes, x
models, v momentum buffers.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.func import grad, vmap

from batchednodes.algorithms.gradient_step import along, clipped, descend_all_, filled, optimize_, pulled, still
from batchednodes.algorithms.optim import Optimizer
from batchednodes.algorithms.private import Private, squared_norms
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.algorithms.state import started
from batchednodes.numerics import fx_program
from batchednodes.numerics.cuda_graphs import CudaGraphs, capture
from batchednodes.numerics.fx_program import Function, UntraceableError
from batchednodes.numerics.tape import Tape, record

Objective = Callable[..., Tensor]
"""Maps (parameters by name, features [b, ...], targets [b, ...]) to the mean loss of a minibatch; with weights [b], of
which there may be zeros, to the sum of weighted losses."""

Views = Callable[[Tensor], dict[str, Tensor]]
"""Maps rows [w, p] to the named parameters that they hold, as views [w, ...]."""


Uneven = Literal["none", "skip", "mask"]
"""none: all rows have all steps; skip: some do not, which the host reads from their entries; mask: they are computed
all the same and change nothing, so that nothing waits for a device."""


@dataclass(frozen=True, eq=False)
class LocalSGD:
    """What rows descend: the loss of their minibatches, by one function for all of a wave."""

    step_: Function
    """Makes one minibatch step: maps (x [w, p], examples [w, b], or [w, b + 1] with their key, features, targets, lr
    [w]; then, where nodes have them, momentum [w] and v [w, p]; weight decay [w]; the largest norm of a gradient [w];
    the proximal pull [w] and the models toward which it is [w, p]; the optimizer's settings [w] and what it keeps
    [w, k]) to the losses [w], and writes into x, v and what is kept."""
    features: Tensor
    """Inputs of the examples of all nodes [S, ...]."""
    targets: Tensor
    """Their labels [S] or values [S, k]."""
    padded: bool = False
    """Whether minibatches may end with entries of -1: no examples."""
    uneven: Uneven = "none"
    """What becomes of steps whose entries are all -1, which a row does not have."""
    graphs: CudaGraphs | None = None
    """All steps of an update as CUDA graphs; None: operations are launched one by one."""
    tape: Tape | None = None
    """All steps of an update in one loop over the rows; None: there is none."""
    divides: bool = False
    """Whether step sizes are divided by ages; the step then takes lr [w, p]."""
    keyed: bool = False
    """Whether minibatches end with a key, by which the step draws."""
    way: str = "torch.func.vmap, operation by operation"
    """How steps are made, in words."""
    refused: tuple[str, ...] = ()
    """Why they are not made by each way that would be faster, in words."""
    private: Private | None = None
    """What shortens the gradients of single examples, and adds noise; None: nothing does."""
    expected: int | None = None
    """Examples of a minibatch on average, by which sums are divided where sizes are random; None: by those it has."""

    @staticmethod
    def of(
        objective: Objective,
        views: Views,
        rates: Hyperparameters,
        features: Tensor,
        targets: Tensor,
        padded: bool = False,
        uneven: Uneven = "none",
        divides: bool = False,
        keyed: bool = False,
        kept: Collection[str] = (),
        expected: int | None = None,
    ) -> "LocalSGD":
        """Returns the descent of an objective by vmap, where coefficients are of the kinds of some rates.

        What is `kept` among the named parameters has no gradient: it is what the objective makes of it in place.
        """
        momentum, decay = rates.momentum is not None, rates.weight_decay is not None
        more = (rates.clip is not None, rates.proximal is not None, rates.optimizer, tuple(rates.own))
        guarded = (rates.example_clip is not None, rates.noise is not None)
        kind = _Kind(
            momentum, decay, rates.nesterov, padded, uneven == "mask", divides, keyed, *more, *guarded, expected
        )
        step_, private = _step_function(objective, views, kind, kept), None
        if kind.private:
            private = Private(squared_norms(objective, views, keyed), kind.place, keyed, kind.noisy, expected)
        made = LocalSGD(step_, features, targets, padded, uneven, divides=divides, keyed=keyed)
        return replace(made, private=private, expected=expected)

    def traced(
        self, p: int, batch_size: int, rates: Hyperparameters, compiled: bool, large: bool = False
    ) -> "LocalSGD":
        """Returns the same as a program, for rows of p numbers.

        Args:
            p: parameters.
            batch_size: examples of a minibatch, at most.
            rates: of all nodes.
            compiled: whether `torch.compile` makes one kernel of many operations; takes seconds, the first time.
            large: whether rows have much to compute, see `fx_program.joint`.

        Raises:
            program.UntraceableError: there is no such program.
        """
        program = fx_program.trace(self.step_, self._arguments(p, batch_size, rates), compiled, large)
        way = "program, compiled by torch.compile" if compiled else "program"
        return replace(self, step_=program, way=way, private=self._private_traced(p, rates))

    def taped(self, p: int, batch_size: int, rates: Hyperparameters, large: bool = False) -> "LocalSGD":
        """Returns the same as a tape, for rows of p numbers; arguments: see `traced`.

        Raises:
            program.UntraceableError: there is no such tape.
        """
        if rates.optimizer is not None and type(rates.optimizer).fields:
            raise UntraceableError("a tape looks up models where they lie, but not what optimizers keep of them")
        tape = record(self.step_, self._arguments(p, batch_size, rates), large=large)
        return replace(
            self,
            tape=tape,
            way="tape, one kernel for a wave" if tape.cuda else "tape",
            private=self._private_traced(p, rates),
        )

    def _private_traced(self, p: int, rates: Hyperparameters) -> Private | None:
        """Returns what makes steps private, its norms by a tape or program where there is one."""
        return None if self.private is None else self.private.traced(p, rates.lr, self.features, self.targets)

    @property
    def in_place(self) -> bool:
        """Whether a tape makes all steps of rows where they lie."""
        return self.tape is not None and self.private is None

    def _arguments(self, p: int, batch_size: int, rates: Hyperparameters) -> fx_program.Arguments:
        """Returns what gives arguments of a step, with some number of rows."""

        def arguments(w: int) -> tuple[Tensor, ...]:
            lr = rates.lr
            x = 0.1 * torch.randn(w, p, generator=torch.Generator().manual_seed(0)).to(lr)
            examples = torch.arange(w * batch_size, device=lr.device).view(w, batch_size) % len(self.features)
            if self.padded:
                examples[::2, 1:] = -1
            if self.uneven == "mask":
                examples[::3] = -1
            if self.keyed:
                keys = torch.arange(w, device=lr.device) * 0x9E3779B97F4A7C1
                examples = torch.cat([examples, keys.unsqueeze(1)], 1)
            optimizer, some = rates.optimizer, torch.arange(w, device=lr.device) % lr.numel()
            declared = {} if optimizer is None else type(optimizer).fields
            some = rates.of(some, kept={name: started(one, x, w).abs() for name, one in declared.items()})
            some = _from(0.5 * x, some)
            x, examples, *more = taken(x, None if rates.momentum is None else 0.1 * x, examples, some)
            if self.private is not None:
                more += self.private.example(x, examples.shape[1] - self.keyed)
            return (x, examples, self.features, self.targets, *more)

        return arguments

    def recorded(self, largest: int) -> "LocalSGD":
        """Returns the same as CUDA graphs, for at most `largest` rows at once."""
        return replace(self, graphs=CudaGraphs(self._steps_, largest, capture()), way=f"CUDA graphs of a {self.way}")

    def run_(
        self,
        x: Float[Tensor, "w p"],
        v: Float[Tensor, "w p"] | None,
        examples: Int64[Tensor, "w s b"],
        rates: Hyperparameters,
    ) -> Float[Tensor, " w"]:
        """Makes the steps of one local update of each row, in place; returns the mean loss over them.

        Args:
            x: models; changed.
            v: momentum buffers, changed; None without momentum.
            examples: places of each row's minibatches among all examples; where `padded`, -1 for none.
            rates: coefficients of these rows.

        Returns:
            The losses, which hold until the next call.
        """
        with torch.no_grad():
            rates = _from(x, rates)
            if self.in_place:
                return self.run_at_(x, v, None, examples, rates)
            steps_ = self.graphs or (self._own_steps_ if self.uneven == "skip" else self._steps_)
            return steps_(*taken(x, v, examples, rates))

    def run_at_(
        self,
        x: Float[Tensor, "n p"],
        v: Float[Tensor, "n p"] | None,
        rows: Int64[Tensor, " w"] | None,
        examples: Int64[Tensor, "w s b"],
        rates: Hyperparameters,
    ) -> Float[Tensor, " w"]:
        """Does the same by the tape, to some rows where they lie.

        Args:
            x: models; those rows are changed.
            v: momentum buffers, likewise.
            rows: different ones, where none has a proximal pull; None: all, in their order.
            examples: as for `run_`.
            rates: coefficients of these rows.
        """
        assert self.tape is not None
        x, examples, *more = taken(x, v, examples, rates)
        return self.tape.run_((x, examples, self.features, self.targets, *more), rows, self.uneven != "none")

    def _steps_(self, x: Tensor, examples: Tensor, *more: Tensor) -> Tensor:
        first, *rest = examples.unbind(1)
        total = self._step_(x, first.contiguous(), *self._at(0, *more))
        for s, some in enumerate(rest, 1):
            total = total + self._step_(x, some.contiguous(), *self._at(s, *more))
        if self.uneven == "mask":
            return total / _steps_of(examples)
        return total / examples.shape[1] if rest else total

    def _step_(self, x: Tensor, examples: Tensor, *more: Tensor) -> Tensor:
        if self.private is None:
            return self.step_(x, examples, self.features, self.targets, *more)
        step_ = self.step_ if self.tape is None else self.tape.step_
        examples, guards = self.private.of(x, examples, self.features, self.targets, more)
        return step_(x, examples, self.features, self.targets, *more, *guards)

    def _at(self, s: int, lr: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """Returns the coefficients of step s of an update."""
        return (lr.unsqueeze(1) / (more[-1] + (s + 1)), *more[:-1]) if self.divides else (lr, *more)

    def _own_steps_(self, x: Tensor, examples: Tensor, *more: Tensor) -> Tensor:
        """Makes each row's own steps, and none of those that it does not have."""
        steps = _steps_of(examples)
        fewest, most = (int(s) for s in steps.aminmax())
        if fewest == most:
            return self._steps_(x, examples[:, :most], *more)
        order, total = steps.argsort(descending=True), torch.zeros_like(x[:, 0])
        models, examples, *others = (t.index_select(0, order) for t in (x, examples, *more))
        for s in range(most):
            w = int((steps > s).sum())  # rows that have this step: the first ones
            some = self._at(s, *(t[:w] for t in others))
            total[:w] += self._step_(models[:w], examples[:w, s].contiguous(), *some)
        for mine, new in zip((x, *more), (models, *others), strict=True):
            if mine.ndim == 2:  # models, and what is kept of them
                mine.index_copy_(0, order, new)
        return torch.empty_like(total).index_copy_(0, order, total) / steps


def _steps_of(examples: Int64[Tensor, "w s b"]) -> Int64[Tensor, " w"]:
    """Returns how many steps each row has."""
    return (examples[:, :, 0] >= 0).sum(1)


def _from(x: Tensor, rates: Hyperparameters) -> Hyperparameters:
    """Returns coefficients of updates that begin from some models, which are copied where they matter."""
    return rates if rates.proximal is None else replace(rates, start=x.clone())


def taken(x: Tensor, v: Tensor | None, examples: Tensor, rates: Hyperparameters) -> list[Tensor]:
    """Returns what a step takes for each row, without what these nodes do not have.

    First x, examples, lr; where there are momentum buffers v, they are at place 4; what is kept comes last but ages.
    """
    first = (x, examples, rates.lr, rates.momentum, v, rates.weight_decay, rates.clip)
    second = (rates.example_clip, rates.noise, rates.proximal, rates.start)
    return [t for t in (*first, *second, *rates.own.values(), *rates.kept.values(), rates.age) if t is not None]


@dataclass(frozen=True)
class _Kind:
    """What steps are made of."""

    momentum: bool
    decay: bool
    nesterov: bool
    padded: bool
    masked: bool
    divides: bool
    keyed: bool
    clips: bool
    pulls: bool
    optimizer: Optimizer | None
    own: tuple[str, ...]
    private: bool
    noisy: bool
    expected: int | None

    @property
    def place(self) -> int:
        """Where the largest norm of an example's gradient is, among what follows the targets, the step size first."""
        return 1 + 2 * self.momentum + self.decay + self.clips

    def guards(self, more: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Returns what makes a step private: factors of gradients by name, and noise; they come last."""
        factors = {"factors": more[len(more) - 1 - self.noisy]} if self.private else {}
        return factors, more[-1] if self.noisy else None

    @property
    def plain(self) -> bool:
        """Whether x <- x - lr grad loss is all of it, with one lr for all entries of x."""
        return not (self.momentum or self.decay or self.divides or self.clips or self.pulls or self.optimizer)

    def rates(self, lr: Tensor, more: tuple[Tensor, ...]) -> tuple[Hyperparameters, Tensor | None]:
        """Returns the coefficients of a step, and momentum buffers, from what follows the targets as arguments."""
        rest = iter(more)
        momentum, v = (next(rest) if self.momentum else None for _ in range(2))
        kinds = (self.decay, self.clips, self.private, self.noisy, self.pulls, self.pulls)
        decay, clip, _, _, proximal, start = (next(rest) if there else None for there in kinds)
        own = {name: next(rest) for name in self.own}
        kept = {} if self.optimizer is None else {name: next(rest) for name in type(self.optimizer).fields}
        sgd = Hyperparameters(lr, momentum, decay, self.nesterov, None, clip, proximal=proximal, start=start)
        return replace(sgd, optimizer=self.optimizer, own=own, kept=kept), v


def _gradient(objective: Objective) -> Callable[..., tuple[dict[str, Tensor], tuple[Tensor, dict[str, Tensor]]]]:
    """Returns the function of the gradients of scaled losses, and of the losses and what is kept, of many rows."""

    def scaled(
        parameters: dict[str, Tensor], kept: dict[str, Tensor], features: Tensor, targets: Tensor, scale: Tensor,
        drawn: dict[str, Tensor],
    ) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:  # fmt: skip
        written = {name: value.clone() for name, value in kept.items()}
        loss = objective(parameters | written, features, targets, **drawn)
        return scale * loss, (loss, written)

    return vmap(grad(scaled, has_aux=True))


def _step_function(objective: Objective, views: Views, kind: _Kind, kept: Collection[str]) -> Function:
    """Returns the function of a step by vmap; see `LocalSGD.step_`."""
    gradient = _gradient(objective)

    def step_(x: Tensor, examples: Tensor, features: Tensor, targets: Tensor, lr: Tensor, *more: Tensor) -> Tensor:
        gone = examples[:, 0] < 0 if kind.masked else None
        drawn, noise = kind.guards(more)
        if kind.keyed:
            examples, drawn["key"] = examples[:, :-1], examples[:, -1]
        if kind.padded:
            examples, drawn["weights"] = filled(examples, lr, kind.expected)
        elif gone is not None:
            examples = examples.clamp(min=0)
        flat = examples.flatten()
        inputs, labels = (t.index_select(0, flat).unflatten(0, examples.shape) for t in (features, targets))
        parts, scale = views(x), lr if kind.plain else x.new_ones(x.shape[0])  # plain: grad (lr loss) = lr grad loss
        statistics = {name: parts.pop(name) for name in kept}
        g, (loss, written) = gradient(parts, statistics, inputs, labels, scale, drawn)
        if gone is not None:
            loss = loss.masked_fill(gone, 0.0)
            written = {k: torch.where(along(gone, new), statistics[k], new) for k, new in written.items()}
        if noise is not None:
            xi = views(noise)
            g = {name: part + along(scale, xi[name]) * xi[name] for name, part in g.items()}
        rates, v = kind.rates(lr, more)
        g = g if rates.start is None else pulled(g, parts, views(rates.start), rates)
        g = g if rates.clip is None else clipped(g, rates.clip)
        if kind.optimizer is not None:
            none = {name: torch.zeros_like(value) for name, value in statistics.items()}
            optimize_(x, torch.cat([part.reshape(len(x), -1) for part in (g | none).values()], 1), rates, gone)
        else:
            if gone is not None:
                g = {name: part.masked_fill(along(gone, part), 0.0) for name, part in g.items()}
                rates = still(rates, gone)
            sizes = views(rates.lr) if kind.divides else dict.fromkeys(parts, rates.lr)
            descend_all_(parts, {} if v is None else views(v), g, (rates, sizes), kind.plain)
        for name, value in written.items():
            statistics[name].copy_(value)
        return loss

    return step_
