"""Documents: what README and each page of docs/ tells a reader to write and to type works, in the order of the page."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import yaml

from batchednodes.cli import commands
from batchednodes.cli.app import app
from batchednodes.config import load
from batchednodes.config.reference import catalogue

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").rglob("*.md")), *sorted((REPOSITORY / ".github").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\S+\.(?:py|yaml))\n")
"""The first line of a block that a reader saves as a file."""
TOLD = [page for page in PAGES if FENCE.search(page.read_text())]
SCRIPTS = sorted((REPOSITORY / "docs" / "examples").glob("*.py"))
EQUIPPED = {"minilm.py"}
"""Those of them that need weights and texts of other packages."""
MINE = next(block for _, block in FENCE.findall((REPOSITORY / "docs" / "start.md").read_text()) if NAMED.match(block))
"""The config that pages speak of."""
SHORT = ["run.until=1", "run.mark_every=1"]
"""What makes each run short."""
FEW = ["network.nodes=24", "task.model={kind: linear}"]
"""What makes each run small."""
HERE = ["task.data={kind: digits}", "run.baseline=none"]
"""What makes the configs that come with the package independent of files, and smaller."""
SHOWN: set[str] = set()
"""Commands that leave nothing for others, and have been tried on an earlier page."""
ELSEWHERE = [
    r"python(3)? -m venv \.venv && .*",
    r"pip (install|download) .*",
    r"python -m (pytest|sphinx -W -b html docs build/docs)",
    r"tools/check\.sh (static|types)",
    r"tensorboard --logdir \S+ --host localhost",
    r"mkdir -p data && cp WHERE/YOU/HAVE/spambase\.data data/",
    r"python docs/examples/\w+\.py",
    r"sbatch (--array=0-9 )?docs/examples/slurm(_ranks)?\.sh mine\.yaml runs/mine",
    r"(torchrun|batchednodes train) .*(--nproc-per-node|--ranks) .*",
]
"""Commands that are tested elsewhere, or that need what is not at hand."""


def lines(block: str) -> Iterator[str]:
    """Yields each command of a block, without its comment."""
    for line in block.splitlines():
        if words := line.partition("  #")[0].strip():
            yield words


def small(words: list[str]) -> list[str]:
    """Returns a command that does the same on less."""
    if words[0] == "resume":
        return [re.sub(r"run\.until=.*", "run.until=2", word) for word in words]
    if words[0] == "race":
        untuned = [word for word in words if word != "--tune" and not word.startswith("lr=")]
        return [*untuned, *SHORT, *FEW, "--seeds", "1"]
    if words[0] != "train":
        return words
    return [*words, *SHORT, *FEW, *(HERE if words[1].startswith("configs/") else [])]


@pytest.fixture
def heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets commands that take minutes end where their arguments have been checked."""
    for name in ("figure", "check"):
        monkeypatch.setattr(commands, name, lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize("page", TOLD, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_what_a_page_tells_works(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heavy: None):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(REPOSITORY / "docs")
    Path("mine.yaml").write_text(MINE)
    names: dict[str, object] = {}
    for language, block in FENCE.findall(page.read_text()):
        saved = NAMED.match(block)
        if saved:
            Path(saved[1]).write_text(block)
        if language == "yaml":
            load(yaml.safe_load(block))
        elif language == "python" and not saved and ">>>" not in block:
            Path("typed.py").write_text(block.replace("run.until=20", "run.until=1"))
            names |= runpy.run_path("typed.py", {k: v for k, v in names.items() if k[:2] != "__"}, run_name="__main__")
        elif language == "bash":
            for line in lines(block):
                type_(line)


def type_(line: str) -> None:
    """Does what a shell would do with a command of ours; others must be known."""
    if line.startswith("batchednodes ") and not re.fullmatch(ELSEWHERE[-1], line):
        words = shlex.split(line)[1:]
        if line not in SHOWN:
            app(small(words), standalone_mode=False)
        if words[0] in ("plan", "list", "plot"):
            SHOWN.add(line)
    else:
        assert any(re.fullmatch(pattern, line) for pattern in ELSEWHERE), line


@pytest.mark.parametrize("path", [path for path in SCRIPTS if path.name not in EQUIPPED], ids=lambda path: path.name)
def test_a_short_script_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), *SHORT])
    runpy.run_path(str(path), run_name="__main__")


def test_each_short_script_is_told_of():
    told = "\n".join(page.read_text() for page in TOLD)
    assert [path.name for path in SCRIPTS if f"examples/{path.name}" not in told] == []


def test_each_section_of_the_settings_has_a_page():
    folder = REPOSITORY / "docs" / "reference" / "settings"
    told = {re.search(r"{settings} (\w+)", page.read_text())[1]: page.stem for page in folder.glob("*.md")}
    assert {*told} == {kind.section.partition(".")[0] or "top" for kind in catalogue()}
    assert all(f"settings/{name}\n" in (folder.parent / "settings.md").read_text() for name in told.values())


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text())
    assert len(links) > 20
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_the_readme_is_one_screen_or_two():
    assert len(README.read_text().splitlines()) <= 150


def test_the_tutorial_has_at_most_25_lines():
    cells = json.loads((REPOSITORY / "docs" / "notebooks" / "tutorial.ipynb").read_text())["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in cell["source"] if line.strip()]
    assert 0 < len(lines) <= 25


def test_the_script_for_slurm_trains_then_goes_on(tmp_path: Path):
    """Of a cluster only a variable is there; `batchednodes` prints what it is asked for."""
    tool = tmp_path / "batchednodes"
    tool.write_text('#!/bin/sh\necho "$@"\n')
    tool.chmod(0o755)

    def asked(*more: str) -> str:
        command = [REPOSITORY / "docs" / "examples" / "slurm.sh", "mine.yaml", tmp_path / "run", *more]
        around = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "3"}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=around).stdout.strip()

    run = tmp_path / "run-3"
    assert asked("local.lr=0.1") == f"train mine.yaml seed=3 local.lr=0.1 --out {run} --time-limit 110min"
    run.mkdir()
    assert asked() == f"resume {run} --time-limit 110min"
