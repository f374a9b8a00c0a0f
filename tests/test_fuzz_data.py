"""Data files that nobody meant: npz archives and edge lists, damaged in every way that we could think of."""

import io
import zipfile
from random import Random
from typing import Any

import numpy as np
import pytest
from fuzzing import case, settle
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

ARCHIVES, EDGES = 900, 500
"""Cases of each test."""

DTYPES = ("float64", "float32", "float16", "int64", "int32", "uint8", "uint64", "bool", "complex64", ">f8", ">i4", "S3",
          "U2", "M8[s]", "m8[s]", "V4", "longdouble", "i4,f4")  # fmt: skip
NAMES = ("features", "targets", "node", "test_features", "test_targets") * 3 + ("feature", "../x")
SPECIAL = (0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e300, 1e-300, 2.5, 2**53, 2**62, -(2**62))


def array(random: Random, rows: int) -> np.ndarray:
    """Returns an array of any type and shape, of some rows as a rule."""
    shape = random.choice([(rows,), (rows, 2), (rows, 1), (rows, 2, 2), (rows, 0), (), (0,), (rows + 1,), (1, rows)])
    values = np.array([random.choice([0, 1, 2, random.choice(SPECIAL)]) for _ in range(int(np.prod(shape)))])
    with np.errstate(all="ignore"):
        if random.random() < 0.6:
            made = values.astype(random.choice(["float64", "int64", "float32", "int32"]))
        else:
            made = np.zeros(values.shape, random.choice(DTYPES))
    return np.array(made.reshape(shape), order=random.choice(["C", "F"]))


def sound(random: Random, rows: int) -> dict[str, Any]:
    """Returns arrays that make a data set."""
    labels = np.array([random.randrange(3) for _ in range(rows)])
    made = {"features": np.array([[random.random(), 1] for _ in range(rows)]), "targets": labels}
    if random.random() < 0.4:
        made["node"] = np.arange(rows) % 2
    if random.random() < 0.4:
        made |= {"test_features": made["features"][:2], "test_targets": labels[:2]}
    return made


def archive(random: Random) -> bytes:
    """Returns an npz file: sound, with wrong arrays, or damaged."""
    rows = random.choice([1, 2, 5, 12])
    arrays = sound(random, rows)
    for _ in range(random.choice([0, 1, 1, 2])):
        name = random.choice([*NAMES])
        if random.random() < 0.2:
            arrays.pop(name, None)
        elif random.random() < 0.15:
            arrays[name] = np.array([{"a": 1}] * rows, dtype=object)
        else:
            arrays[name] = array(random, rows)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", random.choice([0, 8, 12, 14])) as out:
        for name, values in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=True)
            content = member.getvalue()
            if random.random() < 0.1:
                content = damaged(random, content)
            out.writestr(name + random.choice([".npy"] * 9 + [""]), content)
    return damaged(random, packed.getvalue()) if random.random() < 0.3 else packed.getvalue()


def damaged(random: Random, content: bytes) -> bytes:
    """Returns bytes cut off, changed, or with something else in the header."""
    match random.randrange(4):
        case 0:
            return content[: random.randrange(len(content) + 1)]
        case 1:
            changed = bytearray(content)
            for _ in range(random.choice([1, 3, 30])):
                changed[random.randrange(len(changed))] = random.randrange(256)
            return bytes(changed)
        case 2:
            shape = random.choice(
                [b"(1000000000000,)", b"(-1,)", b"((((((((", b"(True,)", b"'x'", b"(5,)", b"((5,),)", b"(5L,)", b"[5]"]
            )
            return content.replace(b"(5, 2)", shape).replace(b"(5,)", shape)
        case _:
            return bytes(random.randrange(256) for _ in range(random.choice([0, 1, 100])))


def options(random: Random) -> dict[str, Any]:
    """Returns settings of the data, the split and the model."""
    kind = random.choice([None, "iid", "dirichlet", "shards", "quantity_skew", "natural"])
    return {
        "network": {"nodes": random.choice([1, 2, 3])},
        "run": {"until": 1, "mark_every": 1},
        "task": {
            "data": {"kind": "npz", "path": "d.npz", "standardize": random.choice(["none", "none", "train", "all"])},
            "partition": kind and {"kind": kind},
            "loss": random.choice(["auto", "auto", "mse", "cross_entropy"]),
        },
    }


@settings(max_examples=ARCHIVES)
@given(st.randoms(use_true_random=True))
def test_archives(random):
    content, source = archive(random), options(random)
    with case(d__npz=content) as here:
        message = settle(source, build=random.random() < 0.3, folder=here.folder)
        assert not message or "task." in message or "network.nodes" in message, (message, source)


def lines(random: Random) -> bytes:
    """Returns a list of edges, some of them none."""
    made = []
    for _ in range(random.randrange(8)):
        i, j = random.randrange(4), random.randrange(4)
        made.append(f"{i} {j}" if i != j or random.random() < 0.1 else f"{i} {(i + 1) % 4}")
    if random.random() < 0.6:
        odd = [
            "", "#", "# 1 2", "0 1 # x", "0", "0 1 2", "a b", "-1 0", "0 9", "0 0", "0.0 1", "1e0 2", "+0 1",
            "\t0\t1\t", "0,1", "\u0661 \u0662", "0 1\r", "9" * 30 + " 1", "0 " + "1" * 100_000, "\x00", "0\x0b1",
            "0\u20281", "nan 1",
        ]  # fmt: skip
        made.insert(random.randrange(len(made) + 1), random.choice(odd))
    content = random.choice(["\n", "\n", "\r\n"]).join(made).encode()
    return random.choice([b"", b"", b"", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe"]) + content


@settings(max_examples=EDGES)
@given(st.randoms(use_true_random=True))
def test_edge_lists(random):
    topology = {"kind": "edge_list", "path": "e.txt", "directed": random.random() < 0.5}
    with case(e__txt=lines(random)) as here:
        message = settle(
            {"network": {"nodes": random.choice([1, 3, 4, 4])} | {"topology": topology}, "run": {"until": 1}},
            folder=here.folder,
        )
        assert not message or "network.topology.path" in message, message
