"""The examples in docstrings and documents are true: each is run as a user would type it, and prints what it says."""

import contextlib
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchednodes.config.kinds import KINDS

REPOSITORY = Path(__file__).parents[1]
PROMPT = re.compile(r"^\s*>>> ", re.MULTILINE)
SOURCES = sorted((REPOSITORY / "batchednodes").rglob("*.py"))
DOCUMENTS = [*sorted((REPOSITORY / "docs").rglob("*.md")), *sorted((REPOSITORY / ".github").glob("*.md"))]
TOLD = [path for path in (*SOURCES, REPOSITORY / "README.md", *DOCUMENTS) if PROMPT.search(path.read_text())]
"""Files that show examples."""
TYPED = {"__name__": "__main__"}
"""The names that are there when someone begins to type."""


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """Lets kinds that an example registers go away."""
    before = {section: dict(kinds) for section, kinds in KINDS.items()}
    yield
    for section, kinds in before.items():
        KINDS[section].clear()
        KINDS[section].update(kinds)


def examples(path: Path, root: Path = REPOSITORY) -> list[doctest.DocTest]:
    """Returns the examples of a module, docstring by docstring, or those of a document, as one."""
    if path.suffix == ".py":
        parts = path.relative_to(root).with_suffix("").parts
        module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        return [test for test in doctest.DocTestFinder().find(module, globs=dict(TYPED)) if test.examples]
    text = re.sub(r"^```.*$", "", path.read_text(), flags=re.MULTILINE)  # else a fence would count as a result
    return [doctest.DocTestParser().get_doctest(text, dict(TYPED), path.name, str(path), 0)]


def report(tests: list[doctest.DocTest], folder: Path) -> str:
    """Returns what doctest says of examples that do not print what they say; "" where all do.

    Each begins in a folder of its own, with no names but Python's: it shows its imports.
    """
    lines: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for k, test in enumerate(tests):
        (folder / f"{k}").mkdir()
        with contextlib.chdir(folder / f"{k}"):
            runner.run(test, out=lines.append)
    return "".join(lines)


@pytest.mark.parametrize("path", TOLD, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_examples_print_what_they_say(path: Path, tmp_path: Path):
    tests = examples(path)
    assert sum(len(test.examples) for test in tests) == len(PROMPT.findall(path.read_text())), "one is never run"
    said = report(tests, tmp_path)
    if said:
        pytest.fail(said, pytrace=False)


@pytest.mark.parametrize(
    "cls", [cls for kinds in KINDS.values() for cls in kinds.values() if cls.__module__.startswith("batchednodes.")]
)
def test_each_built_in_kind_shows_an_example(cls: type):
    assert PROMPT.search(cls.__doc__ or "")


def test_a_wrong_example_of_a_module_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "wrong_example.py"
    path.write_text('def one():\n    """Returns 1.\n\n    Example:\n        >>> 1 + 1\n        3\n    """\n')
    said = report(examples(path, tmp_path), tmp_path)
    assert "line 5, in wrong_example.one" in said
    assert "Expected:\n    3\nGot:\n    2\n" in said


def test_a_wrong_example_of_a_document_is_reported(tmp_path: Path):
    path = tmp_path / "wrong.md"
    path.write_text("Sums:\n\n```python\n>>> 1 + 1\n2\n>>> 1 + 2\n4\n```\n\nand so on\n")
    said = report(examples(path), tmp_path)
    assert f'File "{path}", line 6, in wrong.md' in said
    assert "Expected:\n    4\nGot:\n    3\n" in said
