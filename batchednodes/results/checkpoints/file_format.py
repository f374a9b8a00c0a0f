"""Safetensors files as they are written here: how they begin, and the checksum among their metadata."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

TYPES = {
    "F64": "float64",
    "F32": "float32",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "U64": "uint64",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Types of tensors, as headers name them and as PyTorch does."""

Content = tuple[str, str, tuple[int, ...], Iterable[Any]]
"""Name, type and shape of a tensor, and its bytes in blocks."""


def checksum(parts: Iterable[Content], metadata: Mapping[str, str]) -> str:
    """Returns the SHA-256 of metadata, and of names, types, shapes and bytes of tensors in the order of their names."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, dtype, shape, blocks in parts:
        digest.update(f"{name} torch.{dtype} {shape}".encode())
        for block in blocks:
            digest.update(block)
    return digest.hexdigest()


def blocks(parts: Sequence[Content], metadata: Mapping[str, str]) -> Iterator[Any]:
    """Yields the bytes of a safetensors file with some tensors and metadata."""
    head, places = begun([part[:3] for part in parts], metadata)
    yield head
    for _, _, _, content in sorted(parts, key=lambda part: places[part[0]]):
        yield from content


def begun(
    shapes: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """Returns how a safetensors file begins, and where in it each tensor does [B].

    Tensors of the longest numbers come first, so that each begins at a multiple of the length of its numbers.

    Args:
        shapes: name, type and shape of each tensor.
        metadata: texts by name.
    """
    codes, place = {dtype: code for code, dtype in TYPES.items()}, 0
    sized = [
        (max(8, int("0" + dtype.lstrip("abcdefghijklmnopqrstuvwxyz"))) // 8, n, dtype, s) for n, dtype, s in shapes
    ]
    named: dict[str, Any] = {"__metadata__": {**metadata}}
    for size, name, dtype, shape in sorted(sized, key=lambda one: (-one[0], one[1])):
        end = place + size * math.prod(shape)
        named[name] = {"dtype": codes[dtype], "shape": [*shape], "data_offsets": [place, end]}
        place = end
    text = json.dumps(named, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    places = {name: first + one["data_offsets"][0] for name, one in named.items() if name != "__metadata__"}
    return len(text).to_bytes(8, "little") + text, places
