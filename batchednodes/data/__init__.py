"""What the nodes learn from: sources of data, partitions over the nodes, minibatches by address."""

from batchednodes.data.bundled import Digits, Sklearn
from batchednodes.data.draws import Sampler
from batchednodes.data.heterogeneity import Heterogeneity, LabelCounts
from batchednodes.data.huggingface import HuggingFace
from batchednodes.data.images import ImageFolder
from batchednodes.data.npz import Npz
from batchednodes.data.partitions import (
    IID,
    Dirichlet,
    DirichletGroups,
    DirichletPerClass,
    LabelShards,
    LabelsPerNode,
    LogNormalSizes,
    Natural,
    Partition,
    PowerLaw,
    QuantitySkew,
    Shards,
)
from batchednodes.data.shifts import Noise, Rotation, Shift, shifted
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
    "DirichletGroups",
    "DirichletPerClass",
    "Heterogeneity",
    "HuggingFace",
    "ImageFolder",
    "LabelCounts",
    "LabelShards",
    "LabelsPerNode",
    "Libsvm",
    "LinearRegression",
    "LogNormalSizes",
    "Natural",
    "Noise",
    "NonlinearRegression",
    "Npz",
    "Parquet",
    "Partition",
    "PowerLaw",
    "QuantitySkew",
    "Rotation",
    "Sampler",
    "Shards",
    "Shift",
    "Sklearn",
    "Source",
    "check_dataset",
    "shifted",
]
