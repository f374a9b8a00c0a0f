"""What the nodes learn from: sources of data, partitions over the nodes, minibatches by address."""

from batchednodes.data.draws import Sampler
from batchednodes.data.npz import Npz
from batchednodes.data.partitions import IID, Dirichlet, LabelShards, Natural, Partition, QuantitySkew, Shards
from batchednodes.data.sources import (
    Dataset,
    DataSizes,
    Digits,
    LinearRegression,
    NonlinearRegression,
    Source,
    check_dataset,
)

__all__ = [
    "IID",
    "DataSizes",
    "Dataset",
    "Digits",
    "Dirichlet",
    "LabelShards",
    "LinearRegression",
    "Natural",
    "NonlinearRegression",
    "Npz",
    "Partition",
    "QuantitySkew",
    "Sampler",
    "Shards",
    "Source",
    "check_dataset",
]
