"""Partitions: which node owns which training rows, each in the named variant of the literature."""

from batchednodes.data.partitions.base import Partition, Shards
from batchednodes.data.partitions.by_label import LabelShards, LabelsPerNode
from batchednodes.data.partitions.by_quantity import LogNormalSizes, PowerLaw, QuantitySkew
from batchednodes.data.partitions.dirichlet import Dirichlet, DirichletGroups, DirichletPerClass
from batchednodes.data.partitions.iid import IID, Natural

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
