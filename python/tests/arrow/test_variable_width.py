# SPDX-License-Identifier: Apache-2.0
"""Rows of varying length held as views are the rows that were read, and are copied once."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.arrow.pieces import SlicesOfRows
from lancedb.integrations._torch.arrow.variable_width import (
    ViewRows,
    _byte_rows,
    concatenated,
    copied,
    view_rows,
)

BYTES = [pa.binary(), pa.large_binary()]
TEXTS = [pa.string(), pa.large_string()]
VECTORS = pa.list_(pa.float32(), 2)
LISTS = [
    pa.list_(pa.int32()),
    pa.large_list(pa.int8()),
    pa.list_(pa.float64()),
    pa.list_(pa.timestamp("us")),
    pa.large_list(VECTORS),
]


def elements(kind):
    if kind == VECTORS:
        return st.lists(st.integers(0, 100), min_size=2, max_size=2)
    return st.integers(0, 100).map(float if pa.types.is_floating(kind) else int)


def values(kind):
    """Rows around the twelve bytes that stand in a view itself, and longer ones."""
    if kind in TEXTS:
        return st.text(st.sampled_from("aé€"), max_size=20)
    if kind in BYTES:
        return st.binary(max_size=30)
    return st.lists(elements(kind.value_type), max_size=20)


@st.composite
def columns(draw):
    """A column, or a slice of one, with nulls or without."""
    kind = draw(st.sampled_from([*BYTES, *TEXTS, *LISTS]))
    row = values(kind)
    rows = draw(st.lists(st.none() | row if draw(st.booleans()) else row, min_size=1, max_size=30))
    column = pa.array(rows, kind)
    start = draw(st.integers(0, len(rows) - 1))
    return column.slice(start, draw(st.integers(1, len(rows) - start)))


def rows_of(column) -> ViewRows | None:
    """As `view_rows`, also of short strings; None where lists have no elements at all."""
    rows = _byte_rows(column)
    return None if rows is None else ViewRows(column, rows)


@given(columns(), st.data())
@settings(max_examples=300)
@example(pa.array([b"", b"x" * 12, b"y" * 13]), None)
def test_held_rows_are_the_columns_own_in_the_order_asked_for(column, data):
    at = st.integers(0, len(column) - 1)
    indices = np.array([2, 0, 1] if data is None else data.draw(st.lists(at, max_size=20)), int)
    rows = rows_of(column)
    if rows is None:
        assert pa.types.is_nested(column.type)
        return
    held = rows.take_views(indices)
    held.validate()
    taken = copied(column.type, held)
    taken.validate(full=True)
    assert taken.type == column.type
    assert taken.to_pylist() == [column[index].as_py() for index in indices.tolist()]


@given(columns(), st.data())
def test_any_rows_come_out_of_a_column_in_pieces(column, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(column) - 1)))) if len(column) > 1 else []
    starts = np.array([0, *cuts])
    ends = [*cuts, len(column)]
    parts = [column.slice(start, end - start) for start, end in zip(starts, ends, strict=True)]
    pieces = [rows_of(part) for part in parts]
    if None in pieces:
        assert pa.types.is_nested(column.type)
        return
    places = np.array(data.draw(st.lists(st.integers(0, len(column) - 1), max_size=40)), np.int64)
    taken = SlicesOfRows(column.type, pieces, starts).take(places)
    taken.validate(full=True)
    assert taken.type == column.type
    assert taken.to_pylist() == [column[place].as_py() for place in places.tolist()]


@given(columns(), st.data())
def test_parts_that_are_views_and_parts_that_are_not_become_one_column(column, data):
    at = st.integers(0, len(column) - 1)
    parts, expected = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        indices = np.array(data.draw(st.lists(at, min_size=1, max_size=5)))
        rows = rows_of(column) if data.draw(st.booleans()) else None
        parts.append(column.take(pa.array(indices)) if rows is None else rows.take_views(indices))
        begin = data.draw(st.integers(0, len(indices) - 1))
        parts[-1] = parts[-1].slice(begin)
        expected += [column[index].as_py() for index in indices[begin:].tolist()]
    got = concatenated(column.type, parts)
    got.validate(full=True)
    assert got.type == column.type
    assert got.to_pylist() == expected


@pytest.mark.parametrize("kind", [pa.large_string(), pa.list_(pa.int8())], ids=str)
def test_rows_wait_where_they_were_read(kind):
    column = pa.array(["abc" * 50] * 100 if kind == pa.large_string() else [[1] * 150] * 100, kind)
    before = pa.total_allocated_bytes()
    held = view_rows(column).take_views(np.arange(100))
    assert pa.total_allocated_bytes() == before
    read, taken = column.buffers()[-1], copied(kind, held).buffers()[-1]
    assert read.address <= held.buffers()[2].address < read.address + read.size
    assert not read.address <= taken.address < read.address + read.size


@pytest.mark.parametrize(
    "column",
    [
        pa.array([], pa.string()),
        pa.array(["short", "strings"]),
        pa.array([[], []], pa.list_(pa.int32())),
        pa.array([[1, None]]),
        pa.array([["a"], ["b"]]),
        pa.array([[[1]], [[2]]]),
        pa.array([{"a": 1}]),
        pa.array(["x" * 100], pa.string_view()),
        pa.array([1, 2]),
    ],
    ids=lambda column: f"{column.type} {column.to_pylist()}",
)
def test_what_arrow_takes_as_well_or_alone_is_left_to_it(column):
    assert view_rows(column) is None
