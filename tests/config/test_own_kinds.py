"""Kinds of the user's own run, are swept, stopped, resumed, listed and refused like built-in ones, in every section."""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import batchednodes
from batchednodes import Config, load, resume, train
from batchednodes.cli import app as cli
from batchednodes.config import KINDS, READER, Task, to_dict
from batchednodes.config.kinds import CLOSED
from batchednodes.events.rounds import Timing
from tests.support import faulty_kinds, users_kinds

MODULE = users_kinds.__name__
TINY = {
    "name": "own",
    "network": {"nodes": 10, "topology": {"kind": "ring"}},
    "task": {"data": {"kind": "linear_regression", "samples_per_node": 20, "test_samples": 10}},
    "run": {"until": 3, "mark_every": 1.5},
    "local": {"batch_size": 4},
    "dtype": "float64",
}
LOOKAHEAD = str(Path(__file__).parents[2] / "docs" / "examples" / "lookahead.py")


@dataclass(frozen=True)
class Case:
    """A class, and what is to become of it."""

    name: str
    """The class."""
    key: str
    """One of its fields."""
    values: tuple[Any, Any]
    """Two values of that field, with which runs differ."""
    bad: Any
    """A value that is out of range."""
    rule: str
    """What is said of it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else a run needs."""
    batch: bool = True
    """Whether networks of one batch may differ in it."""
    module: str = MODULE


CASES = {
    "network.topology": Case("Petersen", "skip", (2, 1), 0, "must be at least 1, got 0"),
    "network.weights": Case("Even", "share", (0.5, 1.0), 2, r"must be in \[0, 1\], got 2"),
    "network.availability": Case("Heavy", "mean", (2.0, 1.0), -1, r"must be at least 0 .*got -1"),
    "network.attack": Case("Boasting", "factor", (2.0, 0.5), 0, "must be positive .* got 0"),
    "update.clock": Case("Weibull", "shape", (0.7, 1.5), 0, r"must be positive .* got 0"),
    "gossip.clock": Case("Weibull", "scale", (0.5, 1.0), 0, r"must be positive .* got 0"),
    "gossip.scheme": Case("Chatter", "probability", (0.3, 0.9), 2, r"must be in \[0, 1\], got 2"),
    "gossip.delay": Case("WeibullDelay", "scale", (0.2, 0.5), -1, "must be at least 0 .*got -1"),
    "gossip.loss": Case("Far", "most", (0.3, 0.9), 2, r"must be in \[0, 1\], got 2"),
    "gossip.merge": Case("Softmax", "temperature", (3.0, 0.5), 0, "must be positive .* got 0"),
    "gossip.flow": Case("Thrifty", "eager", (0.3, 0.8), 2, r"must be in \[0, 1\], got 2"),
    "gossip.compress": Case("Rounded", "grid", (0.5, 0.1), 0, "must be positive .*got 0", batch=False),
    "algorithm": Case("Lookahead", "pull", (0.5, 1), 2, r"must be in \[0, 1\], got 2", batch=False, module=LOOKAHEAD),
    "local.steps": Case("OneOrTwo", "share", (0.5, 0.1), 2, r"must be in \[0, 1\], got 2", batch=False),
    "local.optimizer": Case("SignMomentum", "beta", (0.5, 0.9), 1, r"must be in \[0, 1\), got 1", {"local.lr": 0.01}),
    "local.schedule": Case("Decay", "scale", (2.0, 20.0), 0, "must be positive .* got 0"),
    "task.data": Case("Sine", "samples", (50, 90), 0, "must be at least 1, got 0"),
    "task.partition": Case("ByHospital", "column", (0, 1), -1, "must be at least 0, got -1"),
    "task.shift": Case("Gain", "factor", (2.0, 0.5), 0, "must be positive .* got 0"),
    "task.model": Case("net", "width", (3, 4), 0, r"must take args .*width must be at least 1, got 0", batch=False),
    "task.loss": Case("Huber", "delta", (0.5, 0.1), 0, "must be positive .* got 0", batch=False),
    "update.clock.rate": Case("Ranks", "step", (0.1, 1.0), -1, "must be at least 0 .*got -1"),
}


def own(case: Case, value: Any = None) -> dict[str, Any]:
    """Returns the section that names a class, with one of its fields."""
    return {
        "kind": "python",
        "target": f"{case.module}:{case.name}",
        "args": {case.key: case.values[0] if value is None else value},
    }


def table_of(section: str) -> str:
    """Returns the section of the table of kinds for a setting, which may be one of a node."""
    return section if section in KINDS else "distribution"


def said(argv, monkeypatch, capsys) -> tuple[int, str, str]:
    """Returns how a command ends, and what it says on standard output and error, on one line each."""
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setattr(sys, "argv", ["batchednodes", *argv])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), " ".join(out.split()), " ".join(err.split())


def models(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a run ended with."""
    found = load_file(folder / "final.safetensors")
    return found["x"], found["versions"]


@pytest.mark.parametrize("section", CASES)
def test_it_runs_from_yaml_and_python_is_stopped_resumed_and_swept(section, tmp_path, monkeypatch, capsys):
    case, path = CASES[section], tmp_path / "c.yaml"
    config = load(TINY, [case.settings, {section: own(case)}])
    path.write_text(json.dumps(to_dict(config)))
    assert load(str(path)) == config
    for argv, words in ((["plan", str(path)], "fits"), (["train", str(path), "--out", str(tmp_path / "run")], "")):
        code, out, err = said(argv, monkeypatch, capsys)
        assert (code, err) == (0, "")
        assert words in out
    whole, serial, asked = models(tmp_path / "run"), train(config, {"executor": "serial"}), iter(range(10**6))
    train(config, out=tmp_path / "stopped", stop=lambda: next(asked) > 2)
    assert json.loads((tmp_path / "stopped" / "summary.json").read_text())["status"] == "interrupted"
    resume(tmp_path / "stopped")
    for found, one_by_one, resumed in zip(
        whole, (serial.x, serial.versions), models(tmp_path / "stopped"), strict=True
    ):
        np.testing.assert_allclose(found, one_by_one, rtol=1e-12, atol=1e-12)  # order of sums
        assert np.array_equal(found, resumed)
    sweep = {"sweep": {f"{section}.args.{case.key}": [*case.values]}}
    if case.batch:
        both = train(config, sweep).x
        np.testing.assert_allclose(both[:10], whole[0], rtol=1e-12, atol=1e-12)  # order of sums
        assert not np.array_equal(both[:10], both[10:])
    else:
        with pytest.raises(
            ValueError, match=rf"^sweep\.{section}\.args\.{case.key} must be a setting in which networks"
        ):
            train(config, sweep)


def faults(section: str, case: Case, monkeypatch) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields sections that cannot be, and what is said of each."""
    place, target, base = re.escape(section), rf"{re.escape(section)}\.target", READER.base(table_of(section))
    yield own(case, case.bad), rf"{place}\.(args\.{case.key}|target '.*') {case.rule}"
    yield {**own(case), "args": {"nothing": 1}}, r"(unknown key |.*must take ).*nothing"
    for missing, error in (("no_such_module:X", "ModuleNotFoundError"), (f"{MODULE}:Nothing", "AttributeError")):
        yield own(case) | {"target": missing}, rf"{target} must be importable, got .*{error}"
    if section == "task.model":  # what its function takes and returns, only a call says
        return
    yield own(case, ["x"]), rf"{place}\.args\.{case.key}(\[0\])? must be .*, got .*'x'"
    loose: Any = type("Loose", (getattr(users_kinds, case.name, base),), {})
    lacking: Any = dataclass(frozen=True)(type("Lacking", (base,), {}))
    made = [(loose, r"a class without @dataclass\(frozen=True\)"), (dict, "a class derived from object")]
    for cls, got in [*made, (lacking, r"one without \w+")] if inspect.isabstract(base) else made:
        monkeypatch.setattr(users_kinds, "Fault", cls, raising=False)
        rule = rf"{target}=\S+ must be a frozen dataclass derived from \S+{base.__name__}, got {got}"
        yield own(case) | {"target": f"{MODULE}:Fault"}, rule


@pytest.mark.parametrize("section", CASES)
def test_its_faults_are_refused_by_key_rule_and_value(section, tmp_path, monkeypatch, capsys):
    case, path = CASES[section], tmp_path / "c.yaml"
    path.write_text(json.dumps(to_dict(load(TINY, [case.settings]))))
    for given, message in faults(section, case, monkeypatch):
        argv = ["train", str(path), f"{section}={json.dumps(given)}", "--out", str(tmp_path / "run")]
        code, _, err = said(argv, monkeypatch, capsys)
        assert re.match(f"error: {message}", err), err
        assert code == 2
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("section", "message"), faulty_kinds.MESSAGES.items())
def test_what_it_returns_and_cannot_be_is_refused_before_anything_is_written(
    section, message, tmp_path, monkeypatch, capsys
):
    name, place = section.split(" ")
    (tmp_path / "c.yaml").write_text(json.dumps(TINY))
    given = json.dumps({"kind": "python", "target": f"{faulty_kinds.__name__}:{name}"})
    argv = ["train", str(tmp_path / "c.yaml"), f"{place}={given}", "--out", str(tmp_path / "run")]
    code, _, err = said(argv, monkeypatch, capsys)
    checked = "TypeCheckError" in err  # under pytest with type checks, signatures refuse wrong types first
    assert checked or re.match(f"error: {re.escape(place)}{message}", err), err
    assert code == 2
    assert not (tmp_path / "run").exists()


def test_each_section_is_listed_with_kinds_of_ours_or_says_why_not(monkeypatch, capsys):
    _, out, _ = said(["list"], monkeypatch, capsys)
    assert {section for section in KINDS if f" {section}: kind python " not in out} == {"timing", "task.model.adapter"}
    assert {*KINDS} - {*CLOSED} <= {
        *CASES,
        "distribution",
        "task.augment[]",
    }  # the last: tests/data/test_augmentations.py


@pytest.mark.parametrize("section", CLOSED)
def test_where_none_can_be_registered_the_reason_is_said(section):
    with pytest.raises(
        ValueError, match=rf"^section must be one that takes kinds of your own, got '{re.escape(section)}'; "
    ):
        batchednodes.register(section, "mine", users_kinds.Petersen)


def test_timing_takes_none_of_ours():
    @dataclass(frozen=True)
    class Lunar(Timing):
        """By the moon."""

    rule = r"^timing\.kind must be one of continuous, rounds, synchronous, got 'python'; a timing is how the engine"
    with pytest.raises(ValueError, match=rule):
        load({"timing": {"kind": "python", "target": "x:Y"}})
    with pytest.raises(ValueError, match=r"^timing must be of kind continuous, .*, got a Lunar; a timing is"):
        Config(timing=Lunar())


@pytest.fixture
def registered(monkeypatch):
    """Registers a model for one test."""
    monkeypatch.setitem(KINDS, "task.model", dict(KINDS["task.model"]))
    batchednodes.register("task.model", "perceptron", users_kinds.Perceptron)


def test_a_model_is_a_function_by_kind_python_and_a_class_once_it_is_registered(registered, tmp_path):
    config = Config(**{**vars(load(TINY)), "task": Task(load(TINY).task.data, model=users_kinds.Perceptron(3))})
    assert to_dict(config)["task"]["model"] == {"kind": "perceptron", "width": 3}
    whole, serial = train(config, out=tmp_path / "run"), train(config, {"executor": "serial"})
    np.testing.assert_allclose(whole.x, serial.x, rtol=1e-12, atol=1e-12)  # order of sums
    train(config, {"run.until": 1.5}, out=tmp_path / "half")
    assert np.array_equal(resume(tmp_path / "half", "run.until=3").x, whole.x)
    with pytest.raises(ValueError, match=r"task\.model\.width must be at least 1, got 0"):
        load(TINY, [{"task.model": {"kind": "perceptron", "width": 0}}])


def test_a_model_that_is_not_registered_is_refused_from_python():
    rule = (
        r"^task\.model must be of a class that is registered, got Perceptron; use batchednodes\.register\('task\.model'"
    )
    with pytest.raises(ValueError, match=rule):
        Config(task=Task(model=users_kinds.Perceptron()))


def test_kinds_that_say_what_built_in_ones_say_do_the_same():
    ours = {"kind": "python", "target": f"{MODULE}:SimpleAgain", "args": {"capacity": 3}}
    accounts = [train(TINY, {"gossip.flow": flow}) for flow in (ours, {"kind": "simple", "capacity": 3})]
    chatter = {"kind": "python", "target": f"{MODULE}:Chatter", "args": {"probability": 1.0}}
    at_update = {"gossip.clock": {"kind": "at_update", "order": "after"}}
    schemes = [train(TINY, change) for change in ({"gossip.scheme": chatter}, at_update)]
    for ours, built_in in (accounts, schemes):
        assert np.array_equal(ours.x, built_in.x)
        assert ours.metrics["gossips"].tolist() == built_in.metrics["gossips"].tolist()
