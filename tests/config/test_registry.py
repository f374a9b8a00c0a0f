"""Kinds of a user's own stand in every section, from YAML and from Python, and are refused as built-in ones are."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import batchednodes
from batchednodes import Config, load, resume, train
from batchednodes.cli import app as cli
from batchednodes.config import KINDS, Gossip, Network, Task, dump, to_dict
from batchednodes.config.document import parse
from batchednodes.config.sweep import points
from batchednodes.events import clocks, gaps
from batchednodes.events.schemes import Uniform
from batchednodes.events.timeline import Timeline
from batchednodes.topology import Networks, Topology, stack
from tests.support import users_kinds

FILE = str(Path(users_kinds.__file__))
MODULE = users_kinds.__name__
TINY = {
    "network": {"nodes": 10},
    "task": {"data": {"kind": "linear_regression", "samples_per_node": 20}},
    "run": {"until": 4, "mark_every": 2},
    "local": {"batch_size": 4},
    "dtype": "float64",
}
KINDS_OF_OURS = {
    "network.topology": ("Petersen", {"copies": 1}),
    "network.weights": ("Even", {}),
    "network.availability": ("Heavy", {"mean": {"kind": "uniform", "low": 2.0, "high": 4.0}}),
    "update.clock": ("Weibull", {"shape": 0.7}),
    "gossip.clock": ("Weibull", {"shape": 2.0, "scale": "1/log(n)"}),
    "gossip.delay": ("WeibullDelay", {"scale": 0.25}),
    "gossip.loss": ("Far", {"most": 0.3}),
    "gossip.merge": ("Softmax", {"temperature": 3.0}),
    "task.partition": ("ByHospital", {"column": 1}),
    "task.loss": ("Huber", {"delta": 0.5}),
}


def own(name, args=None, module=MODULE):
    """Returns the section that names a class."""
    return {"kind": "python", "target": f"{module}:{name}", "args": args or {}}


ALL = {section: own(name, args) for section, (name, args) in KINDS_OF_OURS.items()}


def final(folder):
    """Returns the models at the end of a run."""
    return load_file(folder / "final.safetensors")


@pytest.fixture
def table():
    """Leaves the table of kinds as it was."""
    before = {section: dict(kinds) for section, kinds in KINDS.items()}
    yield
    for section, kinds in before.items():
        KINDS[section].clear()
        KINDS[section].update(kinds)


@pytest.mark.parametrize("module", [MODULE, FILE])
@pytest.mark.parametrize("section", KINDS_OF_OURS)
def test_a_class_stands_in_a_section_and_is_written_back(section, module):
    name, args = KINDS_OF_OURS[section]
    config = load(TINY, [{"network.topology": {"kind": "ring"}}, {section: own(name, args, module)}])
    outer, inner = section.split(".")
    made = getattr(getattr(config, outer), inner)
    assert type(made).__name__ == name
    for key, value in args.items():
        assert isinstance(value, dict) or getattr(made, key) == value
    assert load(parse(dump(config))) == config


def test_batched_equals_serial_and_a_resumed_run_with_all_kinds_of_ours(tmp_path):
    models = {}
    for executor in ("batched", "serial"):
        train(load(TINY, [ALL, {"executor": executor}]), out=tmp_path / executor)
        models[executor] = final(tmp_path / executor)
    for key in ("x", "versions"):
        value = models["serial"][key]
        np.testing.assert_allclose(models["batched"][key], value, rtol=1e-12, atol=1e-12)  # order of sums
    train(load(TINY, [ALL, {"run.until": 2}]), out=tmp_path / "half")
    resume(tmp_path / "half", "run.until=4")
    for key in ("x", "versions"):  # what averages remember depends on where the marks were
        assert np.array_equal(final(tmp_path / "half")[key], models["batched"][key])


def test_objects_made_in_python_are_as_those_of_yaml():
    config = Config(
        network=Network(nodes=10, topology=users_kinds.Petersen(1)),
        gossip=Gossip(merge=users_kinds.Softmax(3.0)),
        task=Task(loss=users_kinds.Huber(0.5)),
    )
    assert load(to_dict(config)) == config
    assert to_dict(config)["gossip"]["merge"] == own("Softmax", {"temperature": 3.0})


def test_a_class_without_a_name_must_be_registered(table):
    @dataclass(frozen=True)
    class Local(Topology):
        """A complete graph."""

        def contacts(self, n):
            return 0.0

        def graph(self, n, seed):
            return None

    with pytest.raises(ValueError, match=r"must be of a class with a name to import it by, got .*Local"):
        Config(network=Network(topology=Local()))
    batchednodes.register("network.topology", "local", Local)
    config = load({"network": {"topology": {"kind": "local"}}})
    assert config.network.topology == Local()
    assert to_dict(config)["network"]["topology"] == {"kind": "local"}


def test_a_kind_registered_is_read_and_swept(table, tmp_path):
    batchednodes.register("update.clock", "weibull", users_kinds.Weibull)
    config = load(TINY, [{"update.clock": {"kind": "weibull"}, "sweep": {"update.clock.shape": [0.5, 1.0]}}])
    train(config, out=tmp_path / "run")
    assert [p.config.update.clock.shape for p in points(config)] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("section", "name", "cls", "message"),
    [
        ("network.topologi", "x", users_kinds.Petersen, "section must be one of .*did you mean 'network.topology'"),
        ("network.topology", "ring", users_kinds.Petersen, "kind must be a new one of network.topology, got 'ring'"),
        ("network.topology", "python", users_kinds.Petersen, "kind must be a word .* got 'python'"),
        (
            "network.topology",
            "x",
            users_kinds.Weibull,
            "must be a frozen dataclass derived from .*Topology, got a class",
        ),
    ],
)
def test_what_cannot_be_registered_is_refused(table, section, name, cls, message):
    with pytest.raises(ValueError, match=message):
        batchednodes.register(section, name, cls)


def test_args_are_swept_and_a_mixed_batch_is_as_each_network_alone(tmp_path):
    clock = own("Weibull", {"shape": 0.7})
    swept = load(TINY, [{"update.clock": clock, "sweep": {"update.clock.args.shape": [0.7, 1.5]}}])
    train(swept, out=tmp_path / "both")
    train(load(TINY, [{"update.clock": own("Weibull", {"shape": 1.5})}]), out=tmp_path / "alone")
    both, alone = final(tmp_path / "both"), final(tmp_path / "alone")
    np.testing.assert_allclose(both["x"][-10:], alone["x"], rtol=1e-12, atol=1e-12)  # order of sums


def test_gaps_are_of_the_law_and_do_not_depend_on_windows():
    networks = Networks(np.array([0, 40, 80]), np.array([3, 4], np.uint64))
    update = gaps.join(
        [users_kinds.Weibull(2.0).gaps(40, 3, "update.clock"), clocks.Exponential().gaps(40, 4, "update.clock")]
    )
    gossip = gaps.join([clocks.Poisson(1.0).gaps(40, 3, "c"), users_kinds.Weibull(0.7).gaps(40, 4, "c")])
    line = Timeline(networks, stack(networks, [None, None]), update, gossip, "push", (Uniform(), Uniform()))
    events, _ = line.window(line.begin(), 300.0)
    at, parts = line.begin(), []
    for until in np.linspace(0, 300, 8)[1:]:
        part, at = line.window(at, float(until))
        parts.append(part)
    for name in ("time", "actor", "peer", "count"):
        assert np.array_equal(getattr(events, name), np.concatenate([getattr(part, name) for part in parts]))
    mine = np.concatenate([np.diff(events.time[(events.kind == 0) & (events.actor == i)]) for i in range(40)])
    # the mean of 13,500 gaps of mean 0.886 and standard deviation 0.463: 5 standard errors
    assert abs(mine.mean() - 0.8862) < 5 * 0.4633 / np.sqrt(mine.size)
    assert abs((mine <= 1.0).mean() - (1 - np.exp(-1))) < 5 * 0.4823 / np.sqrt(mine.size)


REFUSED = [
    (own("Petersen", {"copies": 0}), r"network\.topology\.args\.copies must be at least 1, got 0"),
    (own("Petersen", {"copys": 1}), r"unknown key .*args.copys.; did you mean .*args.copies"),
    (own("Petersen", {"copies": "many"}), r"network\.topology\.args\.copies must be an integer, got 'many'"),
    (own("Petersen", {"copies": 2}), r"network\.topology\.args\.copies must be n / 10, got 2 at n = 10"),
    (own("Weibull"), r"must be a frozen dataclass derived from .*Topology, got a class"),
    (own("Loose"), r"must be a frozen dataclass derived from .*, got a class without @dataclass\(frozen=True\)"),
    (own("weibull"), r"must be a frozen dataclass derived from .*Topology, got a function"),
    (own("Nothing"), r"network\.topology\.target must be importable, got .*AttributeError"),
    (own("X", module="no_such_module"), r"network\.topology\.target must be importable, got .*ModuleNotFoundError"),
    (own("X", module="no/such/file.py"), r"network\.topology\.target must be importable, got .*FileNotFoundError"),
    ({"kind": "python", "target": "Petersen"}, r'topology\.target must be "package\.module:Class" or .*, got'),
    ({"kind": "python"}, r"network\.topology\.target must be given: text"),
    (own("Sloppy"), r"must be settings that the kind takes, got KeyError: 'size' \(line \d+ of users_"),
    (own("Broken"), r"must be a kind that works, got .*Broken, graph\(\) of which raised ZeroDivisionError: "
     r".*\(line \d+ of users_kinds\.py\)"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "message"), REFUSED)
def test_refusals_name_key_and_fault(section, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({**TINY, "network": {"nodes": 10, "topology": section}}))
    monkeypatch.setattr(sys, "argv", ["batchednodes", "plan", str(path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2
    assert re.search(message, said), said
    assert "Traceback" not in said


def test_what_numba_cannot_compile_or_is_no_time_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"^update\.clock: gap must return non-negative times \[s\], got -"):
        gaps.Gaps.by(negative, np.ones(3), np.ones(3), np.ones(3), "update.clock")
    with pytest.raises(
        ValueError, match=r"^update\.clock: gap must take 3 numbers \(a uniform number, a, b\) and be such"
    ):
        gaps.Gaps.by(odd, np.ones(3), np.ones(3), np.ones(3), "update.clock")


def negative(u, a, b):
    """Returns what is no time."""
    return -u


def odd(u, a, b) -> Any:
    """Returns what numba has no word for."""
    return {"u": u}.popitem()[0].title()


def test_schemes_that_need_exponential_gaps_refuse_others():
    with pytest.raises(
        ValueError, match=r"gossip\.scheme\.kind must be uniform where gaps of gossip\.clock are not exp"
    ):
        load(TINY, [{"gossip.clock": own("Weibull"), "gossip.scheme": {"kind": "freshest"}}])


def test_packages_offer_kinds_by_entry_points_which_list_shows(table, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[batchednodes.kinds]\nnetwork.topology.petersen = {MODULE}:Petersen\nnetwork.weights.bad = {MODULE}:Weibull\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "petersen" not in KINDS["network.topology"]
    config = load({"network": {"nodes": 20, "topology": {"kind": "petersen", "copies": 2}}})
    assert config.network.topology == users_kinds.Petersen(2)
    assert to_dict(config)["network"]["topology"] == {"kind": "petersen", "copies": 2, "skip": 2}
    with pytest.raises(ValueError, match=r"network\.weights\.kind=bad \(entry point network\.weights\.bad of mine\)"):
        load({"network": {"weights": {"kind": "bad"}}})
    (info / "entry_points.txt").write_text(f"[batchednodes.kinds]\nnetwork.topology.petersen = {MODULE}:Petersen\n")
    monkeypatch.setattr(sys, "argv", ["batchednodes", "list", "network.topology"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    said = capsys.readouterr().out
    assert "kind petersen" in said
    assert f"({MODULE}:Petersen)" in said
    assert "kind python" in said
