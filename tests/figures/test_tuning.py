"""Searches for step sizes, on curves that are known in closed form, and the names of published searches."""

import numpy as np
import pytest

from batchednodes.figures.published import tuning
from batchednodes.figures.published.compared import published
from batchednodes.figures.published.relaysgd_cases import case

TARGET = 1e-6
FLOOR = 1e-5


def descent(trials, marks):
    """Returns the errors of gradient descent on x^2, (1 - lr)^(2 k), over a floor that is in the name of the trial."""
    with np.errstate(over="ignore"):
        return [(1 - lr) ** (2.0 * np.array(marks)) + float(key) * lr for key, lr in trials]


def test_the_fastest_step_size_is_found_and_half_of_it_is_reported():
    """From 1.28 with 6 steps: 0.64 takes 7, the middle 0.96 takes 3, and above it are none with fewer."""
    found = tuning.settle({"0": tuning.fastest(0.64, TARGET)}, 1000, descent)["0"]
    assert (found.steps, found.lr, found.tried) == (3, 0.48, 0.96)


def test_the_largest_step_size_is_found_with_which_the_error_stands_below_the_target():
    """The floor is FLOOR lr: 0.0625 is low enough, and of the two between it and 0.125 one is within a tenth."""
    found = tuning.settle({f"{FLOOR}": tuning.plateau(4.0, TARGET)}, 70_000, descent)[f"{FLOOR}"]
    assert found.lr == found.tried == 0.09375
    errors = 0.90625 ** (2.0 * tuning.points(70_000)) + FLOOR * 0.09375
    threes = np.lib.stride_tricks.sliding_window_view(errors, 3)
    still = np.abs(threes - threes.mean(1, keepdims=True)).max(1) < TARGET / 100
    assert found.steps == tuning.points(70_000)[2:][still][0]


def test_what_no_step_size_reaches_is_not_found():
    found = tuning.settle({"1": tuning.fastest(1.0, TARGET), "2": tuning.plateau(1.0, TARGET)}, 64, descent)
    assert [(one.steps, one.lr, one.tried) for one in found.values()] == [(None, None, None)] * 2


def test_searches_side_by_side_find_what_each_finds_alone():
    floors = [f"{floor}" for floor in (1e-3, 1e-4, FLOOR, 1e-6)]
    together = tuning.settle({key: tuning.plateau(1.0, TARGET) for key in floors}, 20_000, descent)
    alone = {key: tuning.settle({key: tuning.plateau(1.0, TARGET)}, 20_000, descent)[key] for key in floors}
    assert together == alone
    assert all(one.steps is not None for one in alone.values())


@pytest.mark.parametrize("key", published("relaysgd_tuning")["values"])
def test_published_searches_have_the_names_that_they_are_read_by(key):
    assert case(key).key == key


@pytest.mark.parametrize("key", ["fig3/d2/0", "fig7/adam/0", "fig7/d2", "fig2/d2/ring/6/1", "fig7/d2/ring/6/1/0"])
def test_other_names_are_refused(key):
    with pytest.raises(ValueError, match=f"a case must be .*, got '{key}'"):
        case(key)
