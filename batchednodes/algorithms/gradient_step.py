r"""What a minibatch step makes of gradients: the proximal term, clipping, and the step of SGD or of an optimizer.

Notation: w rows of a wave, b examples of a minibatch, p parameters, x models, g gradients, v momentum buffers.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from batchednodes.algorithms.rates import Hyperparameters


def pulled(
    g: dict[str, Tensor], x: dict[str, Tensor], start: dict[str, Tensor], rates: Hyperparameters
) -> dict[str, Tensor]:
    """Returns gradients with those of the proximal term, toward the models from which updates began."""
    assert rates.proximal is not None
    return {name: part + along(rates.proximal, part) * (x[name] - start[name]) for name, part in g.items()}


def clipped(g: dict[str, Tensor], clip: Float[Tensor, " w"]) -> dict[str, Tensor]:
    """Returns gradients of at most some norm over all parameters, as `torch.nn.utils.clip_grad_norm_` makes them."""
    norm = torch.stack([part.flatten(1).norm(dim=1) for part in g.values()]).norm(dim=0)
    factor = (clip / (norm + 1e-6)).clamp(max=1.0)
    return {name: part * along(factor, part) for name, part in g.items()}


def optimize_(x: Tensor, g: Tensor, rates: Hyperparameters, gone: Bool[Tensor, " w"] | None) -> None:
    """Makes the step of an optimizer in place; rows that do not have this step stay as they are."""
    optimizer, kept = rates.optimizer, dict(rates.kept)
    assert optimizer is not None
    settings = {name: r.unsqueeze(1) for name, r in rates.own.items()}
    if rates.weight_decay is not None:
        decay = rates.weight_decay.unsqueeze(1)
        if optimizer.decays:
            settings["decay"] = decay
        else:
            g = g + decay * x
    new = optimizer.step(x, g, kept, rates.lr.unsqueeze(1), **settings)
    for name, old in rates.kept.items():
        old.copy_(kept[name] if gone is None else torch.where(gone.unsqueeze(1), old, kept[name]))
    x.copy_(new if gone is None else torch.where(gone.unsqueeze(1), x, new))


def still(rates: Hyperparameters, rows: Bool[Tensor, " w"]) -> Hyperparameters:
    """Returns coefficients with which some rows, whose gradients are 0, keep their models and buffers."""
    momentum = None if rates.momentum is None else rates.momentum.masked_fill(rows, 1.0)
    decay = None if rates.weight_decay is None else rates.weight_decay.masked_fill(rows, 0.0)
    return Hyperparameters(rates.lr.masked_fill(along(rows, rates.lr), 0.0), momentum, decay, rates.nesterov)


def descend_all_(
    parts: dict[str, Tensor], buffers: dict[str, Tensor], g: dict[str, Tensor],
    rates: tuple[Hyperparameters, dict[str, Tensor]], plain: bool,
) -> None:  # fmt: skip
    """Makes the gradient step of all parameters of all rows in place."""
    for name, part in parts.items():
        if plain:
            part.sub_(g[name])
        else:
            _descend_(part, buffers.get(name), g[name], replace(rates[0], lr=rates[1][name]))


def _descend_(x: Tensor, v: Tensor | None, g: Tensor, rates: Hyperparameters) -> None:
    """Makes the gradient step of one parameter of all rows in place."""
    if rates.weight_decay is not None:
        g = g + along(rates.weight_decay, x) * x
    if rates.momentum is not None and v is not None:
        momentum = along(rates.momentum, x)
        v.mul_(momentum).add_(g)
        g = g + momentum * v if rates.nesterov else v
    x.sub_(along(rates.lr, x) * g)


def along(rate: Tensor, x: Tensor) -> Tensor:
    """Returns a number of each row [w] such that it broadcasts over a parameter; numbers of each entry as they are."""
    return rate if rate.ndim == x.ndim else rate.view(-1, *[1] * (x.ndim - 1))


def filled(
    examples: Int64[Tensor, "w b"], like: Tensor, size: int | None = None
) -> tuple[Int64[Tensor, "w b"], Float[Tensor, "w b"]]:
    """Returns minibatches filled up by their first example, and the weights of the examples that they had.

    Args:
        examples: of minibatches; -1: none.
        like: a tensor of the weights' type.
        size: by which the sum is divided; None: by how many there are, so that it is the mean.
    """
    real = examples >= 0
    weights = real.to(like.dtype) / (real.sum(1, keepdim=True).clamp(min=1) if size is None else size)
    return torch.where(real, examples, examples[:, :1].clamp(min=0)), weights
