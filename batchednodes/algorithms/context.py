r"""What methods of an algorithm are given: rows of fields, and numbers that have addresses.

Notation: w rows, p parameters, s steps of an update, b examples of a minibatch, x models.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.func import grad, vmap

from batchednodes.algorithms.gradient_step import filled
from batchednodes.algorithms.local_sgd import LocalSGD
from batchednodes.algorithms.optim import Optimizer
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.models.dropout import mixed, stepped
from batchednodes.models.problem import Problem
from batchednodes.numerics import devices
from batchednodes.numerics.memory import send


@dataclass(frozen=True)
class TakeGradient(Optimizer):
    """Leaves the gradient in place of the model: what makes minibatch steps fast then makes gradients as fast."""

    def step(self, x: Tensor, g: Tensor, kept: dict[str, Tensor], lr: Tensor, **settings: Tensor) -> Tensor:
        return g


@dataclass(frozen=True, eq=False)
class Gradient:
    """The mean loss of all examples of an update, and its gradient, for many rows at once."""

    problem: Problem
    fast: Callable[[Hyperparameters], LocalSGD] | None = None
    """What makes steps of `TakeGradient` by a tape or program, given coefficients; None: vmap makes gradients."""

    def of(
        self, x: Float[Tensor, "w p"], examples: Int64[Tensor, "w s b"]
    ) -> tuple[Float[Tensor, "w p"], Float[Tensor, " w"]]:
        """Returns gradients and losses at some models, by minibatches; each draws by its own key, if it has one."""
        if self.steps is None:
            keyed = self.problem.sampler.keyed and examples.shape[1] > 1
            return self._one_by_one(x, examples) if keyed else self._by_vmap(x, examples)
        steps, total = examples.shape[1], x.clone()
        rates = Hyperparameters(x.new_ones(x.shape[0]), optimizer=TakeGradient())
        losses = self.steps.run_(total, None, examples[:, :1], rates).clone()
        for s in range(1, steps):
            g = x.clone()
            losses += self.steps.run_(g, None, examples[:, s : s + 1], rates)
            total += g
        return (total / steps, losses / steps) if steps > 1 else (total, losses)

    @functools.cached_property
    def steps(self) -> LocalSGD | None:
        """What makes steps of `TakeGradient`, made when it is first asked for; None: vmap makes gradients."""
        sampler = self.problem.sampler
        alike = not (sampler.padded or sampler.uneven)  # then the gradient is the mean of those of minibatches
        if self.fast is None or sampler.keyed or not alike:
            return None
        like = self.problem.features.new_ones(1, dtype=self.problem.stack.dtype)
        return self.fast(Hyperparameters(like, optimizer=TakeGradient()))

    def _one_by_one(
        self, x: Float[Tensor, "w p"], examples: Int64[Tensor, "w s b"]
    ) -> tuple[Float[Tensor, "w p"], Float[Tensor, " w"]]:
        """Returns the means over minibatches that are seen one after the other; each counts by its examples."""
        expected = self.problem.sampler.expected
        sizes = (examples[:, :, :-1] >= 0).sum(2) if expected is None else torch.full_like(examples[:, :, 0], expected)
        shares = sizes.to(x.dtype) / sizes.sum(1, keepdim=True)
        total, losses = torch.zeros_like(x), torch.zeros_like(x[:, 0])
        for part, share in zip(examples.split(1, 1), shares.unbind(1), strict=True):
            g, loss = self._by_vmap(x, part)
            total, losses = total + share.unsqueeze(1) * g, losses + share * loss
        return total, losses

    def _by_vmap(
        self, x: Float[Tensor, "w p"], examples: Int64[Tensor, "w s b"]
    ) -> tuple[Float[Tensor, "w p"], Float[Tensor, " w"]]:
        drawn = dict[str, Tensor]()
        if self.problem.sampler.keyed:
            examples, drawn["key"] = examples[:, :, :-1], examples[:, 0, -1]
        steps, examples = examples.shape[1], examples.flatten(1)
        if self.problem.sampler.padded or self.problem.sampler.uneven:
            expected = self.problem.sampler.expected
            order = (examples < 0).to(torch.int8).argsort(dim=1, stable=True)  # what is there comes first
            examples, drawn["weights"] = filled(examples.gather(1, order), x, expected and steps * expected)
        inputs, labels = self.problem.batch(examples)
        g, loss = self._rows(self.problem.stack.views(x), inputs, labels, drawn)
        return torch.cat([g[name].flatten(1) for name in self.problem.stack.views(x)], 1), loss

    @functools.cached_property
    def _rows(self):  # noqa: ANN202  (what vmap returns)
        def scored(parameters: dict, features: Tensor, targets: Tensor, drawn: dict) -> tuple[Tensor, Tensor]:
            loss = self.problem.objective(parameters, features, targets, **drawn)
            return loss, loss

        return vmap(grad(scored, has_aux=True))


EXAMPLES = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Numbers of features on which models are scored at once."""


@dataclass(frozen=True, eq=False)
class OwnLoss:
    """The mean loss of models over all examples of a node, for many rows at once."""

    problem: Problem

    def of(self, x: Float[Tensor, "w p"], nodes: Int64[Tensor, " w"]) -> Float[Tensor, " w"]:
        """Returns the loss of each model on the examples of a node."""
        example = self.problem.features[0].numel() * self._examples.shape[1]
        size = max(1, EXAMPLES[devices.kind(x.device)] // max(1, example))
        parts = zip(x.split(size), nodes.split(size), strict=True)
        return torch.cat([self._some(*part) for part in parts]) if x.shape[0] else x.new_zeros(0)

    def _some(self, x: Float[Tensor, "w p"], nodes: Int64[Tensor, " w"]) -> Float[Tensor, " w"]:
        examples, weights = filled(self._examples[nodes], x)
        with torch.no_grad():
            return self.problem.losses(x, *self.problem.rows(examples), weights)

    @functools.cached_property
    def _examples(self) -> Int64[Tensor, "n m"]:
        """The examples of each node, filled up with -1 to as many as the largest has."""
        sampler, where = self.problem.sampler, self.problem.features.device
        own = torch.from_numpy(sampler.rows).split(sampler.sizes.tolist())
        return send(torch.nn.utils.rnn.pad_sequence([*own], batch_first=True, padding_value=-1), where)


def uniforms(
    seeds: Int64[Tensor, " w"], nodes: Int64[Tensor, " w"], counts: Int64[Tensor, " w"], stream: int, size: int
) -> Float[Tensor, "w size"]:
    """Returns numbers in (0, 1), each a function of (seed, stream, node, count) and its place in the row."""
    steps = stepped(2 + stream, seeds.device)[-1]
    key = mixed(mixed(mixed(seeds + steps) + nodes) + counts)
    z = mixed(key.unsqueeze(1) + stepped(size + 1, seeds.device)[1:])
    return (((z >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53
