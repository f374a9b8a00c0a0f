"""Partitions: which node owns which training rows, each in the named variant of the literature."""

from batchednodes.data.partitions.dirichlet import Dirichlet, DirichletGroups, DirichletPerClass
from batchednodes.data.partitions.labels import LabelShards, LabelsPerNode
from batchednodes.data.partitions.plain import IID, Natural
from batchednodes.data.partitions.quantities import LogNormalSizes, PowerLaw, QuantitySkew
from batchednodes.data.partitions.shards import Partition, Shards

__all__ = [
    "IID",
    "Dirichlet",
    "DirichletGroups",
    "DirichletPerClass",
    "LabelShards",
    "LabelsPerNode",
    "LogNormalSizes",
    "Natural",
    "Partition",
    "PowerLaw",
    "QuantitySkew",
    "Shards",
]
