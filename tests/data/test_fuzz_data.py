"""Data files that nobody meant: archives, tables, images, edge lists, damaged in every way that we could think of."""

import io
import tempfile
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from fuzzing import case, settle
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from batchednodes.config import KINDS

pytestmark = pytest.mark.slow

ARCHIVES, EDGES, TABLES, SPARSE, IMAGES, COLUMNS, SAVED = 900, 500, 350, 200, 150, 200, 60
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
    kind = random.choice([None, *KINDS["task.partition"]])
    shift = random.choice([None, None, *KINDS["task.shift"]])
    return {
        "network": {"nodes": random.choice([1, 2, 3])},
        "run": {"until": 1, "mark_every": 1},
        "task": {
            "data": {
                "kind": "npz",
                "path": "d.npz",
                "standardize": random.choice(["none", "none", "train", "all"]),
                "features_as": random.choice(["auto", "auto", "auto", "integers", "real"]),
                "classes": random.choice(["auto", "auto", "auto", True, False]),
            },
            "partition": kind and {"kind": kind},
            "shift": shift and {"kind": shift},
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


CELLS = (
    "1", "-2", "0.5", "1e3", " 4 ", "", " ", "nan", "NaN", "inf", "-Infinity", "NA", "?", "a", "True", "1e400", "1_0",
    "0x1F", "9" * 25, '"', '"a,b"', '"1"', "'1'", "#", "\u0661", "\u20ac", "2020-01-01", "1:2", "x" * 5000, "\x00",
    "1 2",
)  # fmt: skip


def table(random: Random) -> bytes:
    """Returns a table of text: sound, or with odd cells, lines and bytes."""
    rows, width = random.choice([0, 1, 2, 5, 12]), random.choice([1, 2, 3, 5])
    between = random.choice([",", ",", ",", ";", "\t", " ", ", "])
    cells = [[f"{random.gauss(0, 1):.3f}" for _ in range(width - 1)] + [str(k % 2)] for k in range(rows)]
    if random.random() < 0.5:
        cells.insert(0, [random.choice(["a", "b", "y", "0", "", "label"]) + str(k) for k in range(width)])
    for _ in range(random.choice([0, 0, 1, 2]) if cells else 0):
        random.choice(cells)[random.randrange(width)] = random.choice(CELLS)
    if cells and random.random() < 0.1:
        odd = random.choice(cells)
        odd.append("3") if random.random() < 0.5 else odd.pop()
    if random.random() < 0.1:
        cells.insert(random.randrange(len(cells) + 1), [])
    content = random.choice(["\n", "\n", "\r\n", "\r"]).join(between.join(line) for line in cells).encode()
    content = random.choice([b""] * 9 + [b"\xef\xbb\xbf"]) + content
    return damaged(random, content) if content and random.random() < 0.2 else content


def of_table(random: Random) -> dict[str, Any]:
    """Returns settings of a table."""
    columns = ["last", "first", "0", "1", "y", "a0", "", "-1", "9" * 30]
    return {
        "kind": "csv",
        "path": "d.csv",
        "target": random.choice(["last"] * 5 + columns),
        "header": random.choice(["auto", "auto", True, False]),
        "separator": random.choice([",", ",", ",", ";", "\t", " "]),
        "ignore": random.choice([[]] * 5 + [[random.choice(columns)]]),
        "node": random.choice([None] * 5 + columns),
        "classes": random.choice(["auto", "auto", True, False]),
        "test_path": random.choice([None] * 3 + ["d.csv"]),
        "standardize": random.choice(["none", "train", "all"]),
        "features_as": random.choice(["auto", "auto", "integers", "real"]),
    }


def settled(random: Random, data: dict[str, Any], folder: Path) -> None:
    """Plans or builds a run on some data; what is refused names a setting."""
    source = options(random)
    source["task"]["data"] = data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "batchednodes.simulation.planning.memory_plan.free_host", lambda: 1 << 28
        )  # else a machine of enough memory tries 2^31 features
        message = settle(source, build=random.random() < 0.5, folder=folder)
    known = ("task.", "network.nodes", "the run must fit in memory")
    assert not message or any(word in message for word in known), (message, data)


@settings(max_examples=TABLES)
@given(st.randoms(use_true_random=True))
def test_tables(random):
    with case(d__csv=table(random)) as here:
        settled(random, of_table(random), here.folder)


def column(random: Random, rows: int) -> pa.Array:
    """Returns a column of a table with types: numbers as a rule."""
    numbers = [random.gauss(0, 1) for _ in range(rows)]
    whole = [random.randrange(3) for _ in range(rows)]
    if random.random() < 0.7:
        return random.choice([pa.array(numbers), pa.array(whole), pa.array(numbers, pa.float32())])
    with_gap = [None, *numbers][:rows]
    odd = [
        pa.array(with_gap), pa.nulls(rows), pa.array([None, *whole][:rows], pa.int64()),
        pa.array([float(random.choice(SPECIAL)) for _ in range(rows)]),
        pa.array(whole, pa.uint64()), pa.array([2**63] * rows, pa.uint64()), pa.array(numbers).cast(pa.float16()),
        pa.array([k > 0 for k in whole]), pa.array([str(k) for k in whole]), pa.array([b"\xff"] * rows),
        pa.array(["x" * 9] * rows).dictionary_encode(), pa.array([[1.0, 2.0]] * rows),
        pa.array([[1.0], [], None][:rows] + [[0.0]] * (rows - 3)),
        pa.array([{"a": 1}] * rows), pa.array(whole, pa.timestamp("s")), pa.array(whole, pa.duration("s")),
        pa.array(whole, pa.date32()), pa.array(whole).cast(pa.decimal128(21, 2)), pa.array(whole, pa.time32("s")),
    ]  # fmt: skip
    return random.choice(odd)


def typed(random: Random) -> pa.Table:
    """Returns a table with types: sound, or with odd columns or names."""
    rows = random.choice([0, 1, 2, 5, 12])
    columns = [column(random, rows) for _ in range(random.choice([0, 1, 2, 3, 5]))]
    columns += [pa.array([k % 2 for k in range(rows)], pa.int64())] * (random.random() < 0.8)
    names = [random.choice([f"a{k}"] * 9 + ["y", "", "0", "\u20ac\n"]) for k in range(len(columns))]
    return pa.Table.from_arrays(columns, names)


@settings(max_examples=COLUMNS)
@given(st.randoms(use_true_random=True))
def test_typed_tables(random):
    packed = io.BytesIO()
    parquet.write_table(typed(random), packed, compression=random.choice(["none", "snappy", "zstd"]))
    content = packed.getvalue()
    with case(d__parquet=damaged(random, content) if random.random() < 0.3 else content) as here:
        data = of_table(random) | {"kind": "parquet", "path": "d.parquet"}
        data = {key: value for key, value in data.items() if key not in ("header", "separator")}
        settled(random, data | {"test_path": random.choice([None] * 3 + ["d.parquet"])}, here.folder)


def saved(random: Random, folder: Path) -> None:
    """Writes a data set as `save_to_disk` does, some of its files damaged or missing."""
    made = datasets.Dataset(typed(random))
    if random.random() < 0.4:
        datasets.DatasetDict(dict.fromkeys(random.choice([["train"], ["train", "test"], ["a"]]), made)).save_to_disk(
            folder
        )
    else:
        made.save_to_disk(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if random.random() < 0.6:
        chosen = random.choice(files)
        content = chosen.read_bytes()
        if random.random() < 0.3:
            chosen.unlink()
        elif content:
            chosen.write_bytes(damaged(random, content))


@settings(max_examples=SAVED)
@given(st.randoms(use_true_random=True))
def test_saved_data_sets(random):
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        try:
            saved(random, Path(name) / "in")
        except (pa.ArrowException, TypeError, ValueError, KeyError, NotImplementedError, AttributeError):
            return  # the library writes no such table
        columns = ["a0", "a1", "y", ""]
        data = {
            "kind": "huggingface",
            "path": random.choice(["in"] * 9 + ["."]),
            "features": random.choice([["a0"], ["a0", "a1"], [], [random.choice(columns)]]),
            "target": random.choice(columns),
            "split": random.choice(["train"] * 4 + ["a", "test[:1]", "x"]),
            "test_split": random.choice([None, None, "test", "train"]),
            "standardize": random.choice(["none", "train", "all"]),
            "features_as": random.choice(["auto", "auto", "integers", "real"]),
        }
        settled(random, data, Path(name))


def sparse(random: Random) -> bytes:
    """Returns a file of libsvm: sound, or with odd words, lines and bytes."""
    made = []
    for _ in range(random.choice([0, 1, 2, 5, 12])):
        indices = sorted(random.sample(range(random.randrange(2), 8), random.randrange(4)))
        made.append(" ".join([str(random.choice([-1, 1, 2.5])), *(f"{k}:{random.gauss(0, 1):.2f}" for k in indices)]))
    if random.random() < 0.5:
        odd = [
            "", "#", "1", "1 1", "1 1:", "1 :1", "1 1:1:1", "x 1:1", "1 x:1", "1 1:x", "1 -1:1", "1 2:1 1:1",
            "1 1:1 1:1", "nan 1:1", "1 1:nan", "1 1:inf", "1 1:1e400", "1 1.5:1", "1,2 1:1", "1 qid:1 1:1",
            "1 qid:x 1:1", "1\t1:1",
            "1 2147483647:1", "1 2147483648:1", f"1 {'9' * 30}:1", f"1 1:{'1' * 50_000}", "1 1:1\x00", "\u0661 1:1",
            "1 1 :1", "1 500000000:1", "1e400 1:1", "+ 1:1", "0x1 1:1", "1 1:0x1", "1_0 1:1", "1 1_0:1",
        ]  # fmt: skip
        made.insert(random.randrange(len(made) + 1), random.choice(odd))
    content = random.choice(["\n", "\n", "\r\n"]).join(made).encode()
    return damaged(random, content) if content and random.random() < 0.2 else content


@settings(max_examples=SPARSE)
@given(st.randoms(use_true_random=True))
def test_sparse_files(random):
    with case(d__svm=sparse(random)) as here:
        data = {
            "kind": "libsvm",
            "path": "d.svm",
            "features": random.choice([None, None, 8, 1, 10**9]),
            "zero_based": random.choice(["auto", True, False]),
            "classes": random.choice(["auto", "auto", True, False]),
            "test_path": random.choice([None] * 3 + ["d.svm"]),
        }
        settled(random, data, here.folder)


def image(random: Random) -> bytes:
    """Returns a file of an image: sound as a rule, or of another size or mode, or damaged."""
    shape = random.choice([(4, 5)] * 8 + [(5, 4), (1, 1), (60, 50)])
    pixels = Image.new(random.choice(["RGB"] * 5 + ["L", "1", "P", "RGBA", "I;16", "F", "CMYK"]), shape[::-1])
    packed = io.BytesIO()
    form = random.choice(["PNG", "BMP", "JPEG", "GIF", "TIFF", "PPM", "WEBP"])
    try:
        pixels.save(packed, form)
    except (OSError, KeyError, ValueError):  # the form has no such mode
        pixels.convert("RGB").save(packed, form)
    content = packed.getvalue()
    return damaged(random, content) if random.random() < 0.2 else content


@settings(max_examples=IMAGES)
@given(st.randoms(use_true_random=True))
def test_image_folders(random):
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        for label in ("a", "b", "c d")[: random.choice([0, 1, 2, 2, 3])]:
            (folder / "in" / label).mkdir(parents=True)
            for k in range(random.choice([0, 2, 3, 3])):
                ending = random.choice(["png", "jpg", "BMP", "gif", "tif", "txt"])
                (folder / "in" / label / f"{k}.{ending}").write_bytes(image(random))
        data = {
            "kind": "image_folder",
            "path": random.choice(["in"] * 8 + [".", "in/a"]),
            "size": random.choice([None, [4, 5], [2, 2]]),
            "channels": random.choice([None, 1, 3]),
            "test_path": random.choice([None] * 3 + ["in"]),
            "standardize": random.choice(["none", "train", "all"]),
            "features_as": random.choice(["auto", "auto", "integers", "real"]),
        }
        settled(random, data, folder)


def lines(random: Random) -> bytes:
    """Returns a list of edges, some of them none."""
    made = []
    for _ in range(random.randrange(8)):
        i, j = random.randrange(4), random.randrange(4)
        made.append(f"{i} {j}" if i != j or random.random() < 0.1 else f"{i} {(i + 1) % 4}")
    if random.random() < 0.2:
        made = [line.translate(str.maketrans("0123", "dcba")) for line in made]
    if random.random() < 0.6:
        odd = [
            "", "#", "# 1 2", "0 1 # x", "0", "0 1 2", "a b", "-1 0", "0 9", "0 0", "0.0 1", "1e0 2", "+0 1",
            "\t0\t1\t", "0,1", "\u0661 \u0662", "0 1\r", "9" * 30 + " 1", "0 " + "1" * 100_000, "\x00", "0\x0b1",
            "0\u20281", "nan 1", "0 1 {}", "a b {'x': 1}", "a b {} {}", "0 1 {", "{} {}", "0 1 {'#': 2} # x",
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
