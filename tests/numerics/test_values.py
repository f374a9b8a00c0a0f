"""Per-node quantities: expressions against Python's arithmetic, laws of distributions, and every message."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from batchednodes.numerics.values import Choice, Exponential, LogNormal, Uniform, count, evaluate, number, per_node

ALLOWED = "expressions may use n, numbers, + - * / ** ( ), log, log2, sqrt, exp, min, max"
TOOLS = {"log": math.log, "log2": math.log2, "sqrt": math.sqrt, "exp": math.exp, "min": min, "max": max}


def refused(message):
    """Expects exactly this error."""
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


LEAF = st.one_of(
    st.just("n"),
    st.integers(0, 99).map(lambda k: f"{k}.0"),
    st.floats(0, 1e6, allow_nan=False).map(lambda x: repr(float(x))),
)


def grow(part):
    pair = st.tuples(part, part)
    return st.one_of(
        st.tuples(part, st.sampled_from(["+", "-", "*", "/", "**", " + "]), part).map("".join),
        part.map(lambda a: f"({a})"),
        part.map(lambda a: f"-{a}"),
        st.tuples(st.sampled_from(["log", "log2", "sqrt", "exp"]), part).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(st.sampled_from(["min", "max"]), pair).map(lambda t: f"{t[0]}({t[1][0]}, {t[1][1]})"),
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.recursive(LEAF, grow, max_leaves=12), st.integers(1, 10**6))
def test_expressions_equal_pythons_own_arithmetic(text, n):
    try:
        # the text was grown from the grammar above, so that Python's own evaluator is a safe oracle
        expected = eval(text, {"__builtins__": {}}, {**TOOLS, "n": float(n)})
    except (ArithmeticError, ValueError, TypeError):  # TypeError: min, log, ... of a complex number
        expected = None
    if expected is None or isinstance(expected, complex) or not math.isfinite(expected) or len(text) > 200:
        with pytest.raises(ValueError, match=r"^key must be a number or an expression in n, got "):
            evaluate(text, n, "key")
        return
    try:
        assert evaluate(text, n, "key") == expected  # the same operations in the same order: exactly equal
    except ValueError:  # an intermediate result left the reals, as in 1 / exp(10**6), and came back
        assert any(sign in text for sign in ("exp", "**", "*", "+", "/"))


@pytest.mark.parametrize(
    ("text", "n", "value"),
    [
        ("log(n)", 100, math.log(100)),
        ("2*log(n)", 50, 2 * math.log(50)),
        ("n/4", 10, 2.5),
        (" -2**2 ", 1, -4.0),
        ("2**3**2", 1, 512.0),
        ("1e-3", 1, 0.001),
        ("min(n, 3, 8)", 5, 3.0),
        ("log(n)", 1, 0.0),
    ],
)
def test_expressions(text, n, value):
    assert evaluate(text, n, "key") == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("log(m)", f"unknown name 'm'; {ALLOWED}"),
        ("sin(n)", f"unknown name 'sin'; {ALLOWED}"),
        ("9**9**9", "the value is too large at n = 100"),
        ("exp(n**2)", "the value is too large at n = 100"),
        ("1e999", "the value is too large at n = 100"),
        ("1/(n-100)", "division by zero at n = 100"),
        ("0**-1", "division by zero at n = 100"),
        ("log(n-100)", "log(0) is not a real number"),
        ("sqrt(-n)", "sqrt(-100) is not a real number"),
        ("(-8)**0.5", "(-8) ** 0.5 is not a real number"),
        ("log(n, 2)", "log takes one value, got 2"),
        ("max(n)", "max takes two or more values, got 1"),
        ("", f"it cannot be read; {ALLOWED}"),
        ("2n", f"it cannot be read; {ALLOWED}"),
        ("1or 2", f"it cannot be read; {ALLOWED}"),
        ("n; n", f"it cannot be read; {ALLOWED}"),
        ("n\0", f"it cannot be read; {ALLOWED}"),
        ("True", f"'True' is not arithmetic; {ALLOWED}"),
        ("1j", f"'1j' is not arithmetic; {ALLOWED}"),
        ("+n", f"'+n' is not arithmetic; {ALLOWED}"),
        ("n % 2", f"'n % 2' is not arithmetic; {ALLOWED}"),
        ("n.real", f"'n.real' is not arithmetic; {ALLOWED}"),
        ("max(*n)", f"'*n' is not arithmetic; {ALLOWED}"),
        ("__import__('os').system('true')", f"\"__import__('os').system('true')\" is not arithmetic; {ALLOWED}"),
        ("-" * 120 + "n", "it is nested deeper than 100 levels"),
    ],
)
def test_expression_errors_name_key_text_and_reason(text, reason):
    with refused(f"gossip.clock.rate must be a number or an expression in n, got {text!r}: {reason}"):
        number(text, 100, "gossip.clock.rate")


def test_long_expressions_are_refused():
    with pytest.raises(ValueError, match="expressions have at most 200 characters, this one 401"):
        evaluate("n" + "+n" * 200, 3, "key")
    assert evaluate("1" + "+1" * 99, 3, "key") == 100


def test_per_node_resolves_each_form():
    assert per_node(3, 2, 0, "key").tolist() == [3.0, 3.0]
    assert per_node("n/4", 2, 0, "key").tolist() == [0.5, 0.5]
    assert per_node([1, 2.5], 2, 0, "key").tolist() == [1.0, 2.5]
    assert per_node(Choice([7.0]), 2, 0, "key").tolist() == [7.0, 7.0]


FORMS = "a number, a list of n = 2 numbers, an expression in n or a distribution"


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        ([1.0, 2.0, 3.0], {}, "key must be a number, or a list of n = 2 numbers, got a list of 3"),
        ([1.0, "n"], {}, "key must be a list of numbers, got 'n' at position 1"),
        ([True, 1.0], {}, "key must be a list of numbers, got True at position 0"),
        ([1.0, -2.0], {"unit": "1/s"}, "key must be at least 0 and finite [1/s], got -2 at position 1"),
        (True, {}, f"key must be {FORMS}, got True"),
        (None, {}, f"key must be {FORMS}, got None"),
        (0, {"open_low": True, "unit": "s"}, "key must be positive and finite [s], got 0"),
        (math.nan, {}, "key must be at least 0 and finite, got nan"),
        (math.inf, {}, "key must be at least 0 and finite, got inf"),
        (10**400, {}, "key must be a finite number, got an integer beyond float64"),
        (1.5, {"high": 1.0, "open_high": False}, "key must be in [0, 1], got 1.5"),
        (1.0, {"high": 1.0, "open_low": True}, "key must be in (0, 1), got 1.0"),
        (1.0, {"low": 2.0}, "key must be at least 2 and finite, got 1.0"),
        (2.0, {"low": 2.0, "open_low": True}, "key must be more than 2 and finite, got 2.0"),
        (math.inf, {"low": -math.inf}, "key must be finite, got inf"),
        ("log(n)-1", {}, "key must be at least 0 and finite, got 'log(n)-1' = -0.306853 at n = 2"),
        (Choice([-1.0]), {}, "key must be at least 0 and finite, got -1 at node 0"),
    ],
)
def test_per_node_errors(value, options, message):
    with refused(message):
        per_node(value, 2, 0, "key", **options)


def test_infinity_is_allowed_where_the_range_says_so():
    assert per_node(math.inf, 1, 0, "key", open_high=False).tolist() == [math.inf]


def test_count():
    assert count(3, 10, "key") == 3
    assert count(3.0, 10, "key") == 3
    assert count("n/4", 9, "key") == 2
    assert count("log(n)", 100, "key") == 5
    assert isinstance(count(3.0, 10, "key"), int)


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (2.5, {}, "key must be an integer at least 1, got 2.5"),
        (0, {}, "key must be an integer at least 1, got 0"),
        (True, {}, "key must be an integer at least 1, got True"),
        (math.nan, {}, "key must be an integer at least 1, got nan"),
        (math.inf, {}, "key must be an integer at least 1, got inf"),
        (10**30, {}, f"key must be an integer at least 1, got {10**30}"),
        ([1], {}, "key must be an integer at least 1, got [1]"),
        ("-n", {"low": 0}, "key must be an integer at least 0, got '-n' = -4 at n = 4"),
        (9, {"high": 4}, "key must be an integer in [1, 4], got 9"),
    ],
)
def test_count_errors(value, options, message):
    with refused(message):
        count(value, 4, "key", **options)


LAWS = [
    (LogNormal(2.0, 0.7), stats.lognorm(s=0.7, scale=2.0)),
    (Uniform(-1.0, 3.0), stats.uniform(-1.0, 4.0)),
    (Exponential(0.25), stats.expon(scale=0.25)),
]


@pytest.mark.parametrize(("law", "reference"), LAWS, ids=["lognormal", "uniform", "exponential"])
def test_draws_follow_their_law(law, reference):
    x = law.draw(4000, 5, "update.clock.rate")
    assert stats.kstest(x, reference.cdf).pvalue > 1e-4  # seed fixed; false alarms: 1 seed in 10,000


def test_choice_follows_its_probabilities():
    x = Choice([1.0, 2.0, 5.0], [0.5, 0.3, 0.2]).draw(4000, 5, "key")
    seen = [int((x == v).sum()) for v in (1.0, 2.0, 5.0)]
    assert stats.chisquare(seen, [2000, 1200, 800]).pvalue > 1e-4  # seed fixed; false alarms: 1 seed in 10,000
    assert not (Choice([1.0, 2.0, 3.0], [0.0, 1.0, 0.0]).draw(500, 5, "key") != 2.0).any()


@pytest.mark.parametrize("law", [law for law, _ in LAWS] + [Choice([1.0, 2.0])])
def test_a_draw_depends_on_seed_key_and_node_only(law):
    x = law.draw(50, 3, "a")
    np.testing.assert_array_equal(law.draw(20, 3, "a"), x[:20])
    assert (law.draw(50, 4, "a") != x).any()
    assert (law.draw(50, 3, "b") != x).any()


def test_settings_draw_independently():
    x, y = Uniform(0.0, 1.0).draw(4000, 3, "a"), Uniform(0.0, 1.0).draw(4000, 3, "b")
    assert abs(np.corrcoef(x, y)[0, 1]) < 4 / math.sqrt(4000)  # four standard errors: 6 seeds in 100,000


def test_large_seeds():
    assert np.isfinite(Uniform().draw(3, 2**63 - 1, "key")).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogNormal(0.0), "median must be positive and finite, got 0.0"),
        (lambda: LogNormal(1.0, -1.0), "sigma must be at least 0 and finite, got -1.0"),
        (lambda: Uniform(2.0, 1.0), "high must be at least 2 and finite, got 1.0"),
        (lambda: Uniform(-math.inf, 1.0), "low must be finite, got -inf"),
        (lambda: Exponential(math.nan), "mean must be positive and finite, got nan"),
        (lambda: Choice([]), "values must be a list of at least one number, got an empty list"),
        (lambda: Choice([math.nan]), "values must be finite, got nan at position 0"),
        (lambda: Choice([1.0, 2.0], [0.5]), "probabilities must be a list of 2 numbers, one for each value, got 1"),
        (lambda: Choice([1.0, 2.0], [-0.5, 1.5]), "probabilities must be in [0, 1], got -0.5 at position 0"),
        (lambda: Choice([1.0, 2.0], [0.5, 0.4]), "probabilities must sum to 1, got a sum of 0.9"),
    ],
)
def test_distribution_errors(make, message):
    with refused(message):
        make()
