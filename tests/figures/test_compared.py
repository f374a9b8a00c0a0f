"""Published values beside ours: what lies inside, how it is shown, and that a CSV file keeps it."""

import io
import math

import pandas as pd
import pytest
from rich.console import Console

from batchednodes.figures.published.compared import Compared, compared, published, rows, shown, verdict

NONE = math.nan


@pytest.mark.parametrize(
    ("value", "inside"),
    [
        (Compared("the same", 51.0, 51.0), True),
        (Compared("another", 51.0, 51.0000001), False),
        (Compared("near", 1.0, 1.1, absolute=0.11), True),
        (Compared("too far", 1.0, 1.1, absolute=0.09), False),
        (Compared("a tenth", -10.0, -10.9, relative=0.1), True),
        (Compared("more than a tenth", -10.0, -11.1, relative=0.1), False),
        (Compared("a mean", 1.0, 1.2, published_error=0.05, here_error=0.0875), True),  # 0.2 < 2 * 0.1008
        (Compared("a mean too far", 1.0, 1.2, published_error=0.05, here_error=0.086), False),  # 0.2 > 2 * 0.0995
        (Compared("none", NONE, NONE), True),
        (Compared("none here", 1.0, NONE, absolute=9.0), False),
        (Compared("none published", NONE, 1.0, absolute=9.0), False),
        (Compared("infinite", math.inf, math.inf, relative=0.1), True),
    ],
    ids=lambda value: value.value if isinstance(value, Compared) else "",
)
def test_a_value_is_inside_where_its_rule_allows_it(value, inside):
    assert value.inside is inside


def test_values_are_kept_by_a_csv_file_among_other_rows():
    values = [Compared("one", 1.0, 1.5, absolute=0.25), Compared("two", 0.1, 0.1), Compared("three", NONE, NONE)]
    table = pd.concat([pd.DataFrame({"time": [0.0, 1.0]}), rows(values)])
    again = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    assert repr(compared(again)) == repr(compared(table)) == repr(values)
    assert again["inside"].dropna().tolist() == [False, True, True]


def test_a_table_says_in_words_what_is_not_met():
    values = [Compared("steps", 51.0, 52.0), Compared("size", 1.0, 1.1, absolute=0.2, here_error=0.05)]
    table = shown(rows(values), "a figure")
    assert table.caption == verdict(values) == "1 of 2 published values are NOT met: steps"
    written = io.StringIO()
    Console(file=written, width=200).print(table)
    lines = [line.split("│")[1:-1] for line in written.getvalue().splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells == [["steps", "51", "52", "NO"], ["size", "1 ± 0.2", "1.1 ± 0.1", "yes"]]
    assert verdict(values[1:]) == "all 1 published values are met"


def test_published_values_come_with_their_source():
    found = published("relaysgd_tuning")
    assert found["source"]
    assert found["values"]["fig7/d2/0"] == [18, 0.394287109375]
