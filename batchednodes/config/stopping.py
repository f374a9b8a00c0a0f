"""When a run ends before its time, as a setting."""

from dataclasses import dataclass
from typing import Literal

from batchednodes.numerics.values import count, number


@dataclass(frozen=True)
class StopWhen:
    """A metric that ends the run at the first mark where it has come to be as it should, in each network of the batch.

    Example:
        >>> from batchednodes.config.stopping import StopWhen
        >>> StopWhen("accuracy_mean", above=0.9).words
        'accuracy_mean above 0.9'
        >>> StopWhen("loss_mean", best="lowest", patience=5).words
        'loss_mean without a new lowest value at 5 marks in a row'
    """

    metric: str = "accuracy_mean"
    """Key of the metric, one of `batchednodes list metrics` that rows have, or of a metric of your own."""

    above: float | None = None
    """Ends the run where the metric is larger [unit of the metric]; null: that does not end it."""

    below: float | None = None
    """Ends the run where the metric is smaller [unit of the metric]; null: that does not end it."""

    best: Literal["highest", "lowest"] | None = None
    """Ends the run where the metric has had no new highest, or lowest, value for some marks; null: that does not end
    it."""

    patience: int = 1
    """Marks in a row at which that must be so; at least 1."""

    def __post_init__(self) -> None:
        given = [key for key in ("above", "below", "best") if getattr(self, key) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"above must be given, or below, or best, one of the three, got {got}; null takes one out")
        for key in ("above", "below"):
            if getattr(self, key) is not None:
                number(getattr(self, key), 1, key, low=float("-inf"), open_low=True)
        count(self.patience, 1, "patience", high=10**6)

    @property
    def words(self) -> str:
        """The rule in words."""
        often = f" at {self.patience} marks in a row" if self.patience > 1 else ""
        if self.best is not None:
            often = often or " at a mark"
            return f"{self.metric} without a new {self.best} value{often}"
        side, bound = ("above", self.above) if self.above is not None else ("below", self.below)
        return f"{self.metric} {side} {bound:g}{often}"
