"""Compressed messages: compressors, row by row, and what makes up for what they lose."""

from batchednodes.algorithms.compression.base import Compressor, Uncompressed
from batchednodes.algorithms.compression.low_rank import LowRank
from batchednodes.algorithms.compression.quantized import QSGD, Float8, Float16, Sign
from batchednodes.algorithms.compression.sparse import RandomK, TopK

__all__ = ["QSGD", "Compressor", "Float8", "Float16", "LowRank", "RandomK", "Sign", "TopK", "Uncompressed"]
