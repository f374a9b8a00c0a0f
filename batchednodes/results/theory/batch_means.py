r"""Confidence intervals of means over time.

Notation: m samples.
"""

import math

import numpy as np
import scipy
from jaxtyping import Float64


def batch_means(samples: Float64[np.ndarray, " m"], batches: int, confidence: float) -> tuple[float, float]:
    """Returns the mean of a stationary, dependent series and the half-width of its interval by batch means.

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.theory import batch_means
        >>> series = np.array([1.0, 1.2, 0.9, 1.1, 1.0, 0.8, 1.1, 0.9])
        >>> mean, half_width = batch_means(series, batches=4, confidence=0.95)
        >>> round(mean, 3), round(half_width, 3)
        (1.0, 0.13)

    Args:
        samples: the series, in order; the first m mod batches are left out.
        batches: number of consecutive batches, whose means are taken as independent and normal; 2 <= batches <= m.
        confidence: of the interval, for instance 0.95, by Student's t with batches - 1 degrees of freedom.
    """
    assert 2 <= batches <= samples.size
    size = samples.size // batches
    means = samples[samples.size - size * batches :].reshape(batches, size).mean(1)
    quantile = scipy.special.stdtrit(batches - 1, (1 + confidence) / 2)
    return float(means.mean()), float(quantile * means.std(ddof=1) / math.sqrt(batches))
