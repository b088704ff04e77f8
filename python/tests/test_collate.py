# SPDX-License-Identifier: Apache-2.0
"""The lazy row batch collates as its rows would, one by one, without making them."""

import pickle

import pyarrow as pa
import pytest
import torch
from arrow_strategies import NUMBER_TYPES
from hypothesis import given
from hypothesis import strategies as st
from lancedb.integrations._torch.collate import Row, RowBatch, same
from lancedb.integrations._torch.convert import torch_columns
from test_convert import example_of
from torch.utils.data import default_collate

COLUMNS = {
    "x": torch.arange(4),
    "v": torch.arange(8.0).reshape(4, 2),
    "s": ["a", "b", "c", "d"],
    "d": {"y": torch.arange(4) * 2, "t": ["e", "f", "g", "h"]},
}


def equal(one, other):
    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", NUMBER_TYPES, ids=str)
def test_columns_collate_to_what_rows_of_tensors_collate_to(kind):
    values, _ = example_of(kind)
    arrays = {
        "plain": pa.array(values, kind),
        "fixed": pa.array([values] * 3, pa.list_(kind, 3)),
        "struct": pa.array([{"a": value} for value in values], pa.struct([("a", kind)])),
    }
    columns = torch_columns(pa.record_batch(arrays))
    rows = RowBatch(columns, 3)
    one_by_one = default_collate([dict(row) for row in rows])
    assert equal(default_collate(rows), one_by_one)
    assert default_collate(rows)["plain"].dtype == one_by_one["plain"].dtype


def test_a_whole_batch_is_handed_on_as_it_is():
    rows = RowBatch(COLUMNS, 4)
    assert default_collate(rows) is COLUMNS


def test_rows_are_dicts_of_their_values():
    rows = RowBatch(COLUMNS, 4)
    assert len(rows) == 4
    assert same(rows[1], {"x": 1, "v": [2.0, 3.0], "s": "b", "d": {"y": 2, "t": "f"}})
    assert [row["s"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["s"] for row in rows[1:3]] == ["b", "c"]
    assert rows[-1]["s"] == "d"
    with pytest.raises(IndexError, match="row 4 is out of range for a batch of 4 rows"):
        rows[4]
    with pytest.raises(TypeError, match=r"rows.columns\['x'\] the batched column"):
        rows["x"]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_loose_rows_are_put_together_again(order):
    batch = RowBatch(COLUMNS, 4)
    got = default_collate([batch[index] for index in order])
    assert got["x"].tolist() == order
    assert got["s"] == [COLUMNS["s"][index] for index in order]
    assert got["d"]["y"].tolist() == [2 * index for index in order]


def test_rows_of_two_batches_and_of_nested_tensors_are_put_together():
    lists = pa.array([[1, 2], [], [3]], pa.list_(pa.int32()))
    first, second = (RowBatch(torch_columns(pa.record_batch({"c": lists})), 3) for _ in range(2))
    got = default_collate([first[0], second[2], first[1]])["c"]
    assert got.is_nested
    assert [row.tolist() for row in got.unbind()] == [[1, 2], [3], []]


def test_rows_with_other_columns_are_left_to_torch():
    with pytest.raises(KeyError):
        default_collate(
            [RowBatch({"x": torch.arange(1)}, 1)[0], RowBatch({"y": torch.arange(1)}, 1)[0]]
        )


def test_ordinary_dicts_collate_as_ever():
    assert default_collate([{"x": 1}, {"x": 2}])["x"].tolist() == [1, 2]


def test_what_a_transform_made_instead_of_columns_is_handed_on():
    rows = RowBatch((torch.arange(3), torch.ones(3, 2)), 3)
    assert default_collate(rows) is rows.columns


def test_rows_travel_without_the_rest_of_their_batch():
    big = RowBatch({"x": torch.zeros(100_000), "s": ["a"] * 100_000}, 100_000)
    raw = pickle.dumps(big[7])
    assert len(raw) < 5000
    row = pickle.loads(raw)
    assert isinstance(row, Row)
    assert same(row, big[7])
    assert default_collate([row, row])["s"] == ["a", "a"]
