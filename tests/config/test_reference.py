"""What `batchednodes list` shows is read off the code, and complete."""

import dataclasses

import pytest

from batchednodes.config import KINDS, Config, Gossip, Local, Network, Run, Staleness, Task, Update, to_dict
from batchednodes.config.reference import catalogue, docstrings
from batchednodes.config.stopping import StopWhen

PER_NODE = "a number, an expression in n, a list of n numbers or a distribution {kind: ...}"


CLASSES = [
    Config,
    Network,
    Update,
    Gossip,
    Local,
    Task,
    Run,
    Staleness,
    StopWhen,
    *(c for kinds in KINDS.values() for c in kinds.values()),
]


@pytest.mark.parametrize("cls", sorted(set(CLASSES), key=str), ids=lambda cls: cls.__module__ + "." + cls.__name__)
def test_every_setting_has_a_docstring_a_default_and_can_be_compared(cls):
    assert cls.__doc__
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    for name, text in docstrings(cls).items():
        assert text.endswith("."), f"{cls.__name__}.{name} needs a docstring under it"


def test_the_catalogue_names_every_setting_once():
    entries = catalogue()
    named = [(entry.section, entry.name) for entry in entries]
    assert len(set(named)) == len(named)
    assert {(path, kind) for path, kinds in KINDS.items() for kind in kinds} <= set(named)

    def leaves(tree, path):
        return [
            leaf
            for key, value in tree.items()
            for leaf in (leaves(value, f"{path}{key}.") if isinstance(value, dict) and value else [path + key])
        ]

    listed = {s.path for entry in entries if entry.default or not entry.name for s in entry.settings}
    in_use = {leaf for leaf in leaves(to_dict(Config()), "") if not leaf.endswith(".kind")}
    null = {"task.partition", "task.shift", "run.stop_when", "local.privacy"}  # by default: no kind, no section is
    assert {path for path in listed if not path.startswith(("run.stop_when.", "local.privacy."))} == in_use - null


def test_the_catalogue_reads_types_defaults_and_meanings_off_the_code():
    found = {(s.path, entry.name): s for entry in catalogue() for s in entry.settings}
    rate = found["gossip.clock.rate", "poisson"]
    assert (rate.type, rate.default) == (PER_NODE, "log(n)")
    assert "[1/s]" in rate.meaning
    assert found["network.nodes", ""].default == "100"
    assert found["network.topology.path", "edge_list"].default == "required"
    assert found["run.eval_nodes", ""].type == "an integer or null"
    assert found["run.eval_nodes", ""].default == "null"
    assert found["local.nesterov", ""].default == "false"
    assert found["gossip.exchange", ""].type == "one of push, pull, push_pull, meet"
    assert [entry.name for entry in catalogue() if entry.default] == [
        "complete",
        "uniform",
        "always",
        "none",
        "shifted_exponential",
        "poisson",
        "uniform",
        "none",
        "none",
        "fixed",
        "none",
        "none",
        "continuous",
        "gossip_sgd",
        "sgd",
        "constant",
        "linear_regression",
        "linear",
        "none",
    ]


def test_each_algorithm_says_its_paper_state_bytes_and_soundness():
    facts = {entry.name: dict(entry.facts) for entry in catalogue() if entry.section == "algorithm"}
    for kind in KINDS["algorithm"]:
        assert {*facts[kind]} == {"paper", "state", "bytes sent a contact", "sound"}, kind
        assert facts[kind]["paper"].endswith("."), kind
    assert facts["push_sum"] == {
        "paper": 'M. Assran, N. Loizou, N. Ballas, M. Rabbat, "Stochastic gradient push for distributed deep '
        'learning", ICML 2019.',
        "state": "the model and 1 number (w)",
        "bytes sent a contact": "4 p + 4, in one direction, of p parameters in float32",
        "sound": "at single contacts and in synchronous rounds; column-stochastic mixing",
    }
    assert facts["gradient_tracking"]["state"] == "the model and 2 rows (y, g)"
    assert facts["gradient_tracking"]["bytes sent a contact"].startswith("8 p, ")
