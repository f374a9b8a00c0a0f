r"""Random numbers with addresses: each draw is a pure function of (seed, stream, node, counter).

Philox-4x32-10 turns a 64-bit key (the seed) and a 128-bit counter (node, stream, counter) into 128 random bits. No
generator is advanced, so a trajectory does not depend on batching, marks, evaluation, resume or the device. NumPy has
the same Philox, but as an object: to make one for an address takes microseconds, and a draw here takes nanoseconds.

Reference:
    J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import zlib
from typing import no_type_check

import numpy as np
from jaxtyping import Float64, Int64, UInt64
from numba import int64, njit, uint64

UPDATE, GOSSIP, INIT, BATCH, DATA, PARTITION, GRAPH, VALUES, SOURCES, EVALUATED, SHARED, GRAPH_ROUND = range(12)
DELAY, LOSS, AVAILABLE, ONLINE, LINK, FLOW, REACTIVE, ROUND, PHASE, PART, ENTRIES, JOIN, CHANNEL, KEY = range(20, 34)
ATTACKERS = 34
TAKES_PART, MATCHED, REGULAR = range(40, 43)
STEPS = 50
SAMPLED = 60
"""Streams: what a draw is for. One address never serves two purposes."""

TOGETHER = 512
"""Addresses whose draws a loop makes at once: many vectors, in the fastest cache."""

_LOW = np.uint64(0xFFFFFFFF)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_SHIFT = np.uint64(32)
_UNIT = 2.0**-52


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def block(seed, stream, node, count):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns 128 random bits, as two uint64, of the address (seed, stream, node, count).

    Example:
        >>> import numpy as np
        >>> from batchednodes.numerics import rng
        >>> first, again = (rng.block(np.uint64(0), rng.GOSSIP, 3, np.uint64(7)) for _ in range(2))
        >>> first == again, first == rng.block(np.uint64(0), rng.GOSSIP, 3, np.uint64(8))  # contacts 7 and 8 of node 3
        (True, False)
    """
    k0, k1 = uint64(seed) & _LOW, uint64(seed) >> _SHIFT
    c0, c1 = uint64(count) & _LOW, uint64(count) >> _SHIFT
    c2, c3 = uint64(node) & _LOW, uint64(stream)
    for _ in range(10):
        a, b = _M0 * (c0 & _LOW), _M1 * (c2 & _LOW)  # a vector's product takes the lower halves of words by itself
        c0, c1, c2, c3 = (b >> _SHIFT) ^ c1 ^ k0, b, (a >> _SHIFT) ^ c3 ^ k1, a
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return (c0 << _SHIFT) | (c1 & _LOW), (c2 << _SHIFT) | (c3 & _LOW)


@njit(nogil=True, cache=True)
@no_type_check
def blocks(seed, stream, nodes, counts, high, low):  # noqa: ANN001, ANN201
    """Writes the blocks of many addresses of one seed and stream; the loop is compiled to vector instructions."""
    for a in range(nodes.size):
        high[a], low[a] = block(seed, stream, nodes[a], counts[a])


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def unit(bits):  # noqa: ANN001, ANN201
    """Maps 64 random bits to the open interval (0, 1), uniformly, in steps of 2^-52.

    Example:
        >>> import numpy as np
        >>> from batchednodes.numerics.rng import unit
        >>> unit(np.uint64(2**63)), unit(np.uint64(0)) > 0, unit(np.uint64(2**64 - 1)) < 1
        (0.5000000000000001, True, True)
    """
    return (float(int64(bits >> uint64(12))) + 0.5) * _UNIT  # signed integers have an instruction for it


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def below(bits, bound):  # noqa: ANN001, ANN201
    """Maps 64 random bits to an integer of [0, bound); the bias is under bound / 2^52.

    Example:
        >>> import numpy as np
        >>> from batchednodes.numerics.rng import below
        >>> [below(np.uint64(bits), 10) for bits in (0, 2**63, 2**64 - 1)]
        [0, 5, 9]
    """
    return int(unit(bits) * bound)


@njit(nogil=True, cache=True)
@no_type_check
def _uniforms(seed: int, stream: int, nodes: np.ndarray, first: int, out: np.ndarray) -> None:
    for row in range(nodes.size):
        for k in range(out.shape[1]):
            high, low = block(seed, stream, nodes[row], first + k // 2)
            out[row, k] = unit(high if k % 2 == 0 else low)


def uniforms(seed: int, stream: int, nodes: Int64[np.ndarray, " w"], size: int) -> Float64[np.ndarray, "w size"]:
    """Returns `size` numbers of (0, 1) for each node: row k depends on (seed, stream, nodes[k]) only.

    Example:
        >>> import numpy as np
        >>> from batchednodes.numerics import rng
        >>> rng.uniforms(0, rng.INIT, np.array([0, 1, 2]), 2).round(3).tolist()
        [[0.864, 0.902], [0.724, 0.446], [0.977, 0.699]]
        >>> rng.uniforms(0, rng.INIT, np.array([2]), 2).round(3).tolist()  # node 2 draws the same alone
        [[0.977, 0.699]]

    Args:
        seed: of the network; 0 <= seed < 2^64.
        stream: one of the streams of this module.
        nodes: local indices of the nodes, 0 <= node < 2^32.
        size: draws for each node.
    """
    out = np.empty((nodes.size, size))
    _uniforms(np.uint64(seed), stream, nodes, 0, out)
    return out


def draws(
    seed: int, stream: int, nodes: Int64[np.ndarray, " w"], counts: int | Int64[np.ndarray, " w"]
) -> tuple[UInt64[np.ndarray, " w"], UInt64[np.ndarray, " w"]]:
    """Returns 128 random bits, as two arrays, for each address (seed, stream, nodes[k], counts[k]).

    Example:
        >>> import numpy as np
        >>> from batchednodes.numerics import rng
        >>> both, _ = rng.draws(0, rng.LOSS, np.array([4, 4]), np.array([0, 1]))  # two messages of node 4
        >>> rng.units(both).round(3).tolist()
        [0.388, 0.814]
    """
    high, low = np.empty((2, nodes.size), np.uint64)
    number = np.broadcast_to(counts, nodes.shape).astype(np.uint64)
    blocks(np.uint64(seed), stream, nodes.astype(np.uint64), number, high, low)
    return high, low


def code(text: str) -> int:
    """Returns a 32-bit code of a name (CRC-32), to use a name as part of an address.

    Example:
        >>> from batchednodes.numerics.rng import code
        >>> code("gossip.clock.rate"), code("update.clock.rate")
        (77743336, 2418876458)
    """
    return zlib.crc32(text.encode())


def generator(seed: int, stream: int, *address: int) -> np.random.Generator:
    """Returns a fresh NumPy generator for one bulk draw (a graph, a data set) at (seed, stream, *address).

    Two calls with one address give the same numbers; nothing is shared or advanced between calls.

    Example:
        >>> from batchednodes.numerics import rng
        >>> first, again, other = (rng.generator(seed, rng.GRAPH).random(4) for seed in (7, 7, 8))
        >>> (first == again).all().item(), (first == other).any().item()
        (True, False)
    """
    words = [word for part in (seed, *address) for word in (part & 0xFFFFFFFF, part >> 32)]  # of one width each
    entropy = np.array([stream, len(address), *words], np.uint32)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy.tolist())))


def units(bits: np.ndarray) -> np.ndarray:
    """Maps arrays of 64 random bits to the open interval (0, 1), as `unit`."""
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * _UNIT
