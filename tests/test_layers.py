"""The order of packages: each imports only packages before it, at the top of its files, and never in a circle."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "batchednodes"
ROOT = "__init__"
"""The package itself: it shows the public names, so it comes after everything but the command line."""
ORDER = f"""
    numerics
    data topology
    models
    events
    algorithms config
    results
    simulation
    figures {ROOT} cli __main__
""".split()
"""Packages, each after all that it may import; modules of one package may import each other, never in a circle."""

CHECKED = "if TYPE_CHECKING:\n    {}\nelse:\n"
"""The beginning of a file that defers a module."""


def modules(package: Path) -> dict[str, Path]:
    """Returns the path of each module by its name inside the package: "rng", "data" and "data.digits", "__init__"."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = parts[:-1] if parts[-1] == ROOT and len(parts) > 1 else parts
        found[".".join(name)] = path
    return found


def targets(node: ast.AST, module: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yields the modules of this package that an import statement names."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            here = ["batchednodes", *(part for part in module.split(".") if part != ROOT)]
            up = node.level - (path.stem == ROOT)
            base = ".".join([*here[: len(here) - up], *([node.module] if node.module else [])])
        names = [f"{base}.{alias.name}" for alias in node.names]
    for name in names:
        package, *rest = name.split(".")
        if package == "batchednodes":
            while rest and ".".join(rest) not in known:  # the last words are names inside a module
                rest.pop()
            yield ".".join(rest) or ROOT


def deferring(tree: ast.Module) -> list[ast.If]:
    """Returns the statements at the top of a file whose imports are for type checkers: they name what is deferred."""
    return [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]


def undeferred(tree: ast.Module) -> Iterator[str]:
    """Yields one line for each module that is deferred under another name than type checkers see, or elsewhere."""
    calls = {id(node): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    calls = {key: node for key, node in calls.items() if ast.unparse(node.func) == "deferred"}
    for part in deferring(tree):
        seen = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            if isinstance(node, ast.ImportFrom)
            else alias.name
            for node in part.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        for node in part.orelse:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(args=[ast.Constant(value=module)]) as call):
                    if calls.pop(id(call), None) and seen.get(name) != module:
                        yield f"{node.lineno} defers {module}, which type checkers see as {seen.get(name)}"
    yield from (f"{node.lineno} defers a module that type checkers do not see" for node in calls.values())


def problems(package: Path, order: list[str]) -> list[str]:
    """Returns one line for each import that breaks the order, and for each package that the order lacks."""
    known, found = modules(package), []
    graph: dict[str, set[str]] = {name: set() for name in known}
    rank = {name: place for place, name in enumerate(order)}
    found += [f"{name} is not in the order" for name in known if name.split(".")[0] not in rank]
    for name, path in known.items():
        tree = ast.parse(path.read_text())
        found += [f"{name}:{line}" for line in undeferred(tree)]
        top = {id(node) for node in [*tree.body, *(one for part in deferring(tree) for one in part.body)]}
        for node in ast.walk(tree):
            for target in targets(node, name, path, known):
                layer, below = name.split(".")[0], target.split(".")[0]
                graph[name].add(target)
                if id(node) not in top:
                    found.append(f"{name}:{node.lineno} imports {target}, not at the top of the file")
                if layer != below and rank.get(layer, -1) < rank.get(below, len(order)):
                    found.append(f"{name} imports {target}, which comes later")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("a circle of imports: " + " -> ".join(error.args[1]))
    return found


def test_each_module_imports_only_packages_before_its_own():
    assert problems(PACKAGE, ORDER) == []


def test_order_names_each_package_once():
    assert len(set(ORDER)) == len(ORDER)


def test_only_the_reader_of_settings_knows_omegaconf():
    users = [name for name, path in modules(PACKAGE).items() if "omegaconf" in imported(path)]
    assert set(users) <= {"config.files", "config.reader"}
    assert len(users) <= 1


def imported(path: Path) -> set[str]:
    """Returns the first word of each absolute import of a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a": "", "b": "from batchednodes.a import x"}, []),
        ({"a": "", "b": "from batchednodes import a"}, []),
        ({"a": "from batchednodes import b", "b": ""}, ["a imports b, which comes later"]),
        ({"a": "import batchednodes.b.c", "b/__init__": "", "b/c": ""}, ["a imports b.c, which comes later"]),
        ({"a": "from . import b", "b": ""}, ["a imports b, which comes later"]),
        ({"a": "from .b import x", "b": ""}, ["a imports b, which comes later"]),
        ({"a": "from batchednodes import x", "__init__": ""}, ["a imports __init__, which comes later"]),
        ({"a": "", "b/__init__": "from ..a import x", "b/c": "from ..a import x"}, []),
        ({"a": "", "b/__init__": "from batchednodes.b.c import x", "b/c": "import numpy"}, []),
        ({"b": "def f():\n    from batchednodes import a", "a": ""}, ["b:2 imports a, not at the top of the file"]),
        ({"z": "import batchednodes.a", "a": ""}, ["z is not in the order", "z imports a, which comes later"]),
        ({"a": "", "b": CHECKED.format("from batchednodes import a") + "    a = deferred('batchednodes.a')"}, []),
        (
            {"a": CHECKED.format("from batchednodes import b") + "    b = deferred('batchednodes.b')", "b": ""},
            ["a imports b, which comes later"],
        ),
        (
            {"a": CHECKED.format("import numpy") + "    numpy = deferred('torch')"},
            ["a:4 defers torch, which type checkers see as numpy"],
        ),
        ({"a": "b = deferred('b')", "b": ""}, ["a:1 defers a module that type checkers do not see"]),
        (
            {"b/__init__": "from .c import x", "b/c": "from batchednodes.b import y"},
            ["a circle of imports: b -> b.c -> b"],
        ),
    ],
)
def test_problems_are_found(files: dict[str, str], expected: list[str], tmp_path: Path):
    for name, text in files.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert problems(tmp_path, ["a", "b", ROOT]) == expected


def test_only_the_module_of_devices_and_what_needs_more_name_cuda():
    users = {
        name for name, path in modules(PACKAGE).items() if re.search(r"torch\.cuda|is_cuda\b(?!\()", path.read_text())
    }
    assert users == {"numerics.cuda_graphs", "numerics.devices", "numerics.torch_modes"}
