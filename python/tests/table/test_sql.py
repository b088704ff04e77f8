# SPDX-License-Identifier: Apache-2.0
"""Names and text in SQL: what a user means is read, or the error says how to write it."""

import re

import pyarrow as pa
import pytest
from lancedb.integrations.torch import (
    LanceIterableTorchDataset,
    LanceTorchDataset,
    TokenBudget,
)

NAMES = ["PartyAbbrev", "foo-bar", "a b", "q'q", 'quo"te', "é😀", "select", "0x", "items"]


@pytest.fixture
def named(db):
    """A column for each name, and one of text."""
    columns = {name: [10 * number, 10 * number + 1] for number, name in enumerate(NAMES)}
    return db.create_table("named", pa.table({**columns, "text": ["D", "R"]}))


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_column_of_any_name_is_read_filtered_and_computed_with(named, number):
    name, values = NAMES[number], [10 * number, 10 * number + 1]
    assert LanceTorchDataset(named, columns=[name])[[0, 1]] == [{name: value} for value in values]
    quoted = '"' + name.replace('"', '""') + '"'
    for written in (f"`{name}`", quoted):
        chosen = LanceTorchDataset(named, columns=[name], filter=f"{written} = {values[1]}")
        assert chosen[[0]] == [{name: values[1]}]
        assert len(chosen) == 1
        computed = LanceTorchDataset(named, columns={"same": written, "more": f"{written} + 1"})
        assert computed[[0]] == [{"same": values[0], "more": values[0] + 1}]


def test_text_in_single_quotes_stays_text_whatever_stands_in_it(named):
    columns = {"a": "concat(text, 'say \"items\" ''ok''')", "b": '"items"'}
    (row,) = LanceTorchDataset(named, columns=columns)[[0]]
    assert row == {"a": "Dsay \"items\" 'ok'", "b": 80}


@pytest.mark.parametrize(
    "filter",
    [
        "'text' = 'D'",
        "'text' != 'D'",
        "items > 0 AND 'text' <> 'D'",
        "'text' IN ('D', 'R')",
        "'text' NOT LIKE 'D%'",
        "'text' IS NOT NULL",
        "'items' < 5",
    ],
)
def test_the_name_of_a_column_compared_as_text_is_refused(named, filter):
    with pytest.raises(ValueError, match=r"compares the text '\w+', the same for every row.*`\w+`"):
        LanceTorchDataset(named, filter=filter)


@pytest.mark.parametrize(
    ("filter", "rows"),
    [
        ("text = 'text'", 0),
        ("text IN ('text', 'D')", 1),
        ("'D' = text", 1),
        ("'x' || 'text' = 'y'", 0),
    ],
)
@pytest.mark.filterwarnings("ignore:this dataset is empty")
def test_text_that_is_the_name_of_a_column_may_be_a_value(named, filter, rows):
    assert len(LanceTorchDataset(named, filter=filter)) == rows


@pytest.mark.parametrize(
    ("filter", "hint"),
    [
        ("foo-bar > 0", "the column 'foo-bar' stands in backticks, `foo-bar`"),
        ("select > 0", "the column 'select' stands in backticks, `select`"),
        ("é😀 > 0", "the column 'é😀' stands in backticks, `é😀`"),
        ('text = "D"', "text stands in single quotes, 'D'"),
        ("items <", "cannot be evaluated: Invalid"),
        ("no_such = 1", "cannot be evaluated: Invalid"),
    ],
)
def test_an_error_says_how_to_quote(named, filter, hint):
    with pytest.raises(ValueError, match=hint):
        LanceTorchDataset(named, filter=filter)


MORE_THAN_ONE = [
    "items, text",
    "items; text",
    "items where items > 80",
    "items from other",
    "items) + (1",
    "*",
]


@pytest.mark.parametrize("expression", MORE_THAN_ONE)
def test_what_follows_an_expression_is_refused_and_not_left_out(named, expression):
    shown = re.escape(repr(expression))
    with pytest.raises(ValueError, match=rf"columns {{'x': {shown}}} cannot be read: "):
        LanceTorchDataset(named, columns={"x": expression})
    for argument in ("sample_weights", "balance_by"):
        with pytest.raises(ValueError, match=rf"{argument}={shown} cannot be read: "):
            LanceIterableTorchDataset(named, **{argument: expression})
    by_length = TokenBudget(8, lengths=expression)
    with pytest.raises(ValueError, match=rf"lengths={shown} cannot be evaluated: "):
        list(LanceIterableTorchDataset(named, format="torch", batching=by_length))


@pytest.mark.parametrize(
    "expression", ["items + 1", "(items) + (1)", "items + 1 -- ) and no more", "items + /* , */ 1"]
)
def test_one_expression_is_read_however_it_is_written(named, expression):
    assert LanceTorchDataset(named, columns={"x": expression})[[0]] == [{"x": 81}]


def test_an_error_says_nothing_of_places_in_lancedbs_source(named):
    with pytest.raises(ValueError, match="filter .* cannot be evaluated") as caught:
        LanceTorchDataset(named, filter="items = 'a'")
    assert ".rs" not in str(caught.value)
    with pytest.raises(ValueError, match="no column in it.*the same for every row"):
        LanceTorchDataset(named, columns={"x": "1"})
    assert LanceTorchDataset(named, columns={"text": "text", "x": "1"})[[0]] == [
        {"text": "D", "x": 1}
    ]
