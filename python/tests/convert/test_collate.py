# SPDX-License-Identifier: Apache-2.0
"""The lazy row batch collates as its rows would, one by one, without making them."""

import pickle

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
import torch
from arrow_strategies import NUMBER_TYPES, record_batches
from conftest import rows_of
from conversions import example_of, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.convert import nested_tensor
from lancedb.integrations._torch.convert.collate import Row, RowBatch, same
from lancedb.integrations._torch.convert.torch_columns import torch_columns
from lancedb.integrations.torch import LanceDataLoader, LanceTorchDataset
from torch.nested import nested_tensor_from_jagged
from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate
from torchdata.stateful_dataloader import StatefulDataLoader

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


@given(record_batches(min_rows=1, views=True))
@settings(max_examples=60)
def test_loose_rows_of_any_type_collate_to_the_batch_itself(batch):
    rows = RowBatch(torch_columns(batch), batch.num_rows)
    assert plain(default_collate(list(rows))) == plain(rows.columns)


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
    for wrong in (1.5, None):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            rows[wrong]


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


def table_of(batch):
    """A batch in any format that holds columns, as Arrow has it."""
    if isinstance(batch, torch.Tensor):
        return dict(zip(("id", "label"), batch.tolist(), strict=True))
    if isinstance(batch, pa.RecordBatch):
        return batch.to_pydict()
    if isinstance(batch, dict):
        return batch
    return {name: list(batch[name]) for name in ("id", "label")}


FORMATS_OF_COLUMNS = {
    "python_col": dict,
    "pandas": pandas.DataFrame,
    "polars": polars.DataFrame,
    "arrow": pa.RecordBatch,
    "torch_col": torch.Tensor,
}


@pytest.mark.few(2)
@pytest.mark.parametrize("format", FORMATS_OF_COLUMNS)
def test_loaders_hand_on_batches_that_are_no_rows(table, format):
    dataset = LanceTorchDataset(table, columns=["id", "label"], format=format)
    part = Subset(dataset, range(4, 20))
    in_worker = {"num_workers": 1, "multiprocessing_context": "forkserver"}
    for loader, first in (
        (DataLoader(dataset, 4), 0),
        (DataLoader(part, 4, **in_worker), 4),
        (LanceDataLoader(dataset, batch_size=4), 0),
        (StatefulDataLoader(part, 4), 4),
    ):
        batch = next(iter(loader))
        assert isinstance(batch, FORMATS_OF_COLUMNS[format])
        ids = list(range(first, first + 4))
        assert table_of(batch) == {"id": ids, "label": [id % 7 for id in ids]}


def count(batch):
    return {"rows": batch.num_rows}


@pytest.mark.parametrize(
    ("options", "kind"), [({"format": "arrow"}, pa.RecordBatch), ({"transform": count}, dict)]
)
def test_ones_own_collate_fn_gets_the_batch_itself(table, options, kind):
    dataset = LanceTorchDataset(table, **options)
    (found,) = DataLoader(Subset(dataset, range(4)), batch_size=4, collate_fn=type)
    assert found is kind
    assert type(dataset[0:4]) is type(dataset.__getitems__([0, 1])) is kind


def as_pair(batch):
    return batch["id"], batch["label"]


def test_a_tuple_of_columns_has_their_rows(table):
    options = {"columns": ["id", "label"], "format": "torch", "transform": as_pair}
    row = LanceTorchDataset(table, unwrap=True, **options)[5]
    assert [value.item() for value in row] == [5, rows_of(6)["label"][5].as_py()]
    both = ConcatDataset([LanceTorchDataset(table, unwrap=True, **options)] * 2)
    assert next(iter(DataLoader(both, batch_size=3)))[0].tolist() == [0, 1, 2]
    dataset = LanceTorchDataset(table, **options)
    ids, labels = next(iter(DataLoader(dataset, batch_size=8)))
    assert ids.tolist() == list(range(8))
    assert labels.tolist() == rows_of(8)["label"].to_pylist()
    assert len(dataset.__getitems__(range(3))) == 3


def with_extras(batch):
    return {**batch, "vec": None, "epoch": 3, "source": "points"}


def test_what_has_no_value_for_each_row_is_handed_on_beside_columns(table):
    options = {"columns": ["id", "vec"], "format": "torch", "transform": with_extras}
    dataset = LanceTorchDataset(table, **options)
    extras = {"vec": None, "epoch": 3, "source": "points"}
    for loader in (DataLoader(dataset, 8), LanceDataLoader(dataset, batch_size=8)):
        batch = next(iter(loader))
        assert batch.pop("id").tolist() == list(range(8))
        assert batch == extras
    assert dataset[5][0] == {"id": 5, **extras}
    assert LanceTorchDataset(table, unwrap=True, **options)[5] == {"id": 5, **extras}


def test_what_a_transform_makes_of_all_rows_is_handed_on(table):
    dataset = LanceTorchDataset(table, transform=count)
    assert [batch["rows"] for batch in DataLoader(dataset, batch_size=400)] == [400, 400, 200]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.booleans())
def test_a_row_of_a_nested_tensor_is_as_torch_gives_it_and_of_the_same_memory(lengths, is_made):
    values, offsets = torch.arange(sum(lengths)), torch.tensor([0, *np.cumsum(lengths)])
    make = nested_tensor.make if is_made else lambda *parts: nested_tensor_from_jagged(*parts[:2])
    tensor = make(values, offsets, np.array(lengths))
    for index, own in enumerate(tensor.unbind()):
        row = nested_tensor.row(tensor, index)
        assert torch.equal(row, own)
        assert row.data_ptr() == own.data_ptr()
