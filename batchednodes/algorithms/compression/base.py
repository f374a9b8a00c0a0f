r"""The interface of compressors: what arrives of a row, and the bytes that bring it.

    @dataclass(frozen=True)
    class Rounded(Compressor):
        step: float = 0.01

        def compress(self, v, uniform):
            return (v / self.step).round() * self.step

        def size(self, p, item):
            return 2 * p

Notation: w rows, p parameters of a model, v rows that are compressed [w, p], C(v) what arrives of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal

from batchednodes.numerics.values import number

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # so that settings are read without PyTorch

Uniform = Callable[[int], Tensor]
"""Returns numbers in (0, 1) for each row [w, size], by the address of its message: asked again, the same."""

Feedback = Literal["choco", "deep_squeeze", "dcd", "ecd", "none"]


@dataclass(frozen=True)
class Compressor(ABC):
    """What arrives of a message that is made smaller, and what makes up for the rest."""

    _: KW_ONLY
    feedback: Feedback = "choco"
    """What makes up for what is lost: `choco`, differences to copies that neighbours keep of a model; `deep_squeeze`,
    the error, which is added to the next message; `dcd`, differences of models that all neighbours know exactly;
    `ecd`, averages of extrapolated models; `none`: the models are compressed, and nothing is made up for."""

    gamma: float | None = None
    """Step size of consensus [dimensionless]; in (0, 1]. Feedback choco and deep_squeeze need it, smaller where more is
    lost (CHOCO's authors tuned 0.04 for the top 1%, 0.01 for a random 1%, 0.45 for signs); null: 1; dcd and ecd have
    none."""

    def __post_init__(self) -> None:
        if self.gamma is not None:
            number(self.gamma, 1, "gamma", open_low=True, high=1.0, open_high=False)
        if self.gamma is None and self.feedback in ("choco", "deep_squeeze"):
            raise ValueError(f"gamma must be given with feedback={self.feedback}, got null; try 0.1, or less")
        if self.gamma is not None and self.feedback in ("dcd", "ecd"):
            raise ValueError(f"gamma must be left out with feedback={self.feedback}, which has none, got {self.gamma}")

    @abstractmethod
    def compress(self, v: Tensor, uniform: Uniform) -> Tensor:
        """Returns C(v) [w, p], each row by itself.

        Args:
            v: rows [w, p]; not written.
            uniform: draws, for whoever rounds or chooses at random.
        """

    @abstractmethod
    def size(self, p: int, item: int) -> int:
        """Returns the bytes of a message, for models of p parameters of some bytes each."""

    @property
    def step(self) -> float:
        """Gamma."""
        return 1.0 if self.gamma is None else float(self.gamma)

    @property
    def unbiased(self) -> bool:
        """Whether random compressors scale C(v) to have the mean v; else to be as near to v as they can."""
        return self.feedback in ("dcd", "ecd", "none")

    @property
    def exact(self) -> bool:
        """Whether messages are those of the algorithm, as they are."""
        return False


@dataclass(frozen=True)
class Uncompressed(Compressor):
    """Messages bring all that they say: C(v) = v.

    Example:
        >>> from batchednodes.algorithms.compression import Uncompressed
        >>> Uncompressed().size(p=650, item=4)
        2600
    """

    _: KW_ONLY
    feedback: Feedback = "none"
    """As of other kinds; with another than none, or a smaller gamma, models approach each other by smaller steps."""

    def compress(self, v: Tensor, uniform: Uniform) -> Tensor:
        return v

    def size(self, p: int, item: int) -> int:
        return p * item

    @property
    def exact(self) -> bool:
        return self.feedback == "none" and self.step == 1.0
