"""The kit that checks algorithms: what is sound passes, and each fault is found and named."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from batchednodes.algorithms.base import Algorithm, Field, Law
from batchednodes.cli import commands
from batchednodes.simulation.check import assert_sound, check


@dataclass(frozen=True)
class Peeking(Algorithm):
    """Takes the mean of the wave: rows of others."""

    def update_(self, r, k):
        r["x"] = k.descend(r["x"]) + 0.1 * (r["x"].mean(0) - r["x"])


@dataclass(frozen=True)
class Losing(Algorithm):
    """Says that pushes keep the sum of models."""

    laws: ClassVar[dict[str, Law]] = {"sum of x": lambda held: held["x"].sum(0)}


@dataclass(frozen=True)
class Moving(Algorithm):
    """Adds one to what it merges."""

    def absorb_(self, r, mixed, k):
        r["x"] = mixed["x"] + 1


@dataclass(frozen=True)
class Otherwise(Algorithm):
    """Has another form of an event."""

    fields: ClassVar[dict[str, Field]] = {"seen": Field(width=1)}

    def event_(self, rows: Any, e: Any, k: Any) -> None:
        if e.kind == 0:
            rows["x"][e.actor] = k.descend(rows["x"][e.actor]) * 1.001


@dataclass(frozen=True)
class Remembering(Algorithm):
    """Counts in itself, not in a field."""

    seen: ClassVar[list[int]] = []

    def update_(self, r, k):
        self.seen.append(1)
        r["x"] = k.descend(r["x"]) + 1e-3 * len(self.seen)


@dataclass(frozen=True)
class Scaled(Algorithm):
    """Sends a field of its own beside the model, by an emission of its own."""

    fields: ClassVar[dict[str, Field]] = {"s": Field(width=1, start="one")}

    def update_(self, r, k):
        r["x"], r["s"] = k.descend(r["x"]), r["s"] * 0.9

    def emit_(self, r, k):
        return {"x": r["x"], "s": r["s"]}


@dataclass(frozen=True)
class Wrong(Algorithm):
    """Raises."""

    def update_(self, r, k):
        raise KeyError("nothing")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gossip_sgd", "push_sum", "gradient_tracking", "ad_psgd"])
def test_built_in_algorithms_are_sound(kind):
    assert_sound(kind, cases=2)


@pytest.mark.parametrize(
    "kind",
    [
        *("d_psgd", "d2", "exact_diffusion", "nids", "extra", "proxskip", "led", "k_gt"),
        *("wang_elia", "aug_dgm", "lt_admm"),
    ],
)
def test_built_in_algorithms_of_rounds_are_sound(kind):
    assert_sound(kind, cases=1)


@pytest.mark.slow
def test_an_algorithm_that_keeps_duals_is_sound_at_contacts_and_in_rounds():
    assert_sound("atg", cases=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("all_reduce", {}),
        ("fedavg", {"fraction": 0.5}),
        ("fedprox", {"fraction": 0.5}),
        ("scaffold", {"fraction": 0.5}),
        ("fedopt", {"fraction": 0.5}),
        ("diloco", {}),
        ("matcha", {}),
        ("el_oracle", {}),
        ("el_local", {}),
        ("all2all", {}),
        ("pens", {"sampled": 3, "kept": 1, "rounds": 2}),
    ],
)
def test_algorithms_with_rounds_of_their_own_and_all2all_are_sound(kind, args):
    assert_sound(kind, args, cases=1)


@pytest.mark.slow
def test_one_of_ones_own_is_sound():
    assert_sound("own_kinds:SlowAverage", {"pull": 0.2}, cases=2)


@pytest.mark.slow
def test_emissions_of_ones_own_travel_with_all_that_they_need():
    assert_sound("test_check:Scaled", cases=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["NewestOfNeighbours", "Inbox", "Aged", "Noting", "Middle"])
def test_what_is_kept_of_neighbours_and_of_what_has_come_is_sound(name):
    assert_sound(f"own_algorithms:{name}", cases=2)


def test_the_example_of_the_documents_is_sound():
    path = Path(__file__).parents[2] / "docs" / "examples" / "lookahead.py"
    assert_sound(f"{path}:Lookahead", {"pull": 0.3}, cases=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Peeking", "a row depends on nothing but itself"),
        ("Losing", "mixing keeps what the laws say"),
        ("Moving", "equal models stay equal"),
        ("Otherwise", "waves equal the algorithm's own form of an event"),
        ("Remembering", "a run that stops goes on bit for bit"),
        ("Wrong", "waves equal one event at a time"),
    ],
)
def test_faults_are_found(name, rule):
    failures = {failure.what: failure for failure in check(f"test_check:{name}", cases=3)}
    assert rule in failures
    case = failures[rule].case
    assert case["network.nodes"] <= 4
    assert case["network.topology.kind"] == "complete" or name == "Remembering"
    assert "smallest case found: network.nodes=" in str(failures[rule])


def test_the_command_says_what_holds(capsys):
    with pytest.raises(ValueError, match="test_check:Moving must hold all rules, got"):
        commands.check("test_check:Moving", {}, 3, 0)
    said = capsys.readouterr().out
    assert "FAILED  equal models stay equal" in said
    assert "holds   a row depends on nothing but itself" in said
    assert torch.get_default_dtype() == torch.float32
