r"""Merge rules: how much a model received counts; one paper, one file.

Letters: a own age, b age of the model received.
"""

from typing import no_type_check

from numba import njit

from batchednodes.events.merge.age_weighted import AgeWeighted, by_ages
from batchednodes.events.merge.base import AGES, LAG, LIMITED, OPEN, WEIGHT, ByAges, Merge, Weighing
from batchednodes.events.merge.fixed import Fixed, Mean
from batchednodes.events.merge.limited import Limited, by_limit
from batchednodes.events.merge.partitioned import Partitioned
from batchednodes.events.merge.sampled import Sampled
from batchednodes.events.merge.staleness_weighted import StalenessWeighted, by_lag

__all__ = [
    "AGES",
    "LAG",
    "LIMITED",
    "OPEN",
    "WEIGHT",
    "AgeWeighted",
    "ByAges",
    "Fixed",
    "Limited",
    "Mean",
    "Merge",
    "Partitioned",
    "Sampled",
    "StalenessWeighted",
    "Weighing",
    "weight",
]


@njit(nogil=True, cache=True)
@no_type_check
def weight(law, a, b, own, other):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the weight of a model received, by law and parameters of a `Weighing` and the two ages [steps]."""
    if law == AGES:
        return by_ages(own, other)
    if law == LAG:
        return by_lag(own, other, a, b)
    return by_limit(own, other, a) if law == LIMITED else a
