"""What is refused costs no more than the imports that the refusal needs: PyTorch's alone take longer than it may."""

import json
import subprocess
import sys

import pytest

import batchednodes
from batchednodes.lock import Lock

HEAVY = ["datasets", "matplotlib", "networkx", "pandas", "sklearn", "tensorboard", "torch", "triton"]
LIGHT = """
import json, sys
from batchednodes import cli
found = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["batchednodes", *arguments]
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    found.append([code, sorted({name.partition(".")[0] for name in sys.modules} & {*json.loads(HEAVY)})])
print("found", json.dumps(found))
"""
REFUSED = [
    ["trian"],
    ["train"],
    ["train", "nothing.yaml"],
    ["train", "broken.yaml"],
    ["train", "typo.yaml"],
    ["train", "good.yaml", "network.nodes=-1"],
    ["train", "good.yaml", "network.nodes=log(n"],
    ["train", "good.yaml", "task.model={kind: mlp, hidden: [0]}"],
    ["train", "good.yaml", "sweep.local.steps=[1, 2]"],
    ["train", "good.yaml", "task.data={kind: csv, path: nothing.csv, target: last}"],
    ["train", "good.yaml", "--out", "."],
    ["train", "good.yaml", "--time-limit", "never"],
    ["train", "good.yaml", "--from", "run"],
    ["train", "good.yaml", "name=" + "\u4e00" * 90],
    ["resume", "."],
    ["resume", "run", "local.lr=1"],
    ["resume", "run", "--time-limit", "never"],
    ["resume", "used"],
    ["plan", "nothing.yaml"],
    ["plan", "good.yaml", "task.data={kind: npz, path: nothing.npz}"],
    ["list", "nothing"],
    ["compare", "."],
    ["plot", "."],
    ["figure", "nothing"],
]
DONE = [["--help"], ["train", "--help"], ["--version"], ["list"]]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Returns exit code and heavy modules after each command, one after the other in one process."""
    folder = tmp_path_factory.mktemp("startup")
    (folder / "good.yaml").write_text("network: {nodes: 6}\n")
    (folder / "typo.yaml").write_text("netwrok: {nodes: 6}\n")
    (folder / "broken.yaml").write_text("network: {nodes: 6\n")
    for name in ("run", "used"):
        (folder / name).mkdir()
        (folder / name / "config.yaml").write_text("network: {nodes: 6}\n")
    command = [sys.executable, "-c", LIGHT.replace("HEAVY", repr(json.dumps(HEAVY))), json.dumps(DONE + REFUSED)]
    with Lock(folder / "used"):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.rpartition("found ")[2])


def test_refusals_and_help_import_nothing_heavy(found):
    wrong = [
        (arguments, code, heavy)
        for arguments, (code, heavy) in zip(DONE + REFUSED, found, strict=True)
        if heavy or code != (0 if arguments in DONE else 2)
    ]
    assert wrong == []


def test_what_is_heavy_is_imported_where_it_is_used():
    script = f"import sys, batchednodes; batchednodes.train; print(*({{*{HEAVY}}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"torch", "pandas", "matplotlib"} <= {*done.stdout.split()}


def test_package_has_no_other_names():
    with pytest.raises(AttributeError, match="module 'batchednodes' has no attribute 'tarin'"):
        batchednodes.tarin  # noqa: B018
