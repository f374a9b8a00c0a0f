r"""Differentially private minibatch steps: gradients of single examples are shortened, and noise is added to their sum.

    g <- (1/b) (sum_k g_k min(1, C / |g_k|) + sigma C xi),        xi ~ N(0, I)

in two passes: the first finds the norms |g_k|, each by a row of its own with one example; the second is the gradient of
the minibatch, in which what comes back to the outputs of example k is min(1, C / |g_k|) times as much. Where all these
factors are 1 and there is no noise, the second pass gives the numbers of plain SGD, bit for bit.

Notation: w rows, b examples of a minibatch, p parameters, C clip, sigma noise multiplier.

References:
    M. Abadi et al., "Deep learning with differential privacy", CCS 2016, Algorithm 1.
    J. Lee, D. Kifer, "Scaling up differentially private deep learning with fast per-example gradient clipping", PoPETs
    2021 (two passes).
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.func import grad, vmap

from batchednodes.models.dropout import mixed, stepped
from batchednodes.numerics import devices, fx_program
from batchednodes.numerics.fx_program import Function, UntraceableError
from batchednodes.numerics.tape import Tape, record

_NOISE = 0x5851F42D4C957F2D
"""What keys are changed by for noise, since masks of models are drawn by them, too."""


@dataclass(frozen=True, eq=False)
class Private:
    """What a minibatch step needs besides, to be private."""

    norms: Function
    """Maps (x [v, p], examples [v, b], features, targets) to the squares of the norms of gradients [v]; of models that
    draw masks, with keys behind the examples, and then weights [v, b] of these."""
    place: int
    """Where the largest norm of an example's gradient is, among what a step is given after the targets."""
    draws: bool
    """Whether models draw masks by keys, so that an example must be seen at its place in its minibatch."""
    noisy: bool
    """Whether noise is added, by keys that minibatches end with."""
    expected: int | None = None
    """Examples of a minibatch on average, where sizes are random; None: sums are divided by those it has."""
    tape: Tape | None = None
    """`norms` as a tape, for rows that are looked up; None: there is none."""
    rows: int | None = None
    """Examples whose norms are found at once, at most, where each has a copy of its model; None: all."""

    def traced(self, p: int, like: Tensor, features: Tensor, targets: Tensor) -> "Private":
        """Returns the same with norms by a tape, or by a program; as it is where there is neither."""
        if self.draws:
            return self

        def arguments(w: int) -> Sequence[Tensor]:
            x = 0.1 * torch.randn(w, p, generator=torch.Generator().manual_seed(0)).to(like)
            return x, torch.arange(w, device=x.device).view(w, 1) % len(features), features, targets

        if not devices.is_cuda(features.device):
            with suppress(UntraceableError):
                return replace(self, tape=record(self.norms, arguments))
        with suppress(UntraceableError):
            return replace(self, norms=fx_program.trace(self.norms, arguments))
        return self

    def example(self, x: Float[Tensor, "w p"], b: int) -> list[Tensor]:
        """Returns what `of` might give some rows, to try a step with."""
        factors = torch.linspace(0.5, 1.0, b, dtype=x.dtype, device=x.device).expand(x.shape[0], b).contiguous()
        return [factors, 0.01 * x.flip(1)] if self.noisy else [factors]

    def of(
        self, x: Float[Tensor, "w p"], examples: Int64[Tensor, "w b"], features: Tensor, targets: Tensor,
        more: Sequence[Tensor],
    ) -> tuple[Int64[Tensor, "w b1"], list[Tensor]]:  # fmt: skip
        """Returns minibatches without keys that no model asks for, and what makes their step private.

        Args:
            x: models.
            examples: of the minibatches; -1: none; with their keys, if they have any.
            features: of all examples.
            targets: theirs.
            more: what else a step is given, after the targets.

        Returns:
            The minibatches; then the factor of each example's gradient [w, b] and, if there is any, noise [w, p].
        """
        keys, own = examples[:, -1], examples[:, :-1] if self.draws or self.noisy else examples
        there, clip = own >= 0, more[self.place].unsqueeze(1)
        whole = torch.where(there, own, own[:, :1].clamp(min=0))
        square = self._norms(x, whole, keys if self.draws else None, features, targets)
        found = [(clip / square.sqrt()).clamp(max=1.0)]
        if self.noisy:
            size = there.sum(1, keepdim=True).clamp(min=1) if self.expected is None else self.expected
            found.append(normal(keys, x.shape[1]).to(x.dtype) * (more[self.place + 1].unsqueeze(1) / size))
        return (examples if self.draws else own.contiguous()), found

    def _norms(
        self, x: Tensor, whole: Int64[Tensor, "w b"], keys: Tensor | None, features: Tensor, targets: Tensor
    ) -> Float[Tensor, "w b"]:
        """Returns the squares of norms, each example by itself; with keys as one of its minibatch, at its place."""
        w, b = whole.shape
        rows = torch.arange(w, device=x.device).repeat_interleave(b)
        if self.tape is not None:
            alone = whole.reshape(-1, 1, 1)
            return self.tape.run_((x, alone, features, targets), rows.unsqueeze(0)).view(w, b)
        found = list[Tensor]()
        for some in torch.arange(w * b, device=x.device).split(self.rows or w * b):
            row, place = rows[some], some % b
            if keys is None:
                found.append(self.norms(x[row], whole.view(-1, 1)[some], features, targets))
            else:
                minibatches = torch.cat([whole[row], keys[row].unsqueeze(1)], 1)
                weights = torch.eye(b, dtype=x.dtype, device=x.device)[place]
                found.append(self.norms(x[row], minibatches, features, targets, weights))
        return torch.cat(found).view(w, b)


def squared_norms(
    objective: Callable[..., Tensor], views: Callable[[Tensor], dict[str, Tensor]], keyed: bool
) -> Function:
    """Returns the function of the squares of gradients' norms, by vmap; see `Private.norms`."""

    def square(parameters: dict[str, Tensor], features: Tensor, targets: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        g = grad(objective)(parameters, features, targets, **drawn)
        return torch.stack([part.square().sum() for part in g.values()]).sum()

    many = vmap(square)

    def norms(x: Tensor, examples: Tensor, features: Tensor, targets: Tensor, *weights: Tensor) -> Tensor:
        drawn = dict[str, Tensor]()
        if keyed:
            examples, drawn["key"], drawn["weights"] = examples[:, :-1], examples[:, -1], weights[0]
        flat = examples.flatten()
        inputs, labels = (t.index_select(0, flat).unflatten(0, examples.shape) for t in (features, targets))
        return many(views(x), inputs, labels, drawn)

    return norms


def normal(keys: Int64[Tensor, " w"], p: int) -> Float64[Tensor, "w p"]:
    """Returns standard normal numbers, each a function of its key and its place (Box and Muller).

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.private import normal
        >>> xi = normal(torch.arange(100), 1_000)
        >>> bool(xi[7].equal(normal(torch.tensor([7]), 1_000)[0])), abs(xi.mean()) < 0.01, abs(xi.std() - 1) < 0.01
        (True, tensor(True), tensor(True))
    """
    half = -(-p // 2)
    z = mixed(mixed(keys ^ _NOISE).unsqueeze(1) + stepped(2 * half, keys.device))
    u = (((z >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53
    radius, angle = (-2 * u[:, :half].log()).sqrt(), 2 * math.pi * u[:, half:]
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :p]
