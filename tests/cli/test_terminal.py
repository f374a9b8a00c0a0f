"""What is printed is a user's text as it is; where it cannot be, and where memory ends, costs one message at most."""

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.table import Table

from batchednodes import train
from batchednodes.cli import app, console

SAID = "error: memory must hold the program itself, got: "
NAMES = ("a[/b]c", "a[red]c:smile:")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Works in a folder with a small config."""
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("network: {nodes: 5}\nrun: {until: 2, mark_every: 1, baseline: none}\n")


def call(monkeypatch, capsys, *arguments):
    """Runs a command in this process; returns its exit code, and what it wrote."""
    monkeypatch.setattr(sys, "argv", ["batchednodes", *arguments])
    with pytest.raises(SystemExit) as stop:
        app.main()
    return stop.value.code, *capsys.readouterr()


def shell(command):
    """Runs a command in a shell, `run` being the program; returns exit code, output and errors."""
    start = f'run() {{ "{sys.executable}" -m batchednodes "$@"; }}; set -o pipefail; '
    done = subprocess.run(["bash", "-c", start + command], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_markup(name, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "train", "c.yaml", "--out", name)
    assert (code, err) == (0, "")
    assert f"results     {name}\n" in out
    code, out, err = call(monkeypatch, capsys, "resume", name, "run.until=3")
    assert (code, err) == (0, "")
    assert f"--logdir '{name}'" in out
    code, _, err = call(monkeypatch, capsys, "train", "c.yaml", "--out", name)
    assert (code, err) == (2, f"error: --out must not exist yet, got '{name}'; nothing is ever overwritten\n")
    train("c.yaml", out=f"x{name}", stop=lambda: True)
    monkeypatch.setenv("COLUMNS", "300")
    code, out, err = call(monkeypatch, capsys, "compare", name, f"x{name}")
    assert code == 0
    assert f" {name} " in out
    assert err.startswith(f"warning: x{name} is not finished: ")
    code, out, err = call(monkeypatch, capsys, "plot", name, "--out", f"p{name}")
    assert (code, out, err) == (0, f"p{name}/curves.png\np{name}/curves.pdf\n", "")


def test_arguments_and_bars_are_no_markup(monkeypatch, capsys):
    for word in ("[/b]", "[red]", ":smile:"):
        for arguments in ([word], ["train", f"{word}.yaml"], ["train", "c.yaml", f"{word}=1"], ["list", word]):
            code, _, err = call(monkeypatch, capsys, *arguments)
            assert code == 2
            assert word in err
    terminal = console.console()
    terminal.begin_capture()
    with app.commands.bar(terminal) as bar:
        bar.add_task("name[/b]", total=1, status="loss [/b]")
    terminal.end_capture()


def test_heads_of_tables_keep_their_units(capsys):
    table = Table("time [s]", title="at [s]")
    table.add_row("[/b]")
    console.console().print(table)
    out = capsys.readouterr().out
    assert all(word in out for word in ("time [s]", "at [s]", "[/b]"))


@pytest.mark.parametrize("closed", ["<&- >&-", "| true"])
def test_a_run_whose_output_nobody_reads_ends_as_any_other(closed):
    assert shell(f"run train c.yaml --out run {closed}")[::2] == (0, "")
    assert '"finished"' in Path("run/summary.json").read_text()
    assert Path("run/metrics.jsonl").read_text().startswith('{"time": 0.0')


def test_readers_may_leave_early():
    assert shell("run list | head -2 | tail -1; echo ${PIPESTATUS[@]}") == (
        0,
        "top level  Everything about a run.\n0 0 0\n",
        "",
    )


def test_a_full_disk_is_a_message_of_any_command():
    reason = "error: standard output cannot be written: No space left on device\n"
    assert shell("run --version > /dev/full")[::2] == (2, reason)


class Broken:
    """A stream that nobody reads."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    flush = None


def test_warnings_that_nobody_reads_end_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", console.Output(Broken()))
    console.say("warning", "unread")
    assert isinstance(sys.stderr.error, BrokenPipeError)


@pytest.mark.parametrize(
    ("limit", "command"),
    [(60, "list"), (150, "train c.yaml"), (300, "plan c.yaml"), (500, "train c.yaml"), (800, "plan c.yaml")],
)
def test_memory_that_ends_before_pytorch_is_one_message(limit, command):
    code, out, err = shell(f"ulimit -v {limit * 1000}; export OMP_NUM_THREADS=1; run {command}")
    assert (code, out) == (2, "")
    assert err.startswith(SAID)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)
def test_memory_that_ends_while_modules_are_loaded_is_one_message(error, monkeypatch, capfd):
    from batchednodes import __main__ as program

    def load():
        try:
            raise error
        except type(error):
            raise ImportError("Could not find a library")  # as packages do that look for their own  # noqa: B904

    monkeypatch.setattr(program.signal, "signal", lambda *_: None)  # which it handles until the process ends
    monkeypatch.setattr(
        program.start, "gc", SimpleNamespace(disable=int, enable=int, freeze=int, isenabled=int, unfreeze=int)
    )  # that of the tests works on
    monkeypatch.setattr(program, "app", type("Loaded", (), {"main": staticmethod(load)}))
    with pytest.raises(SystemExit) as stop:
        program.main()
    assert stop.value.code == 2
    err = capfd.readouterr().err
    assert err.startswith(SAID)
    assert err.count("\n") == 1
