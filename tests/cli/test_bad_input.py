"""Inputs that are made to hurt are refused at once, before anything is allocated; and what the code must not do."""

import ast
import json
import os
import re
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import test_fuzz_cli
import test_fuzz_config
import test_fuzz_data
from fuzzing import TINY, Case, call, case, settle

from batchednodes.config import document, load

pytestmark = pytest.mark.slow  # refusals are timed, and checked signatures take time

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted((REPOSITORY / "batchednodes").rglob("*.py"))
DOCUMENTS = sorted((REPOSITORY / "docs").rglob("*.md"))
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 60))
MANY = "[" + ", ".join(["0.25"] * 110_000) + "]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "must hold at most 120,000 values, aliases written out"),
        (
            LAUGHS.replace("[*", "{<<: *").replace(", *a", ", y: *a").replace("]", "}").replace("[x, x}", "{x: 1}"),
            "values",
        ),
        ("[" * 1_000_000, "must be nested at most 50 levels deep"),
        ("a: " + "{b: " * 100_000, "must be nested at most 50 levels deep"),
        ("a: " + "1" * (17 << 20), "must be at most 16 MiB"),
        ("a: [" + "1," * 200_000 + "]", "must hold at most 120,000 values"),
        ("x" * 1_000_000 + ": 1", "is not valid YAML"),
        ("? " + "x" * 1_000_000 + "\n: 1", "unknown key 'xxx"),
        ("seed: " + "9" * 1_000_000, "seed must be an integer, got '999"),
        ("seed: '" + "\\u0000" * 100_000 + "'", "seed must be an integer, got"),
        (
            "network: {nodes: 100000}\ngossip: {clock: {rate: " + MANY + "}}",
            "a list of n = 100000 numbers, got a list of 110000",
        ),
        (
            "a: ${b}\n" + "".join(f"x{k}: ['${{x{k + 1}}}', '${{x{k + 1}}}']\n" for k in range(60)) + "x60: 1",
            "5,000 values",
        ),
        ("".join(f"x{k}: '${{x{k + 1}}}${{x{k + 1}}}'\n" for k in range(60)) + "x60: 1", "5,000 values"),
        ("seed: ${seed}", "seed cannot be read: interpolations must not form a circle"),
        ("seed: ${network.nodes}\nnetwork: {nodes: '${seed}'}", "interpolations must not form a circle"),
        ("network: {nodes: 100000000}", "the run must fit in memory"),
        ("network: {nodes: 100000000}\nlocal: {lr: {kind: lognormal}}", "the run must fit in memory"),
        ("network: {nodes: 2000000, topology: {kind: erdos_renyi, probability: 0.5}}", "graphs (host)"),
        ("network: {nodes: 2000000, topology: {kind: k_regular, degree: 1999998}}", "graphs (host)"),
        ("task: {model: {kind: mlp, hidden: [1000000000, 1000000000]}}", "largest: models"),
        ("task: {model: {kind: mlp, hidden: " + "[" + "1, " * 5000 + "]}}", "must be a list of at most 1000 widths"),
        ("task: {data: {samples_per_node: 1000000000}}", "the run must fit in memory"),
        (
            "replicas: 100000\nsweep: {seed: [1, 2]}",
            "sweep and replicas must make at most 100,000 networks, got 200000",
        ),
        ("replicas: 100000\nnetwork: {nodes: 10000}", "network.nodes of all networks must be at most 100,000,000"),
        ("sweep: {network: {nodes: [1, 2, 3]}, seed: " + MANY + "}", "sweep and replicas must make at most 100,000"),
        ("run: {until: 1e300, mark_every: 1e300}", "must be at most 1e+12 events"),
        ("gossip: {clock: {rate: 1e300}}", "must be at most 1e+12 events"),
        ("local: {steps: 1000000000, batch_size: 1000000000}", "the run must fit in memory"),
        ("staleness: {track: 10}\nrun: {eval_nodes: 100000000}", "run.eval_nodes must be at most network.nodes"),
    ],
    ids=range(29),
)
def test_what_is_made_to_take_time_or_memory_is_refused_at_once(text, message):
    with case(c__yaml=text.encode()) as here:
        outcome = Case(here.folder).call("train", "c.yaml")
    assert outcome.code == 2
    assert message in outcome.err


def test_a_config_is_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in ("fifo", ".", "/dev/zero", "/dev/null", "/dev/stdin", "missing", "x" * 300, "a\nb"):
        outcome = call(tmp_path, "train", path)
        assert outcome.code == 2
        assert outcome.err.startswith("error: config file ")
        assert outcome.seconds < 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_config_that_may_not_be_read(tmp_path):
    (tmp_path / "c.yaml").write_bytes(TINY)
    (tmp_path / "c.yaml").chmod(0)
    assert "cannot be read: Permission denied" in call(tmp_path, "train", "c.yaml").err


def test_a_tag_runs_nothing(tmp_path):
    for tag in ("object/apply:os.mkdir [x]", "object/new:os.mkdir [x]", "name:os.mkdir", "module:os"):
        (tmp_path / "c.yaml").write_text(f"seed: !!python/{tag}")
        assert "must be plain data without tags, got '!!python/" in call(tmp_path, "plan", "c.yaml").err
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_interpolations_do_not_see_the_environment(monkeypatch):
    monkeypatch.setenv("SECRET", "7")
    for text in (
        "${oc.env:SECRET}",
        "${oc.decode:'7'}",
        "${oc.env:${name}}",
        "${name}${oc.env:SECRET}",
        "${.seed}",
        "${a[0]}",
    ):
        with pytest.raises(ValueError, match=r"^seed cannot be read: interpolations are \$\{section\.key\}"):
            load({"name": "SECRET", "seed": text})


def test_libyaml_reads_what_the_reader_in_python_reads(monkeypatch):
    text = "a: [1, 0x10, 1e3, .5, 010, yes, ~, 'x', 1:30]\nb: &b {c: 1}\nd: {<<: *b, e: *b}\n"
    fast = document.parse(text)
    monkeypatch.setattr(document, "_LOADER", document.yaml.SafeLoader)
    assert document.parse(text) == fast
    assert fast["a"] == [1, 16, 1000.0, 0.5, "010", True, None, "x", "1:30"]
    assert fast["d"] == {"c": 1, "e": {"c": 1}}


def test_there_are_more_than_ten_thousand_cases():
    of_config, of_data, of_lines = test_fuzz_config, test_fuzz_data, test_fuzz_cli
    cases = of_config.TREES + of_config.FILES + of_config.OVERRIDES + of_data.ARCHIVES + of_data.EDGES
    assert cases + of_lines.LINES + of_lines.DAMAGED + of_lines.RUNS > 10_000


# ------------------------------------------------------------------------------------------------------------- data


def npz(path: Path, shape: str, held: bytes, dtype: str = "<f8") -> None:
    """Writes an archive whose features have a header that may lie."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(118) + b"\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        with out.open("features.npy", "w", force_zip64=True) as file:
            file.write(member + held)
        np.save(target := path.with_suffix(".npy"), np.zeros(4, np.int64))
        out.write(target, "targets.npy")
        target.unlink()


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ("(1000000000000,)", 80, "80 of the 8000000000000 bytes of 'features'"),
        ("(4, 160000)", 4 * 160_000 * 8, "arrays compressed at most 100-fold"),
        ("(-1,)", 8, "whole arrays"),
        ("(" * 5000, 8, "a damaged or unknown header"),
        ("(True, [4])", 8, "a damaged or unknown header"),
    ],
)
def test_archives_that_promise_too_much(tmp_path, monkeypatch, shape, size, message):
    monkeypatch.setattr("batchednodes.data.sources.npz._LOOSE", 1 << 20)
    npz(tmp_path / "d.npz", shape, bytes(size))
    told = settle({"task": {"data": {"kind": "npz", "path": "d.npz"}}}, folder=tmp_path)
    assert told.startswith("task.data.path must hold ")
    assert message in told


@pytest.mark.parametrize(
    "section", [{"task": {"data": {"kind": "npz"}}}, {"network": {"topology": {"kind": "edge_list"}}}]
)
def test_data_are_regular_files(tmp_path, section):
    os.mkfifo(tmp_path / "fifo")
    (key, inner), *_ = section.items()
    (name, kind), *_ = inner.items()
    for path in ("fifo", ".", "/dev/zero", "missing", "x" * 300, "a\0b", ""):
        told = settle({key: {name: kind | {"path": path}}}, folder=tmp_path)
        assert told.startswith(f"{key}.{name}.path must be ")


def test_a_target_that_does_anything_but_return_a_module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd_targets.py").write_text(
        "import sys, torch\ndef leave(): sys.exit(3)\ndef deep(): return deep()\ndef wrong(): return 3\n"
        "def fail(): raise KeyError('x')\ndef memory(): raise MemoryError\nvalue = 3\n"
        "class Leaves(torch.nn.Linear):\n  def __init__(self): super().__init__(10, 1)\n"
        "  def forward(self, x): sys.exit(4)\n"
    )
    (tmp_path / "odd_import.py").write_text("raise SystemExit(5)")
    (tmp_path / "c.yaml").write_bytes(b"")
    for target in ("leave", "deep", "wrong", "fail", "memory", "value", "missing", "Leaves"):
        outcome = call(tmp_path, "train", "c.yaml", f"task.model={{kind: python, target: 'odd_targets:{target}'}}")
        assert outcome.code == 2
        assert outcome.err.startswith("error: task.model")
    for module in ("odd_import", "odd_targets.x", "..", "no such"):
        outcome = call(tmp_path, "train", "c.yaml", f"task.model={{kind: python, target: '{module}:f'}}")
        assert outcome.code == 2
        assert outcome.err.startswith("error: task.model.target")
    assert not (tmp_path / "runs").exists()


# --------------------------------------------------------------------------------------------------------- security


def calls(tree: ast.AST) -> list[str]:
    """Returns each call as written, its keywords too."""
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


FORBIDDEN = (
    r"(builtins\.)?(eval|exec|compile|__import__)\(", r"(c?pickle|dill|shelve|marshal|joblib)\.",
    r"torch\.(load|save)\(", r".*allow_pickle=True", r"np\.(load|save|fromfile)\(",
    r"yaml\.(load|unsafe_load|full_load|load_all|YAML)\(", r"os\.(system|popen|exec\w*|spawn\w*)\(", r"subprocess\.",
    r".*shell=True", r"(pd|pandas)\.read_pickle\(", r".*extractall\(", r"ast\.literal_eval\(",
)  # fmt: skip


def test_the_package_executes_no_data():
    found = [
        (path.name, text)
        for path in SOURCES
        for text in calls(ast.parse(path.read_text()))
        for pattern in FORBIDDEN
        if re.match(pattern, text)
    ]
    assert found == []
    words = {word for path in SOURCES for word in re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.M)}
    assert not words & {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib", "subprocess"}


def test_tensorboard_is_bound_to_this_machine_in_every_instruction():
    texts = {
        path: path.read_text()
        for path in [*SOURCES, REPOSITORY / "README.md", *DOCUMENTS, *(REPOSITORY / "configs").rglob("*.yaml")]
    }
    lines = [line for text in texts.values() for line in text.splitlines() if re.search(r"tensorboard --", line)]
    assert lines
    assert [line for line in lines if "--host localhost" not in line] == []


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/model.md", "docs/how-to/kinds.md"])
def test_documents_say_that_a_target_is_executed(page):
    assert "**This imports and runs your code" in (REPOSITORY / page).read_text()


@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "/tmp/x", "a/b", "a\\b", "~", "-x", "", " ", "x" * 101, "a\0", "a\nb", "${seed}/.."]
)
def test_a_name_never_leaves_the_output_folder(tmp_path, name):
    with pytest.raises(ValueError, match=r"^name "):
        load({"name": name})


def test_files_of_a_sweep_stay_in_the_folder_whatever_its_values(tmp_path):
    (tmp_path / "c.yaml").write_bytes(TINY)
    (tmp_path / "edges").mkdir()
    for name in ("../edges/a.txt", ".../../a.txt", str(tmp_path / "edges" / "a.txt")):
        (tmp_path / "edges" / "a.txt").write_text("0 1\n1 2\n")
        (tmp_path / "edges" / "...").mkdir(exist_ok=True)
        path = name if name.startswith("/") else f"edges/{name}"
        sweep = json.dumps([path, f"{path}"])
        outcome = call(tmp_path, "train", "c.yaml", "network.topology.kind=edge_list", f"network.topology.path={path}",
                       f"sweep.network.topology.path={sweep}", "--out", "out", "--quiet")  # fmt: skip
        assert outcome.code == 0, outcome
        names = {p.name for p in tmp_path.iterdir()}
        assert names == {"c.yaml", "edges", "out"}
        subprocess.run(["rm", "-r", tmp_path / "out"], check=True)


def test_long_swept_values_make_short_folders(tmp_path):
    (tmp_path / "c.yaml").write_bytes(TINY)
    rates = [[0.123456789012345] * 40, [0.2] * 40, "1" + "+n" * 90, "2" + "+n" * 90]
    sweep = f"sweep.gossip.clock.rate={json.dumps(rates)}"
    outcome = call(tmp_path, "train", "c.yaml", "network.nodes=40", sweep, "--out", "out", "--quiet")
    assert outcome.code == 0, outcome
    folders = [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith("gossip.clock.rate=")]
    assert len(folders) == 4
    assert all(len(name) < 200 for name in folders)
