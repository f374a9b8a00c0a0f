"""The door for users' kinds: named by target, registered, or found as entry points; batched equals serial."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import batchednodes
from batchednodes import load, resume, train
from batchednodes.config import KINDS, dump, to_dict

OWN = {
    "network": {"nodes": 20, "topology": {"kind": "python", "target": "own_kinds:Petersen", "args": {"copies": 2}}},
    "update": {
        "clock": {"kind": "python", "target": "own_kinds:Weibull", "args": {"scale": [0.5 + i / 20 for i in range(20)]}}
    },
    "gossip": {
        "clock": {"kind": "python", "target": "own_kinds:Weibull", "args": {"shape": 2}},
        "merge": {"kind": "python", "target": "own_kinds:Softmax"},
        "delay": {"kind": "python", "target": "own_kinds:Pareto"},
    },
    "algorithm": {"kind": "python", "target": "own_kinds:SlowAverage", "args": {"pull": 0.2}},
    "task": {"data": {"features": 4, "samples_per_node": 6, "test_samples": 20}},
    "local": {"batch_size": 4, "lr": 0.05},
    "dtype": "float64",
    "run": {"until": 6.0},
}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(KINDS, "_kinds", {section: dict(kinds) for section, kinds in KINDS.items()})
    monkeypatch.setattr(KINDS, "added", dict(KINDS.added))


PLAIN = {"gossip.merge": {"kind": "fixed"}}  # what an algorithm of one's own needs of merging


def test_kinds_of_ones_own_are_the_same_batched_and_serial():
    batched, serial = train(OWN, PLAIN), train(OWN, PLAIN, "executor=serial")
    assert torch.equal(batched.versions, serial.versions)
    assert torch.allclose(batched.x, serial.x, rtol=1e-12, atol=1e-13)
    merged = [train(OWN, {"algorithm": {"kind": "gossip_sgd"}}, *more) for more in ([], ["executor=serial"])]
    assert torch.allclose(merged[0].x, merged[1].x, rtol=1e-12, atol=1e-13)
    assert not torch.allclose(merged[0].x, train(OWN, {"algorithm": {"kind": "gossip_sgd"}}, PLAIN).x)


def test_windows_change_nothing():
    a, b = train(OWN, PLAIN), train(OWN, PLAIN, "run.window=0.37")
    assert torch.equal(a.versions, b.versions)
    assert torch.allclose(a.x, b.x, rtol=1e-12, atol=1e-13)


def test_settings_are_written_and_read_again(tmp_path):
    config = load(OWN, [PLAIN])
    again = load(yaml.safe_load(dump(config)))
    assert again == config
    assert to_dict(config)["update"]["clock"]["target"] == "own_kinds:Weibull"
    swept = train(OWN, PLAIN, {"sweep": {"update.clock.args.shape": [0.7, 1.5]}})
    alone = train(OWN, PLAIN, "update.clock.args.shape=1.5")
    assert torch.allclose(swept.x[20:], alone.x, rtol=1e-12, atol=1e-13)


def test_a_run_of_kinds_of_ones_own_goes_on(tmp_path):
    train(OWN, PLAIN, "run.until=3", out=tmp_path / "a")
    resume(tmp_path / "a", "run.until=6")
    train(OWN, PLAIN, out=tmp_path / "b")
    first, second = (load_file(tmp_path / name / "final.safetensors") for name in ("a", "b"))
    for name in ("x", "versions", "slow", "last", "clocks.next_update", "clocks.next_gossip"):
        assert torch.equal(first[name], second[name]), name


def test_a_class_in_a_file_needs_no_module(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "support" / "own_kinds.py").read_text()
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    config = load(OWN, [PLAIN, {"network.topology.target": "mine.py:Petersen"}])
    assert to_dict(config)["network"]["topology"]["target"] == "mine.py:Petersen"
    assert load(yaml.safe_load(dump(config))) == config


def test_a_registered_class_is_a_kind():
    from own_kinds import Petersen, Softmax

    batchednodes.register("network.topology", "petersen", Petersen)
    config = load({"network": {"nodes": 10, "topology": {"kind": "petersen"}}})
    assert to_dict(config)["network"]["topology"] == {"kind": "petersen", "copies": 1}
    with pytest.raises(ValueError, match=r"kind must be a new one, got 'ring'"):
        batchednodes.register("network.topology", "ring", Petersen)
    with pytest.raises(ValueError, match="must name a class derived from"):
        batchednodes.register("network.topology", "softmax", Softmax)


def test_an_installed_package_names_kinds(tmp_path, monkeypatch):
    (tmp_path / "theirs-1.0.dist-info").mkdir()
    (tmp_path / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = "[batchednodes.kinds]\nupdate.clock.weibull = own_kinds:Weibull\n"
    (tmp_path / "theirs-1.0.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    config = load({"update": {"clock": {"kind": "weibull", "shape": 2.0}}})
    assert to_dict(config)["update"]["clock"] == {"kind": "weibull", "scale": 1.0, "shape": 2.0}
    assert "weibull" in KINDS["update.clock"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network.topology": {"kind": "python"}}, 'network.topology.target must be "module:Class", got None'),
        ({"network.topology": {"kind": "python", "target": "nowhere"}}, "network.topology.target must be"),
        (
            {"network.topology": {"kind": "python", "target": "nowhere:X"}},
            "must be importable, got 'nowhere:X': ModuleNotFound",
        ),
        ({"network.topology": {"kind": "python", "target": "own_kinds:Softmax"}}, "derived from batchednodes.topology"),
        ({"network.topology": {"kind": "python", "target": "own_kinds:Petersen", "args": {"copy": 1}}}, "did you mean"),
        (
            {"network.topology": {"kind": "python", "target": "own_kinds:Petersen", "args": {"copies": 0}}},
            "args.copies must",
        ),
        ({"network.topology": {"kind": "python", "target": "own_kinds:Petersen", "copies": 1}}, "unknown key"),
        (
            {"update.clock": {"kind": "python", "target": "own_kinds:Weibull", "args": {"scale": "x"}}},
            "clock.scale must",
        ),
    ],
)
def test_refusals(change, words):
    with pytest.raises(ValueError, match=r"^network|^update|^unknown") as error:
        load({"network": {"nodes": 20}}, [change])
    assert words in str(error.value)
