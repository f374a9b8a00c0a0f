r"""How many actions a clock makes in a finite time.

Notation: n nodes, c shift of a gap [s], b scale of its exponential part [s], r long-run rate [1/s], m(t) mean number of
actions in (0, t].
"""

import numpy as np
import scipy
from jaxtyping import Float64

from batchednodes.numerics.values import number


def expected_updates(
    shift: Float64[np.ndarray, " n"], scale: Float64[np.ndarray, " n"], t: float
) -> Float64[np.ndarray, " n"]:
    r"""Returns the exact mean number of actions in (0, t] of clocks with gaps c + b Exp(1): their renewal function.

    The k-th action comes at k c + b Gamma(k), so

        m(t) = sum_{k >= 1} P(k c + b Gamma(k) <= t) = sum_{k >= 1, k c <= t} P(k, (t - k c) / b)

    with P the regularised lower incomplete gamma function. It is t / b for c = 0 and floor(t / c) for b = 0; if b > 0,
    m(t) - r t tends to (r^2 b^2 - 1) / 2 for large t, with the long-run rate r = 1 / (c + b).

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.theory import expected_updates
        >>> expected_updates(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.0]), 10.0).round(2).tolist()
        [10.0, 9.62, 10.0]

    Args:
        shift: c of each node [s]; non-negative; infinite where the node never acts.
        scale: b of each node [s]; non-negative and finite; c + b > 0.
        t: length of time from the start [s]; non-negative and finite. Takes time n t / (c + b).

    Returns:
        m(t) of each node; dimensionless. Terms below 1e-15 are left out.

    Raises:
        ValueError: an argument is out of range.

    Reference:
        D. R. Cox, "Renewal theory", 1962, section 4.1.
    """
    number(t, 1, "t", unit="s")
    if not ((shift >= 0) & (scale >= 0) & np.isfinite(scale) & (shift + scale > 0)).all():
        raise ValueError("shift and scale must be non-negative, with finite scale and positive sum [s]")
    acts = np.isfinite(shift)
    out = np.zeros(shift.size)
    plain = acts & (scale == 0)
    out[plain] = np.floor(t / shift[plain])
    out[acts & (shift == 0)] = t / scale[acts & (shift == 0)]
    both = acts & (scale > 0) & (shift > 0)
    out[both] = _series(shift[both], scale[both], t)
    return out


def _series(c: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Returns m(t) term by term.

    With x = t / (c + b), the terms after x + 12 sqrt(x) + 80 are left out: Gamma(k) <= k - z has probability at most
    exp(-z^2 / (2k)) (Chernoff), and here z^2 / (2k) >= 40 and grows with k.
    """
    x = t / (c + b)
    terms = np.minimum(np.floor(t / c), np.ceil(x + 12 * np.sqrt(x) + 80))
    out = np.zeros(c.size)
    for k in range(1, int(terms.max(initial=0)) + 1):
        out += np.where(k <= terms, scipy.special.gammainc(k, np.maximum(t - k * c, 0) / b), 0.0)
    return out
