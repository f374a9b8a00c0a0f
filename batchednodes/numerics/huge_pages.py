r"""Huge pages: memory for large arrays, in the large pages of the system where it has them.

The system gives memory page by page when it is first written. Half a thousand small pages take much longer than the
one large page that they make, and each window of events is written anew. NumPy asks for large pages, but only for
arrays of 4 MiB, and not for their two ends.

Notation: m numbers of each array.
"""

import numpy as np

_PAGE = 1 << 21
"""Bytes of a large page."""

_LARGE = 1 << 22
"""Bytes of an array from which on NumPy asks for large pages."""


def empty(m: int, *dtypes: type[np.generic]) -> list[np.ndarray]:
    """Returns arrays of m numbers of each type, one after the other in memory, the widest first.

    Example:
        >>> import numpy as np
        >>> from batchednodes.numerics.huge_pages import empty
        >>> node, time = empty(1000, np.int32, np.float64)
        >>> node.dtype, time.shape
        (dtype('int32'), (1000,))
    """
    sizes = [m * np.dtype(dtype).itemsize for dtype in dtypes]
    total = sum(sizes)
    if total < _LARGE:
        return [np.empty(m, dtype) for dtype in dtypes]
    memory = np.empty(total + 2 * _PAGE, np.uint8)  # what is beyond the arrays is never given
    first = -memory.ctypes.data % _PAGE
    ends = [first + sum(sizes[:k]) for k in range(len(sizes) + 1)]
    return [memory[a:b].view(dtype) for a, b, dtype in zip(ends, ends[1:], dtypes, strict=False)]
