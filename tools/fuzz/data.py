"""Data sets of a few rows: identifiers, real numbers, images, sequences; sound, or with something wrong.

Notation: S rows.
"""

import math
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
REALS = ("float16", "float32", "float64")

_VALUES = {"negative": -1, "far above": 10**4, "nan": math.nan, "inf": -math.inf, "huge": 1e300, "large": 1e9}

BAD = ("above", *_VALUES)
"""What one number may be that does not belong; `large` is finite and may do harm all the same."""

TARGETS = ("labels", "from one", "gaps", "negative", "reals", "whole", "columns", "tokens", "bytes", "column")
"""Kinds of targets."""

Data = Mapping[str, Any]
"""What describes a data set, in plain data."""


def drawn(draw: Random) -> dict[str, Any]:
    """Returns the description of a data set: sound as a rule."""
    kind = draw.choice(["ids", "ids", "reals", "reals", "images", "sequences"])
    t = draw.randint(1, 5)
    shapes = {
        "ids": [(t,), (t,), (t, 2), ()],
        "reals": [(t,), (t,), ()],
        "images": [(1, 4, 4), (2, 5, 3), (1, 1, 1)],
        "sequences": [(t, 2), (t, 3), (t, 1)],
    }
    types = {
        "ids": (*INTEGERS * 2, "int64", "int64", "bool", "float32", "float64"),
        "reals": (*REALS, "float64", "int8", "int64", "bool"),
        "images": ("uint8", "uint8", "float32", "bool"),
        "sequences": REALS,
    }
    usual = ["labels"] * 6 + (["tokens"] * 4 if kind in ("ids", "sequences") else [])
    return {
        "kind": kind,
        "shape": list(draw.choice(shapes[kind])),
        "dtype": draw.choice(types[kind]),
        "rows": draw.choice([2, 3, 5, 8, 12, 12, 16, 16, 24, 24]),
        "high": draw.choice([2, 5, 9]),
        "bad": draw.choice([None] * 12 + [*BAD]),
        "where": draw.choice(["train", "test", "both"]),
        "targets": draw.choice([*usual, "reals", *TARGETS]),
        "classes": draw.choice([1, 2, 3, 3, 4]),
        "test": draw.choice([None, None, None, 1, 2, 7]),
        "node": draw.random() < 0.05,
        "seed": draw.randrange(1 << 20),
    }


def width(data: Data) -> int:
    """Returns how many numbers a network puts out for each label, or for a row of real targets."""
    kind = data["targets"]
    if kind in ("reals", "whole"):
        return 1
    return 2 if kind == "columns" else data["classes"] + (kind in ("from one", "gaps"))


def tokens(data: Data) -> list[int]:
    """Returns the shape of the labels of a row; one label is none of a token."""
    return [] if _places(data) == [1] else _places(data)


def _places(data: Data) -> list[int]:
    return (data["shape"][:1] or [2]) if data["targets"] == "tokens" else []


def is_sound(data: Data) -> bool:
    """Returns whether a run takes such data, with as few nodes as there are rows."""
    plain = data["bad"] is None and data["targets"] in ("labels", "reals", "tokens", "columns", "bytes", "column")
    return plain and not data["node"] and data["rows"] >= 8 and data["classes"] > 1


def arrays(data: Data) -> dict[str, np.ndarray]:
    """Returns the arrays of a data set, by the names that an npz file has them by."""
    rng, rows = np.random.default_rng(data["seed"]), data["rows"]
    made = {"features": _features(rng, data, rows), "targets": _targets(rng, data, rows)}
    if data["node"]:
        made["node"] = np.arange(rows) % 2
    if data["test"]:
        made |= {"test_features": _features(rng, data, data["test"]), "test_targets": _targets(rng, data, data["test"])}
    if data["bad"]:
        for name in made:
            if name.endswith("features") and data["where"] != ("train" if name.startswith("test") else "test"):
                made[name] = _spoilt(made[name], data)
    return made


def _features(rng: np.random.Generator, data: Data, rows: int) -> np.ndarray:
    shape = (rows, *data["shape"])
    if data["kind"] in ("reals", "sequences"):
        values = rng.normal(size=shape) * (1 if data["dtype"].startswith("float") else 3)
        return values.astype(data["dtype"])
    high = 256 if data["kind"] == "images" else 2 if data["dtype"] == "bool" else data["high"]
    made = rng.integers(0, high, shape).astype(data["dtype"])
    return made / np.float32(256) if data["kind"] == "images" and data["dtype"] == "float32" else made


def _targets(rng: np.random.Generator, data: Data, rows: int) -> np.ndarray:
    kind, classes = data["targets"], data["classes"]
    if kind in ("reals", "columns"):
        return rng.normal(size=(rows, 2) if kind == "columns" else rows).astype(np.float32)
    shape = (rows, *_places(data))
    made = rng.integers(0, classes, shape)
    made.flat[: min(classes, made.size)] = np.arange(classes)[: made.size][::-1]  # the largest is there
    match kind:
        case "from one":
            return made + 1
        case "gaps":
            return made * 2 if classes <= 2 else made + (made > 0)
        case "negative":
            return made - 1
        case "whole":
            return made.astype(np.float64)
        case "bytes":
            return made.astype(np.uint8)
        case "column":
            return made.reshape(rows, 1)
        case _:
            return made


def _spoilt(features: np.ndarray, data: Data) -> np.ndarray:
    """Returns features with one number that does not belong among them, in the last row."""
    kind = features.dtype.kind
    value = data["high"] if data["bad"] == "above" else _VALUES[data["bad"]]
    if kind != "f" and not (math.isfinite(value) and abs(value) < 1e10):
        value = 100
    if kind in "iu":
        limits = np.iinfo(features.dtype)
        value = min(max(int(value), limits.min), limits.max)
    spoilt = features.copy()
    with np.errstate(over="ignore"):
        spoilt.reshape(len(spoilt), -1)[-1, -1] = value
    return spoilt
