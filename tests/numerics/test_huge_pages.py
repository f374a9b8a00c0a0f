"""Memory in large pages: arrays as they were asked for, wherever they lie."""

import numpy as np
import pytest

from batchednodes.numerics import huge_pages


@pytest.mark.parametrize("m", [0, 1, 1000, 1_000_001])
def test_arrays_have_their_sizes_and_do_not_overlap(m):
    arrays = huge_pages.empty(m, np.float64, np.int32, np.int8)
    for k, array in enumerate(arrays):
        array[:] = k + 1
    assert [a.dtype for a in arrays] == [np.float64, np.int32, np.int8]
    for k, array in enumerate(arrays):
        assert array.shape == (m,)
        assert (array == k + 1).all()
        assert array.ctypes.data % array.itemsize == 0


def test_large_arrays_begin_with_a_large_page():
    first, second = huge_pages.empty(1 << 20, np.float64, np.int32)
    assert first.ctypes.data % (1 << 21) == 0
    assert second.ctypes.data == first.ctypes.data + first.nbytes
