r"""Sign flip: attackers send the negative of their model, -x_i.

Notation: x_i what an attacker ought to send.

Reference:
    L. He, S. P. Karimireddy, M. Jaggi, "Byzantine-robust decentralized learning via ClippedGossip", arXiv 2202.01545,
    2022 (bit flipping): there an attacker's own model turns its sign at each round, too; here only what it sends.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchednodes.algorithms.attacks.base import OwnRows
from batchednodes.algorithms.base import Context

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class SignFlip(OwnRows):
    """What attackers send has the wrong sign.

    Example:
        >>> import batchednodes
        >>> settings = {"network": {"nodes": 20, "attack": {"kind": "sign_flip", "nodes": 0.2}}, "run.until": 5}
        >>> runs = [batchednodes.train(settings, more) for more in ({}, {"network": {"attack": {"kind": "none"}}})]
        >>> attacked, peaceful = (run.metrics["loss_mean"].iloc[-1] for run in runs)
        >>> bool(attacked > 2 * peaceful)
        True
    """

    nodes: int | float | list[int]
    """Who attacks: a number of nodes or a share of them in (0, 1), which are drawn, or a list of their numbers."""

    def sent(self, own: Tensor, k: Context, place: int) -> Tensor:
        return -own
