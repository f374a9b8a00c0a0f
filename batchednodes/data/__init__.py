"""What the nodes learn from: sources of data, partitions over the nodes, minibatches by address."""

from batchednodes.data.bundled import Digits, Sklearn
from batchednodes.data.draws import Sampler
from batchednodes.data.huggingface import HuggingFace
from batchednodes.data.images import ImageFolder
from batchednodes.data.npz import Npz
from batchednodes.data.partitions import IID, Dirichlet, LabelShards, Natural, Partition, QuantitySkew, Shards
from batchednodes.data.sources import Dataset, DataSizes, Source, check_dataset
from batchednodes.data.svmlight import Libsvm
from batchednodes.data.synthetic import LinearRegression, NonlinearRegression
from batchednodes.data.tables import Csv, Parquet

__all__ = [
    "IID",
    "Csv",
    "DataSizes",
    "Dataset",
    "Digits",
    "Dirichlet",
    "HuggingFace",
    "ImageFolder",
    "LabelShards",
    "Libsvm",
    "LinearRegression",
    "Natural",
    "NonlinearRegression",
    "Npz",
    "Parquet",
    "Partition",
    "QuantitySkew",
    "Sampler",
    "Shards",
    "Sklearn",
    "Source",
    "check_dataset",
]
