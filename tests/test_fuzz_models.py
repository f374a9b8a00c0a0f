"""Random models on random data end alike, batched and one event at a time: a share of `tools/fuzz_models.py`."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PAIRS, SHARES = 40, 4
"""Pairs of a model and a data set, and tests that they are dealt to."""

SLOW = ("local.compile=on",)
"""Settings that are left to the tool: torch.compile takes half a minute."""


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    from fuzz import cases, outcomes

    yield cases, outcomes
    for name in [name for name in sys.modules if name.partition(".")[0] == "fuzz"]:
        del sys.modules[name]


@pytest.mark.parametrize("share", range(SHARES))
def test_pairs_end_alike(fuzz, share):
    cases, outcomes = fuzz
    trained = 0
    for k in range(share, PAIRS, SHARES):
        case = cases.drawn(1, k)
        if not set(SLOW) & set(case.settings):
            verdict = outcomes.judged(case)
            assert not verdict.wrong, (k, verdict.wrong, case.text())
            trained += verdict.rule == "trained"
    assert trained >= PAIRS / SHARES / 4


SOUND = {"kind": "ids", "shape": [3], "dtype": "int64", "rows": 12, "high": 5, "bad": None, "where": "both",
         "targets": "labels", "classes": 3, "test": None, "node": False, "seed": 0}  # fmt: skip


def sound(cases):
    return cases.Case(SOUND, (("embedding", 0), ("linear", 0)), settings=("network.nodes=3", "dtype=float64"))


def test_a_sound_case_trains_and_what_it_looks_up_beyond_its_table_is_refused(fuzz):
    cases, outcomes = fuzz
    case = sound(cases)
    assert case.is_sound
    verdict = outcomes.judged(case)
    assert (verdict.rule, verdict.wrong) == ("trained", [])
    verdict = outcomes.judged(replace(case, data=SOUND | {"bad": "above"}, tables=5))
    assert (verdict.rule, verdict.wrong) == ("task.data must hold what task.model looks up", [])


def nudged(result):
    result.x[0, 0] += 1e-6
    return result


def raising(error):
    def fails(result):
        raise error

    return fails


FAULTS = {
    "models differ": nudged,
    "ends differ": raising(ValueError("task.model must be another, got this")),
    "ends differ, traceback": raising(KeyError("a")),
    "ends differ, message": raising(ValueError("task.model must\nbe another")),
}
"""What is done to the result of a batched run, by the kinds of what is wrong then."""


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_wrong_is_found(fuzz, kind, monkeypatch):
    cases, outcomes = fuzz
    honest = outcomes.train

    def train(config, out):
        result = honest(config, out=out)
        return FAULTS[kind](result) if config.executor == "batched" else result

    monkeypatch.setattr(outcomes, "train", train)
    wrong = outcomes.judged(sound(cases)).wrong
    assert {words.split(":")[0].split(" (")[0] for words in wrong} - {"metrics differ", "refused"} == set(
        kind.split(", ")
    )


def test_what_fails_is_made_smaller(fuzz):
    cases, _ = fuzz
    case = next(case for case in (cases.drawn(0, k) for k in range(100)) if len(case.layers) > 3)
    name, tries = case.layers[1][0], []

    def fails(one):
        tries.append(one)
        return any(layer[0] == name for layer in one.layers)

    found = cases.smallest(case, fails, 200)
    assert [layer[0] for layer in found.layers] == [name]
    assert found.settings == ()
    assert cases.Case.of(found.text()) == found
    assert all(cases.drawn(0, k) == cases.drawn(0, k) for k in range(20))
