"""What is refused costs no more than the imports that the refusal needs: PyTorch's alone take longer than it may."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import batchednodes
from batchednodes import train
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.lock import Lock

HEAVY = ["datasets", "matplotlib", "networkx", "pandas", "sklearn", "tensorboard", "torch", "triton"]
LIGHT = """
import json, sys
from batchednodes.cli import app as cli
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
FILES = {
    "nan.csv": "1,nan,0\n" * 12,
    "ragged.csv": "1,2,0\n1,2\n" * 12,
    "huge.csv": "1e300,2,0.5\n" * 12,
    "loop.txt": "0 1\n2 2\n",
    "names.txt": "".join(f"x y{k}\n" for k in range(9)),
    "late.txt": "1.5\n-1\n",
    "off.txt": "1,0,2\n",
    "text.svm": "1 1:2 2:3\nyes 1:2\n",
    "mine.py": "def model(): pass\n",
    "unreadable.py": "def model(:\n",
}
"""Files whose content is wrong, or not what is asked for; of the csv files the last column is learned."""

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
    ["race", "good.yaml", "--algorithms", "gossip_sgd, relay_sgd"],
    ["race", "good.yaml", "--algorithms", "gossip_sgd, d2", "--tune", "lr=1"],
    ["plot", "."],
    ["figure", "nothing"],
    ["train", "good.yaml", "task.data={kind: npz, path: negative.npz}"],
    ["train", "good.yaml", "task.data={kind: libsvm, path: text.svm}"],
    ["plan", "good.yaml", "network.topology={kind: edge_list, path: loop.txt}"],
    ["plan", "good.yaml", "network.topology={kind: edge_list, path: names.txt}"],
    ["plan", "good.yaml", "task.data={kind: image_folder, path: pipes}"],
    ["plan", "good.yaml", "task.data={kind: npz, path: tokens.npz}"],
    ["plan", "good.yaml", "task.data={kind: npz, path: tokens.npz, classes: false, standardize: all}"],
    ["plan", "good.yaml", "task.data={kind: npz, path: tokens.npz, classes: false}", "task.shift={kind: noise}"],
    ["plan", "good.yaml", "task.data={kind: npz, path: apart.npz}"],
    ["train", "good.yaml", "gossip.delay={kind: trace, path: late.txt}"],
    ["train", "good.yaml", "network.availability={kind: trace, path: off.txt}"],
    ["train", "good.yaml", "task.loss=cross_entropy"],
    ["plan", "good.yaml", "task.model={kind: mlp, hidden: [1000000, 1000000]}"],
    ["plan", "good.yaml", "local={steps: 1000000000, batch_size: 1000000000}"],
    ["plan", "good.yaml", "gossip.clock.rate=1e17"],
    ["train", "good.yaml", "gossip.merge={kind: partitioned, parts: 12}"],
    ["train", "good.yaml", "task.model={kind: python, target: 'nothing_like_it:f'}"],
    ["train", "good.yaml", "task.model={kind: python, target: 'mine:modle'}"],
    ["train", "good.yaml", "task.model={kind: python, target: 'unreadable:model'}"],
    ["train", "good.yaml", "network.nodes=7", "--from", "done"],
    ["train", "good.yaml", "run.start_from=done", "--from", "done"],
    ["figure", "quickstart", "--out", "good.yaml"],
    ["train", "good.yaml", "task.model={kind: mlp}", "--from", "done"],
    ["train", "good.yaml", "task.data.features=11", "--from", "done"],
    ["resume", "done", "run.until=1"],
    ["resume", "bad", "run.until=9"],
    ["resume", "mine", "run.until=9"],
    *([["train", "good.yaml", "device=cuda"]] if not torch.cuda.is_available() else []),
]
TABLES = [
    ["train", "good.yaml", f"task.data={{kind: csv, path: {name}, target: last}}"] for name in FILES if "csv" in name
]
"""What is refused once pandas, half a second's import, has read it."""

DONE = [["--help"], ["train", "--help"], ["--version"], ["list"]]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Returns exit code and heavy modules after each command, one after the other in one process."""
    folder = tmp_path_factory.mktemp("startup")
    (folder / "good.yaml").write_text("network: {nodes: 6}\n")
    (folder / "typo.yaml").write_text("netwrok: {nodes: 6}\n")
    (folder / "broken.yaml").write_text("network: {nodes: 6\n")
    for name, content in FILES.items():
        (folder / name).write_text(content)
    small = {"network": {"nodes": 6}, "run": {"until": 2}}
    train(small, out=folder / "done")
    train(small, "local.lr=1e30", "local.steps=9", out=folder / "bad")
    mine = folder / "mine.npz"
    np.savez(mine, features=np.ones((12, 2)), targets=np.arange(12) % 2)
    train(small, f"task.data={{kind: npz, path: {mine}}}", out=folder / "mine")
    np.savez(mine, features=np.zeros((12, 2)), targets=np.arange(12) % 2)
    (folder / "pipes" / "a").mkdir(parents=True)
    os.mkfifo(folder / "pipes" / "a" / "0.png")
    words = np.ones((12, 3), int)
    np.savez(folder / "tokens.npz", features=words, targets=words)
    test = {"test_features": np.ones((12, 2)), "test_targets": np.arange(12) % 2 + 2}
    np.savez(folder / "apart.npz", features=np.ones((12, 2)), targets=np.arange(12) % 2, **test)
    np.savez(folder / "negative.npz", features=np.ones((12, 2)), targets=np.arange(12) - 3)
    for name in ("run", "used"):
        (folder / name).mkdir()
        (folder / name / "config.yaml").write_text("network: {nodes: 6}\n")
    command = [
        sys.executable,
        "-c",
        LIGHT.replace("HEAVY", repr(json.dumps(HEAVY))),
        json.dumps(DONE + REFUSED + TABLES),
    ]
    with Lock(Inside(folder / "used")):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.rpartition("found ")[2])


def test_refusals_and_help_import_nothing_heavy(found):
    wrong = [
        (arguments, code, heavy)
        for arguments, (code, heavy) in zip(DONE + REFUSED + TABLES, found, strict=True)
        if heavy != (["pandas"] if arguments in TABLES else []) or code != (0 if arguments in DONE else 2)
    ]
    assert wrong == []


def test_pictures_need_no_pytorch(tmp_path):
    script = f"import sys, batchednodes.figures.plots; print(*({{*{HEAVY}}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {*done.stdout.split()} == {"matplotlib", "pandas"}


def test_the_command_itself_imports_nothing_yet():
    script = (
        "import sys, batchednodes.__main__; print(*({'numba', 'numpy', 'scipy', 'typer', 'yaml'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_is_heavy_is_imported_where_it_is_used():
    script = f"import sys, batchednodes; batchednodes.train; print(*({{*{HEAVY}}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "torch" in done.stdout.split()


def test_modules_of_the_package_are_its_names():
    script = "import batchednodes; print(batchednodes.topology.from_networkx, batchednodes.config.load)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("<function ") == 2


def test_package_has_no_other_names():
    with pytest.raises(AttributeError, match="module 'batchednodes' has no attribute 'tarin'"):
        batchednodes.tarin  # noqa: B018


ABSENT = """
import gc, json, sys
from batchednodes.__main__ import main
for arguments, names in json.loads(sys.argv[1]):
    sys.argv = ["batchednodes", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code
    loaded = {*sys.modules} & {*names}
    print("found", json.dumps([arguments[0], sorted(loaded), gc.isenabled()]))
"""
"""Runs commands one after the other, and says which modules that each should not need are there then, and whether
garbage was collected at the end."""

FORMATS = ["matplotlib", "networkx", "pandas", "sklearn", "torch._dynamo"]
UNNEEDED = [
    (["--help"], ["batchednodes.config", "numba", "numpy", "omegaconf", "scipy", "torch", *FORMATS]),
    (["list"], ["scipy.linalg", "scipy.special", "torch", *FORMATS]),
    (["plan", "mine.yaml"], ["batchednodes.simulation.training", "tensorboard", *FORMATS]),
    (["train", "mine.yaml", "--out", "run", "--quiet"], FORMATS),
]
"""Commands, the lightest first, and modules that they work without; Triton besides, where there is no device."""


def test_commands_load_nothing_that_they_do_not_use_and_collect_where_they_compute(tmp_path):
    (tmp_path / "mine.yaml").write_text("network: {nodes: 6}\nrun: {until: 1}\ndevice: cpu\n")
    unneeded = [(words, names + ["triton"] * (not torch.cuda.is_available())) for words, names in UNNEEDED]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", ABSENT, json.dumps(unneeded)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    found = [json.loads(line.removeprefix("found ")) for line in done.stdout.splitlines() if line.startswith("found ")]
    assert found == [[words[0], [], words[0] == "train"] for words, _ in UNNEEDED]
