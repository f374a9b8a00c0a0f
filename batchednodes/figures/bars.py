"""Notebooks and terminals: a bar that says how far a run is, and figures that are seen."""

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from batchednodes.config import Config
from batchednodes.simulation.engine import Progress as Advance
from batchednodes.simulation.job import Watch

_EVERY = 0.2
"""Wall time between two looks of a bar in a notebook [s]."""


@contextmanager
def shown(asked: bool | None, watch: Watch | None) -> Iterator[Watch | None]:
    """Yields what is to watch a run, and shows a bar meanwhile.

    Args:
        asked: whether one is shown; None: in a notebook.
        watch: who watches, too.
    """
    notebook = import_module("IPython.display") if _shell() is not None else None
    if asked is False or (asked is None and notebook is None):
        yield watch
        return
    with _notebook(notebook) if notebook is not None else _terminal() as show:

        def both(chosen: Config, progress: Advance, row: dict[str, Any]) -> None:
            show(chosen.name, progress.clocks.time, chosen.run.until, row["loss_mean"])
            if watch is not None:
                watch(chosen, progress, row)

        yield both


Show = Callable[[str, float, float, float | None], None]
"""Shows name, time and end [s], and loss of a run."""


def _shell() -> Any:
    """Returns the kernel's shell of the notebook that runs this; None: there is none."""
    found = sys.modules.get("IPython")
    shell = None if found is None else found.get_ipython()
    return shell if hasattr(shell, "kernel") else None


def let_figures_show() -> None:
    """Lets a notebook show figures as pictures, which else it does only once pyplot is imported."""
    shell = _shell()
    if shell is not None:
        import_module("IPython.core.pylabtools").select_figure_formats(shell, {"png"})


@contextmanager
def _notebook(display: Any) -> Iterator[Show]:
    """Yields what draws a bar by plain HTML, which needs no widgets, and goes away at the end."""
    handle, last = display.display(display.HTML(""), display_id=True), 0.0

    def show(name: str, now: float, until: float, loss: float | None) -> None:
        nonlocal last
        if time.perf_counter() - last >= _EVERY:
            last = time.perf_counter()
            handle.update(display.HTML(_bar(name, now, until, loss)))

    try:
        yield show
    finally:
        handle.update(display.HTML(""))


def _bar(name: str, now: float, until: float, loss: float | None) -> str:
    words = html.escape(f"{name}: {_words(now, until, loss)}")
    return f'<progress max="{until:g}" value="{now:g}" style="width: 20em"></progress> {words}'


def _words(now: float, until: float, loss: float | None) -> str:
    return f"t = {now:.4g} of {until:g} s" + ("" if loss is None else f", loss {loss:.4g}")


@contextmanager
def _terminal() -> Iterator[Show]:
    """Yields what draws a bar on standard error."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(name: str, now: float, until: float, loss: float | None) -> None:
            words = f"{name}: {_words(now, until, loss)}"
            bar.update(task, total=until, completed=now, description=words)

        yield show
