"""The coefficients of local updates, one for each node or row.

Notation: n nodes, w rows of a wave, p parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float, Float64, Int64
from torch import Tensor

from batchednodes.algorithms.optim import Optimizer, Schedule

Coefficient = Float[Tensor, " n"]
"""One number for each node; dimensionless."""


@dataclass(frozen=True)
class Hyperparameters:
    """The coefficients of local SGD, one for each node or row."""

    lr: Float[Tensor, "n ..."]
    """Step sizes; where they are divided by ages, inside a step, one for each entry of each row."""
    momentum: Coefficient | None = None
    """Momentum of each node; None: no node has any, and no buffer is kept."""
    weight_decay: Coefficient | None = None
    """Weight decay of each node; None: no node has any."""
    nesterov: bool = False
    """Whether the step looks ahead by the momentum."""
    age: Float[Tensor, "w p"] | None = None
    """Of some rows, minibatch steps behind each entry of their models, by which, and one more at each step, step sizes
    are divided; None: they are not."""
    clip: Coefficient | None = None
    """Largest norm of a minibatch gradient of each node; None: of no node."""
    example_clip: Coefficient | None = None
    """Largest norm of the gradient of each single example; None: of no node."""
    noise: Coefficient | None = None
    """Standard deviation of the noise in the sum of such gradients, in each direction; None: no node has any."""
    optimizer: Optimizer | None = None
    """What makes steps in place of SGD; None: SGD does."""
    own: Mapping[str, Coefficient] = field(default_factory=dict)
    """The optimizer's settings of each node."""
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    """Of some rows, the fields that the optimizer keeps, which a step writes into."""
    schedule: Schedule | None = None
    """How step sizes change; None: they do not."""
    scheduling: Mapping[str, Float64[Tensor, " n"]] = field(default_factory=dict)
    """The schedule's settings of each node."""
    proximal: Coefficient | None = None
    """Pull of each node toward the model from which its update began; None: of no node."""
    start: Float[Tensor, "w p"] | None = None
    """Of some rows, those models."""

    @property
    def keeps(self) -> tuple[str, ...]:
        """Names of the fields that local SGD keeps from update to update."""
        buffers = () if self.momentum is None else ("v",)
        return buffers if self.optimizer is None else (*buffers, *type(self.optimizer).fields)

    def of(
        self,
        rows: Int64[Tensor, " w"],
        factor: Float64[Tensor, " w"] | None = None,
        kept: Mapping[str, Tensor] | None = None,
    ) -> "Hyperparameters":
        """Returns the coefficients of some rows.

        Args:
            rows: of nodes.
            factor: of their step sizes; None: 1.
            kept: what the optimizer keeps of them.
        """
        lr, momentum, decay, clip, example_clip, noise, proximal = (
            None if r is None else r.index_select(0, rows)
            for r in (
                self.lr, self.momentum, self.weight_decay, self.clip, self.example_clip, self.noise, self.proximal
            )
        )  # fmt: skip
        assert lr is not None
        lr = lr if factor is None else (lr.double() * factor).to(lr.dtype)
        own = {name: r.index_select(0, rows) for name, r in self.own.items()}
        sgd = (lr, momentum, decay, self.nesterov, None, clip, example_clip, noise)
        return Hyperparameters(*sgd, self.optimizer, own, kept or {}, proximal=proximal)

    def factor(
        self, nodes: Int64[Tensor, " w"], counts: Int64[Tensor, " w"], times: Float64[Tensor, " w"]
    ) -> Float64[Tensor, " w"] | None:
        """Returns the factor of step sizes of some updates; None: 1.

        Args:
            nodes: that make them.
            counts: updates of each before this one.
            times: instants [s].
        """
        if self.schedule is None:
            return None
        return self.schedule.at(counts, times, {name: r.index_select(0, nodes) for name, r in self.scheduling.items()})
