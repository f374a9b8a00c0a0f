"""What the nodes learn from: sources of data, partitions over the nodes, minibatches by address."""

from batchednodes.data.augmentations import Augmentation, Crop, Cutout, Flip, Mixup
from batchednodes.data.feature_shift import Noise, Rotation, Shift, shifted
from batchednodes.data.heterogeneity import Heterogeneity, LabelCounts
from batchednodes.data.minibatches import Sampler
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
from batchednodes.data.sources.base import Dataset, DataSizes, OwnTests, Source, check_dataset
from batchednodes.data.sources.bundled import Digits, Sklearn
from batchednodes.data.sources.heart_disease import HeartDisease
from batchednodes.data.sources.huggingface import HuggingFace
from batchednodes.data.sources.images import ImageFolder
from batchednodes.data.sources.leaf import Leaf
from batchednodes.data.sources.npz import Npz
from batchednodes.data.sources.objects import from_objects
from batchednodes.data.sources.quadratics import Quadratics
from batchednodes.data.sources.svmlight import Libsvm
from batchednodes.data.sources.synthetic import LinearRegression, NonlinearRegression
from batchednodes.data.sources.tables import Csv, Parquet
from batchednodes.data.sources.tcga_brca import TcgaBrca
from batchednodes.data.step_counts import Geometric, StepCount

__all__ = [
    "IID",
    "Augmentation",
    "Crop",
    "Csv",
    "Cutout",
    "DataSizes",
    "Dataset",
    "Digits",
    "Dirichlet",
    "DirichletGroups",
    "DirichletPerClass",
    "Flip",
    "Geometric",
    "HeartDisease",
    "Heterogeneity",
    "HuggingFace",
    "ImageFolder",
    "LabelCounts",
    "LabelShards",
    "LabelsPerNode",
    "Leaf",
    "Libsvm",
    "LinearRegression",
    "LogNormalSizes",
    "Mixup",
    "Natural",
    "Noise",
    "NonlinearRegression",
    "Npz",
    "OwnTests",
    "Parquet",
    "Partition",
    "PowerLaw",
    "Quadratics",
    "QuantitySkew",
    "Rotation",
    "Sampler",
    "Shards",
    "Shift",
    "Sklearn",
    "Source",
    "StepCount",
    "TcgaBrca",
    "check_dataset",
    "from_objects",
    "shifted",
]
