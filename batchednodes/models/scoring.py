r"""Scoring: losses and accuracies of models on test sets, one model after the other in one compiled loop.

What a model makes of the test set stays in the core's cache, and each model's numbers are the same whatever others are
scored with it.

Notation: g networks, k models of each, p parameters, t test examples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.func import vmap

from batchednodes.models.losses import Loss
from batchednodes.numerics import fx_program
from batchednodes.numerics.fx_program import UntraceableError
from batchednodes.numerics.tape import Tape, translated

_EXACT = 1 << 24
"""Up to which size float32 holds all whole numbers: so many labels are counted, at most."""

Outputs = Callable[[Tensor, Tensor], Tensor]
"""Maps a model [p] and features [t, ...] to what the model puts out in evaluation mode."""


@dataclass(frozen=True, eq=False)
class Scorer:
    """Loss and accuracy as a tape, for test sets of one size."""

    tape: Tape
    labels: int
    """Of a test set; 0: targets are real values."""

    @staticmethod
    def of(outputs: Outputs, criterion: Loss, labelled: bool, like: tuple[Tensor, Tensor, Tensor]) -> "Scorer":
        """Returns what scores some models.

        Args:
            outputs: of a model.
            criterion: loss of outputs and targets.
            labelled: whether targets are labels.
            like: parameters of a model [p], features [t, ...] and targets [t, ...] of a test set.

        Raises:
            UntraceableError: there is no tape that gives these losses.
        """
        row, features, targets = like
        if labelled and targets.numel() > _EXACT:
            raise UntraceableError("there are more labels than are counted exactly")

        def score(row: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            out = outputs(row, x)
            right = (out.argmax(-1) == y).to(row.dtype).sum() if labelled else row.new_zeros(())
            return criterion.mean(out, y), right

        def scored_(x: Tensor, _: Tensor, features: Tensor, targets: Tensor, right: Tensor) -> Tensor:
            losses, found = vmap(score)(x, features, targets)
            right.add_(found.unsqueeze(1))
            return losses

        def arguments(w: int) -> tuple[Tensor, ...]:
            x = row + 0.1 * torch.randn(w, row.numel(), generator=torch.Generator().manual_seed(0)).to(row)
            tests = (t.expand(w, *t.shape).contiguous() for t in (features, targets))
            return (x, torch.zeros(w, 1, dtype=torch.int64), *tests, row.new_zeros(w, 1))

        with fx_program.untraceable(), torch.no_grad():
            tape = translated(scored_, arguments, (1, 0, 2, 2, 0))
        made = Scorer(tape, targets.numel() if labelled else 0)
        # Where two outputs are equal but for rounding, another one may be the largest: losses alone are compared.
        fx_program.compare(lambda x, e, f, y, right: scored_(x, e, f, y, right.clone()), made._losses, arguments)
        return made

    def _losses(self, x: Tensor, _: Tensor, features: Tensor, targets: Tensor, right: Tensor) -> Tensor:
        """Returns the losses of a model for each test set."""
        return self.scores(x.unsqueeze(1), features, targets)[0].squeeze(1)

    def scores(
        self, models: Float[Tensor, "g k p"], features: Tensor, targets: Tensor
    ) -> tuple[Float[Tensor, "g k"], Float64[Tensor, "g k"]]:
        """Returns loss and accuracy (NaN for real targets) of some models of each network on its test set.

        Args:
            models: of each network.
            features: of its test set [g, t, ...].
            targets: of its test set [g, t, ...].
        """
        (g, k, p), w = models.shape, models.shape[0] * models.shape[1]
        rows, sets = torch.arange(w), torch.arange(g).repeat_interleave(k)
        right = models.new_zeros(w, 1)
        tests = (features.contiguous(), targets.contiguous())
        entries = torch.zeros(w, 1, 1, dtype=torch.int64)
        losses = self.tape.run_((models.reshape(w, p), entries, *tests, right), torch.stack([rows, sets]))
        accuracy = right.double() / self.labels if self.labels else torch.full_like(right, torch.nan).double()
        return losses.view(g, k), accuracy.view(g, k)
