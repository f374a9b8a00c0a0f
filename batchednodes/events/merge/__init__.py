r"""Merge rules: how much a model received counts; one paper, one file.

Notation: a own age, b age of the model received.
"""

from typing import no_type_check

from numba import njit

from batchednodes.events.merge.age_weighted import AgeWeighted
from batchednodes.events.merge.base import Merge, MergeLaw
from batchednodes.events.merge.clipped_gossip import ClippedGossip
from batchednodes.events.merge.fixed import Fixed, Mean
from batchednodes.events.merge.gathering import Gathering
from batchednodes.events.merge.geometric_median import GeometricMedian
from batchednodes.events.merge.krum import Krum
from batchednodes.events.merge.limited import Limited
from batchednodes.events.merge.median import Median
from batchednodes.events.merge.partitioned import Partitioned
from batchednodes.events.merge.sampled import Sampled
from batchednodes.events.merge.staleness_weighted import StalenessWeighted
from batchednodes.events.merge.trimmed_mean import TrimmedMean
from batchednodes.numerics.functions import of_four

__all__ = [
    "AgeWeighted",
    "ClippedGossip",
    "Fixed",
    "Gathering",
    "GeometricMedian",
    "Krum",
    "Limited",
    "Mean",
    "Median",
    "Merge",
    "MergeLaw",
    "Partitioned",
    "Sampled",
    "StalenessWeighted",
    "TrimmedMean",
    "weight",
]


@njit(nogil=True, cache=True)
@no_type_check
def weight(where, a, b, own, other):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the weight of a model received, by address and parameters of a `MergeLaw` and the two ages [steps]."""
    return a if where == 0 else of_four(where, float(own), float(other), a, b)
