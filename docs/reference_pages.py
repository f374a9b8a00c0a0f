"""Directives of the reference pages: settings, metrics and commands as the code itself says them.

```{settings} network          every kind and setting of a section
```{metrics}                   every key of metrics.jsonl and summary.json
```{commands}                  every command with its arguments and options
```{figures}                   every published figure with its command, and its picture where there is one
"""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from batchednodes.cli.app import app
from batchednodes.config.reference import Kind, Setting, catalogue
from batchednodes.figures.published import EXPERIMENTS
from batchednodes.results.metrics.catalogue import METRICS


def settings_of(section: str) -> Iterator[str]:
    """Yields the lines of all kinds and settings of a section, and of those below it; "top" are those without one."""
    wanted = "" if section == "top" else section
    for kind in catalogue():
        if kind.section == wanted or (wanted and kind.section.startswith((f"{wanted}.", f"{wanted}["))):
            yield from _kind(kind, wanted)


def _kind(kind: Kind, top: str) -> Iterator[str]:
    name, default = f": {kind.name}" if kind.name else "", " (default)" if kind.default and kind.name else ""
    if kind.name or kind.section != top:
        yield from (f"({kind.section}{name.replace(': ', '.')})=", f"## {kind.section}{name}{default}", "")
    yield from (_escaped(kind.summary), "")
    for fact in kind.facts:
        yield f":{fact[0]}: {_escaped(fact[1])}"
    yield ""
    for setting in kind.settings:
        yield from _setting(setting)


def _setting(setting: Setting) -> Iterator[str]:
    yield from (f"`{setting.path}`", f": {_escaped(setting.type)}; default `{setting.default}`", "")
    yield from (f"  {_escaped(setting.meaning)}", "")


def metrics(_: str) -> Iterator[str]:
    """Yields the lines of a table of all metrics."""
    yield from ("| key | unit | meaning |", "|---|---|---|")
    for metric in METRICS:
        yield f"| `{metric.key}` | {_escaped(metric.unit)} | {_escaped(metric.meaning)} |"


def commands(_: str) -> Iterator[str]:
    """Yields the lines of all commands."""
    group: Any = typer.main.get_command(app)
    outer = group.make_context("batchednodes", [], resilient_parsing=True)
    for name, command in group.commands.items():
        context = outer.__class__(command, info_name=name, parent=outer)
        yield from (f"(command-{name})=", f"## `{name}`", "", (command.help or "").replace("\b", ""), "")
        yield from ("```text", command.get_usage(context).removeprefix("Usage: "), "```", "")
        for record in filter(None, (parameter.get_help_record(context) for parameter in command.params)):
            yield from (f"`{record[0]}`", f": {_escaped(record[1])}", "")


def figures(_: str) -> Iterator[str]:
    """Yields the lines of all published figures."""
    for name, sized in EXPERIMENTS.items():
        module = inspect.getmodule(type(sized("quick")))
        first, _, rest = (inspect.getdoc(module) or "").partition("\n\n")
        yield from (f"(figure-{name})=", f"## {name}", "", " ".join(_escaped(first).split()), "")
        yield from (
            _escaped(rest.partition("\n\n")[0]),
            "",
            "```bash",
            f"batchednodes figure {name} --quick",
            "```",
            "",
        )
        if (Path(__file__).parent / "images" / f"{name}.png").exists():
            yield from (f"![{name}](images/{name}.png)", "")


def _escaped(text: str) -> str:
    """Returns a text of which Markdown takes no sign for its own, but for `code`."""
    parts = text.split("`")
    for k in range(0, len(parts), 2):
        for sign in "\\*_<>|[]$":
            parts[k] = parts[k].replace(sign, f"\\{sign}")
    return "`".join(parts)


class _Written(SphinxDirective):
    """Puts Markdown that a function writes into the page."""

    optional_arguments = 1
    lines: ClassVar[Callable[[str], Iterator[str]]]

    def run(self) -> list[nodes.Node]:
        text = "\n".join(type(self).lines(self.arguments[0] if self.arguments else ""))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Settings(_Written):
    """Every kind and setting of a section."""

    lines = staticmethod(settings_of)


class Metrics(_Written):
    """Every metric."""

    lines = staticmethod(metrics)


class Figures(_Written):
    """Every published figure."""

    lines = staticmethod(figures)


class Commands(_Written):
    """Every command."""

    lines = staticmethod(commands)


def plain_(_app: Sphinx, what: str, _name: str, _it: Any, _options: Any, lines: list[str]) -> None:
    """Turns a docstring of this project, which is plain text, into what Sphinx reads as such.

    Blocks that stand further in than the paragraph above are formulas; `words` are code; the first words of a field are
    no type of it, whatever colon follows.
    """
    for k in range(len(lines) - 1, 1, -1):
        above = next((line for line in reversed(lines[: k - 1]) if line.strip()), "")
        if not lines[k - 1].strip() and _indent(lines[k]) > _indent(above) and not above.rstrip().endswith("::"):
            lines[k:k] = [" " * _indent(above) + "::", ""]
    lines[:] = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", "\n".join(lines)).split("\n")
    if what in ("attribute", "property"):
        lines.insert(0, "")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def setup(app: Sphinx) -> dict[str, Any]:
    """Makes the directives known."""
    app.add_directive("settings", Settings)
    app.add_directive("metrics", Metrics)
    app.add_directive("commands", Commands)
    app.add_directive("figures", Figures)
    app.connect("autodoc-process-docstring", plain_, priority=100)  # before those that know sections
    return {"parallel_read_safe": True}
