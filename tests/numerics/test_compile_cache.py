"""Kernels that were compiled from other sources are compiled again."""

import os
import shutil
import subprocess
import sys

import pytest

from batchednodes.numerics import compile_cache
from batchednodes.numerics.compile_cache import forget_stale

FILES = {
    "__init__.py": "",
    "low.py": "A = 1\n",
    "middle.py": "from batchednodes.low import (\n    A,\n)\n",
    "part/__init__.py": "from batchednodes.part.inner import f\n",
    "part/inner.py": "from batchednodes import middle\n\nf = middle.A\n",
    "high.py": "from batchednodes.part import f\n",
    "other.py": "import math\n",
}


@pytest.fixture
def package(tmp_path):
    """A package whose modules all have a cached kernel, noted as it is."""
    root = tmp_path / "batchednodes"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    forget_stale(root)
    for name in FILES:
        cache = (root / name).parent / "__pycache__"
        cache.mkdir(exist_ok=True)
        for ending in ("nbi", "1.nbc"):
            (cache / f"{(root / name).stem}.kernel-3.py311.{ending}").write_text("")
    forget_stale(root)
    return root


def kept(root):
    """Returns the modules that have both files of their kernel."""
    names = [str(path.relative_to(root)).replace("__pycache__/", "").split(".")[0] for path in root.rglob("*.nb[ic]")]
    return {name for name in names if names.count(name) == 2}


def changed(root, name):
    """Returns the modules that keep their kernels once another one was written anew."""
    os.utime(root / name, ns=(1, 1))
    forget_stale(root)
    return kept(root)


EVERY = {"__init__", "low", "middle", "part/__init__", "part/inner", "high", "other"}


@pytest.mark.parametrize(
    ("name", "forgotten"),
    [
        ("low.py", {"low", "middle", "part/inner", "part/__init__", "high"}),
        ("part/inner.py", {"part/inner", "part/__init__", "high"}),
        ("high.py", {"high"}),
        ("other.py", {"other"}),
    ],
)
def test_kernels_of_what_imports_a_changed_module_are_forgotten(package, name, forgotten):
    assert kept(package) == EVERY
    assert changed(package, name) == EVERY - forgotten
    assert changed(package, "other.py") == EVERY - forgotten - {"other"}  # noted


@pytest.mark.parametrize("note", [None, "{", "[1]", "\0", "[" * 100_000], ids=range(5))
def test_without_a_note_all_are_forgotten(package, note):
    path = package / "__pycache__" / "sources.json"
    path.unlink() if note is None else path.write_text(note)
    forget_stale(package)
    assert kept(package) == set()


def test_a_constant_of_another_file_reaches_a_cached_kernel(tmp_path):
    root = tmp_path / "batchednodes"
    (root / "numerics").mkdir(parents=True)
    (root / "numerics" / "__init__.py").touch()
    shutil.copy(compile_cache.__file__, root / "numerics")
    words = (
        "from pathlib import Path",
        "from batchednodes.numerics.compile_cache import forget_stale",
        "forget_stale(Path(__file__).parent)",
    )
    (root / "__init__.py").write_text("\n".join(words))
    kernel = "from numba import njit\nfrom batchednodes.low import A\n\n\n@njit(cache=True)\ndef f():\n    return A\n"
    (root / "kernel.py").write_text(kernel)
    for number in ("1", "22"):
        (root / "low.py").write_text(f"A = {number}\n")
        command = [sys.executable, "-c", "from batchednodes.kernel import f; print(f())"]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == number
