"""The files around the code say what is true: paths, versions, commands, configs and public names."""

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from batchednodes.numerics import release

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))
SOURCES = sorted((REPOSITORY / "batchednodes").rglob("*.py"))
COMMANDS = [
    "python3 -m venv .venv && .venv/bin/pip install -c tools/constraints.txt -e . "
    "&& .venv/bin/batchednodes train configs/quickstart.yaml",
    "python3 -m venv .venv && .venv/bin/pip install -c tools/constraints.txt -e '.[test]' "
    "&& .venv/bin/python -m pytest",
]
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "triton": "torch", "yaml": "pyyaml"}
"""Distributions whose modules have another name; triton belongs to torch's CUDA builds."""


@functools.cache
def pins() -> dict[str, str]:
    """Returns the version of each package in tools/constraints.txt, by its normalised name."""
    lines = (REPOSITORY / "tools" / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pairs}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(*extras: str) -> list[Requirement]:
    """Returns what the package needs to run, and what these extras add."""
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


def named_paths() -> list[str]:
    """Returns each path that pyproject.toml names."""
    project, tool = PROJECT["project"], PROJECT["tool"]
    build = tool["hatch"]["build"]["targets"]
    scripts = [target.split(":")[0].replace(".", "/") + ".py" for target in project["scripts"].values()]
    return [
        *([project["readme"]] + project["license-files"] + scripts),
        *(build["wheel"]["packages"] + [*build["wheel"]["force-include"]] + build["sdist"]["include"]),
        *(tool["pytest"]["ini_options"]["testpaths"] + tool["basedpyright"]["include"]),
        *(pattern.removesuffix("/**") for pattern in tool["ruff"]["lint"]["per-file-ignores"]),
    ]


@pytest.mark.parametrize("path", [*named_paths(), "batchednodes/py.typed", "CHANGELOG.md"])
def test_path_named_in_pyproject_exists(path: str):
    assert (REPOSITORY / path).exists()


@pytest.mark.parametrize("target", PROJECT["project"]["scripts"].values())
def test_entry_point_is_callable(target: str):
    module, name = target.split(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_readme_gives_the_two_commands():
    lines = [line.strip() for line in (REPOSITORY / "README.md").read_text().splitlines()]
    assert [line for line in lines if line.startswith("python3 -m venv")] == COMMANDS


def test_there_are_configs():
    assert REPOSITORY / "configs" / "quickstart.yaml" in CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_opens_with_its_expected_result_and_loads(path: Path):
    lines = path.read_text().splitlines()
    end = next((k for k, line in enumerate(lines) if not line.startswith("#")), len(lines))
    assert re.search(r"\bexpected\b", "\n".join(lines[:end]), re.IGNORECASE), (
        "the opening comment has no 'Expected: ...'"
    )
    importlib.import_module("batchednodes.config").load(path)


def test_version_is_stated_once(monkeypatch):
    version = PROJECT["project"]["version"]
    repeats = [path.name for path in SOURCES if re.search(rf"[\"']{re.escape(version)}[\"']", path.read_text())]
    assert repeats == []
    assert importlib.import_module("batchednodes").__version__ == version

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(release, "version", missing)
    assert release.release() == version  # of a checkout that is not installed


def test_public_names_exist():
    package = importlib.import_module("batchednodes")
    assert "train" in package.__all__
    assert [name for name in package.__all__ if not hasattr(package, name)] == []


def test_changelog_has_a_place_for_the_next_release():
    assert "\n## [Unreleased]\n" in (REPOSITORY / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("path", [*sorted((REPOSITORY / "tools").glob("*.sh")), REPOSITORY / ".ci" / "run"], ids=str)
def test_script_is_executable_and_parses(path: Path):
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


def test_check_script_refuses_an_unknown_argument():
    done = subprocess.run([REPOSITORY / "tools" / "check.sh", "statics"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "tools/check.sh static " in done.stderr


def installed_closure() -> set[str]:
    """Returns the names of all that the requirements bring with them, as far as it is installed here."""
    todo, seen = requirements("test", "docs"), set()
    while todo:
        requirement = todo.pop()
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not applies or normal(requirement.name) in seen:
            continue
        seen.add(normal(requirement.name))
        try:
            todo += [Requirement(line) for line in metadata.requires(requirement.name) or []]
        except metadata.PackageNotFoundError:
            continue
    return seen


def long_parts(path: Path) -> set[str]:
    """Returns the file if it has more than 400 lines, and its functions of more than 40 besides their docstrings."""
    text, name = path.read_text(), str(path.relative_to(REPOSITORY / "batchednodes"))
    found = {name} if len(text.splitlines()) > 400 else set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            told = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) is not None else 0
            if (node.end_lineno or 0) - node.lineno + 1 - told > 40:
                found.add(f"{name}:{node.name}")
    return found


def test_files_and_functions_stay_short():
    assert set().union(*map(long_parts, SOURCES)) == set()


def test_files_that_docstrings_name_are_there():
    known = {path.name for path in REPOSITORY.rglob("*.py")} | {"mine.py", "file.py"}  # the last two stand for a user's
    named = {(path.name, name) for path in SOURCES for name in re.findall(r"\b[a-z_0-9]+\.py\b", path.read_text())}
    assert {pair for pair in named if pair[1] not in known} == set()


def test_all_that_requirements_bring_is_pinned():
    """All but what torch's CUDA builds pin themselves."""
    unpinned = installed_closure() - pins().keys()
    assert {name for name in unpinned if not name.startswith(("nvidia-", "cuda-", "triton"))} == set()


@pytest.mark.parametrize(
    "requirement", [r for r in requirements("test", "docs") if r.name != "triton"], ids=lambda r: r.name
)
def test_requirement_is_pinned(requirement: Requirement):
    assert requirement.specifier.contains(pins()[normal(requirement.name)])


def test_each_foreign_import_is_a_declared_dependency():
    declared = {normal(requirement.name) for requirement in requirements("hf")}
    builtin = {"batchednodes", *sys.stdlib_module_names}
    missing = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            roots = {name.split(".")[0] for name in names} - builtin
            missing |= {(path.name, root) for root in roots if normal(DISTRIBUTIONS.get(root, root)) not in declared}
    assert missing == set()


def kernels(tree: ast.AST) -> list[ast.FunctionDef]:
    """Returns the functions that numba compiles."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [f for f in functions if any(re.match(r"(numba\.)?(njit|jit)\b", ast.unparse(d)) for d in f.decorator_list)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_numba_kernels_are_left_out_of_runtime_type_checks(path: Path):
    """Numba cannot compile a function that the type checker has wrapped; `@no_type_check` keeps it away."""
    wrapped = [
        f.name for f in kernels(ast.parse(path.read_text())) if ast.unparse(f.decorator_list[-1]) != "no_type_check"
    ]
    assert wrapped == []
