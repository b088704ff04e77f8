# SPDX-License-Identifier: Apache-2.0
"""A blob column is bytes to its user, whoever reads it, in every format and order."""

import pickle

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from lancedb.permutation import Permutation, permutation_builder
from lancedb.schema import blob
from soak import FORKED
from torch.utils.data import DataLoader

SIZES = [0, 1, 100, 70_000, 300_000, 5 << 20]
ROWS = 60


def value(number):
    """The blob of a row: None, empty, small and large in turn."""
    if number % 7 == 3:
        return None
    size = SIZES[number % 5] if number else SIZES[-1]
    return bytes([number]) * size


@pytest.fixture
def table(db):
    schema = pa.schema([pa.field("id", pa.int64()), blob("data")])
    table = db.create_table("blobs", schema=schema)
    for start in (0, ROWS // 2):
        rows = [{"id": n, "data": value(n)} for n in range(start, start + ROWS // 2)]
        table.add(rows)
    return table


def expected(numbers):
    return [value(int(number)) for number in numbers]


def delivered(batches):
    """Ids and blobs of batches in format "torch"."""
    rows = [
        pair for batch in batches for pair in zip(batch["id"].tolist(), batch["data"], strict=True)
    ]
    assert [data for _, data in rows] == expected(number for number, _ in rows)
    return [number for number, _ in rows]


def test_bytes_are_those_that_the_table_fetches(table):
    row_ids = table.search().with_row_id(True).select(["id"]).to_arrow()["_rowid"].to_pylist()
    fetched = table.fetch_blobs("data", row_ids).to_pylist()
    dataset = LanceTorchDataset(table)
    assert dataset.schema.field("data").type == pa.large_binary()
    assert [row["data"] for row in dataset[:]] == fetched == expected(range(ROWS))


FORMATS = ["python", "python_col", "numpy", "pandas", "polars", "arrow", "torch"]


def column_of(batch, format):
    if format == "python":
        return [row["data"] for row in batch]
    if format == "numpy":
        return list(batch[:, 1])
    return batch["data"].to_pylist() if format == "arrow" else list(batch["data"])


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_bytes(table, format):
    batch = LanceTorchDataset(table, format=format).__getitems__([5, 3, -1, 5])
    found = column_of(batch.columns if format == "torch" else batch, format)
    assert found == expected([5, 3, ROWS - 1, 5])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True, "global"])
def test_whole_epochs(table, shuffle, workers):
    layout = {"block_rows": 2, "window_rows": 8, "lanes": 2} if shuffle is True else {}
    dataset = LanceIterableTorchDataset(
        table, format="torch", batch_size=8, shuffle=shuffle, drop_last=False, **layout
    )
    loader = LanceDataLoader(dataset, num_workers=workers)
    assert sorted(delivered(loader)) == list(range(ROWS))


@pytest.mark.parametrize("context", FORKED)
def test_workers_of_a_plain_loader(table, context):
    dataset = LanceTorchDataset(table, format="torch")
    loader = DataLoader(dataset, batch_size=16, num_workers=1, multiprocessing_context=context)
    assert delivered(loader) == list(range(ROWS))


def test_filters_splits_renamed_columns_and_row_ids(table):
    few = LanceTorchDataset(table, filter="id % 7 < 2", columns={"x": "data", "at": "_rowid"})
    assert [row["x"] for row in few[:]] == expected(n for n in range(ROWS) if n % 7 < 2)
    splits = permutation_builder(table).split_random(ratios=[0.5, 0.5], seed=0).execute()
    half = LanceTorchDataset(table, permutation_table=splits, split=1, format="torch")
    assert len(delivered([half.__getitems__(range(len(half))).columns])) == len(half)


def test_after_deletes_and_on_an_older_version(table):
    old = LanceTorchDataset(table, cache=False)
    table.delete("id % 2 = 0")
    table.add([{"id": 1000, "data": b"new"}])
    table.optimize()
    assert [row["data"] for row in old[:]] == expected(range(ROWS))
    new = LanceTorchDataset(table)[:]
    assert {row["id"]: row["data"] for row in new} == {
        **{n: value(n) for n in range(1, ROWS, 2)},
        1000: b"new",
    }


def test_fetch_gives_bytes(table):
    rows = Permutation.identity(table).fetch([4, -1, 4, 3])
    assert [row["data"] for row in rows] == expected([4, ROWS - 1, 4, 3])
    chosen = Permutation.identity(table).select_columns(["data"]).with_format("arrow")
    assert chosen.fetch(np.arange(3))["data"].to_pylist() == expected(range(3))


def test_descriptors_are_given_to_whoever_asks_for_them(table):
    (row,) = LanceTorchDataset(table, blobs="descriptor")[4]
    assert row["data"]["size"] == len(value(4))


def test_another_way_is_refused(table):
    known = "'bytes', 'file', 'descriptor'"
    with pytest.raises(ValueError, match=f"blobs must be one of {known}, not 'text'"):
        LanceTorchDataset(table, blobs="text")


@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_blobs_of_the_older_kind_are_refused_by_name(db, version):
    older = pa.field("data", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    rows = pa.table({"data": [b"a", b"b"]}, schema=pa.schema([older]))
    options = {"new_table_data_storage_version": version}
    table = db.create_table("older", rows, storage_options=options)
    with pytest.raises(ValueError, match="column 'data' .* is a blob whose bytes"):
        LanceTorchDataset(table)
    assert LanceTorchDataset(table, blobs="descriptor")[0][0]["data"]["size"] == 1


def test_a_blob_within_a_struct_is_refused_by_name(db):
    schema = pa.schema([pa.field("s", pa.struct([pa.field("k", pa.int32()), blob("b")]))])
    table = db.create_table("nested", schema=schema)
    table.add([{"s": {"k": 1, "b": b"abc"}}])
    with pytest.raises(ValueError, match="column 's' holds a blob"):
        LanceTorchDataset(table)
    assert LanceTorchDataset(table, columns={"k": "s.k"})[0] == [{"k": 1}]


def test_a_table_in_memory_travels_with_its_blobs():
    schema = pa.schema([blob("data"), pa.field("id", pa.int64())])
    table = lancedb.connect("memory://").create_table("blobs", schema=schema)
    table.add([{"id": n, "data": value(n)} for n in range(5)])
    sent = pickle.loads(pickle.dumps(LanceTorchDataset(table)))
    assert [row["data"] for row in sent[:]] == expected(range(5))


def test_what_is_not_chosen_is_not_in_the_way(db):
    older = pa.field("data", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    rows = pa.table({"data": [b"a"], "id": [1]}, schema=pa.schema([older, ("id", pa.int64())]))
    options = {"new_table_data_storage_version": "2.0"}
    table = db.create_table("older", rows, storage_options=options)
    dataset = LanceIterableTorchDataset(table, columns=["id"], batch_size=1)
    assert dataset.state_dict()["plan"]["fingerprint"]
    assert list(LanceDataLoader(dataset)) == [[{"id": 1}]]


def test_a_quoted_name_is_the_column(table):
    assert LanceTorchDataset(table, columns={"x": "`data`"})[4] == [{"x": value(4)}]
