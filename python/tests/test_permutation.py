# SPDX-License-Identifier: Apache-2.0
"""`Permutation.fetch`: the rows at any offsets, in that order, in the permutation's format."""

import copy
import multiprocessing
import os
import pickle
import traceback

import lancedb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from lancedb import permutation as module
from lancedb.permutation import Permutation, permutation_builder
from limits import HANGS
from soak import soaked

OFFSETS = [3, 999, 3, 0, -1, 500]
IDS = [3, 999, 3, 0, 999, 500]


def ids(rows):
    return [row["id"] for row in rows]


@pytest.fixture
def shuffled(table):
    """A permutation of two splits; the second one has 200 rows."""
    return (
        permutation_builder(table)
        .split_random(ratios=[0.8, 0.2], seed=1, split_names=["train", "test"])
        .shuffle(seed=2)
        .execute()
    )


@pytest.mark.parametrize(
    "indices",
    [
        OFFSETS,
        tuple(OFFSETS),
        np.array(OFFSETS),
        np.array(OFFSETS, np.int16),
        torch.tensor(OFFSETS),
        (index for index in OFFSETS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_order_and_duplicates_are_kept_and_negatives_count_from_the_end(table, indices):
    assert ids(Permutation.identity(table).fetch(indices)) == IDS


def test_ranges_and_slices(table):
    permutation = Permutation.identity(table)
    assert ids(permutation.fetch(range(998, 3, -300))) == [998, 698, 398, 98]
    assert ids(permutation.fetch(slice(-3, None))) == [997, 998, 999]


def test_none_at_all_gives_an_empty_batch(table):
    permutation = Permutation.identity(table)
    assert permutation.fetch([]) == []
    assert permutation.with_format("arrow").fetch([]).schema.names == permutation.column_names
    assert permutation.with_format("pandas").fetch([]).shape == (0, 5)


@pytest.mark.parametrize("index", [1000, -1001, 10**12])
def test_out_of_range_names_the_index_and_the_length(table, index):
    with pytest.raises(IndexError, match=f"index {index} is out of range for 1000 rows"):
        Permutation.identity(table).fetch([0, index])


@pytest.mark.parametrize("wrong", [[1.0], [True], 7, "12", [None]])
def test_what_is_no_whole_number_is_a_type_error(table, wrong):
    with pytest.raises(TypeError, match="whole number"):
        Permutation.identity(table).fetch(wrong)


def test_splits_of_a_permutation_table(table, shuffled):
    for split, count in (("train", 800), ("test", 200)):
        permutation = Permutation.from_tables(table, shuffled, split)
        everything = ids(
            row for batch in permutation.iter(64, skip_last_batch=False) for row in batch
        )
        assert len(permutation) == count
        assert ids(permutation.fetch(slice(None))) == everything
        assert ids(permutation.fetch([5, -1, 5])) == [everything[5], everything[-1], everything[5]]


@pytest.mark.parametrize("over", ["identity", "split"])
def test_after_skip_and_take(table, shuffled, over):
    whole = (
        Permutation.identity(table)
        if over == "identity"
        else Permutation.from_tables(table, shuffled, "train")
    )
    expected = ids(whole.fetch(slice(None)))[100:150]
    part = whole.with_skip(100).with_take(50)
    assert len(part) == 50
    assert ids(part.fetch(range(50))) == expected
    assert ids(part.fetch([0, -1])) == [expected[0], expected[-1]]
    with pytest.raises(IndexError, match="index 50 is out of range for 50 rows"):
        part.fetch([50])


def test_selected_and_renamed_columns(table):
    permutation = Permutation.identity(table).select_columns(["text", "id"])
    assert permutation.fetch([7]) == [{"text": "row 7", "id": 7}]
    assert permutation.rename_column("id", "key").fetch([7]) == [{"text": "row 7", "key": 7}]


def test_every_format(table):
    permutation = Permutation.identity(table).select_columns(["id", "label"])
    at = [8, 1]
    expected = [{"id": 8, "label": 1}, {"id": 1, "label": 1}]
    assert permutation.fetch(at) == expected
    assert permutation.with_format("python_col").fetch(at) == {"id": [8, 1], "label": [1, 1]}
    assert permutation.with_format("numpy").fetch(at).tolist() == [[8, 1], [1, 1]]
    assert isinstance(permutation.with_format("arrow").fetch(at), pa.RecordBatch)
    pd.testing.assert_frame_equal(
        permutation.with_format("pandas").fetch(at),
        pd.DataFrame(expected).astype({"label": "int32"}),
    )
    assert (
        permutation.with_format("polars")
        .fetch(at)
        .equals(pl.DataFrame(expected, schema={"id": pl.Int64, "label": pl.Int32}))
    )
    assert permutation.with_format("torch").fetch(at) == expected
    assert [row.tolist() for row in permutation.with_format("torch_row").fetch(at)] == [
        [8, 1],
        [1, 1],
    ]
    matrix = permutation.select_columns(["id"]).with_format("torch_col").fetch(at)
    assert matrix.tolist() == [[8, 1]]


def test_a_transform_gets_the_record_batch(table):
    permutation = Permutation.identity(table).with_transform(lambda batch: batch["id"].to_pylist())
    assert permutation.fetch(OFFSETS) == IDS


def test_the_torch_format_takes_what_lancedbs_own_refuses(table):
    rows = Permutation.identity(table).with_format("torch").fetch([6, 9])
    assert rows[0]["vec"].tolist() == [6, 6.125, 6.25, 6.375]
    assert rows[1]["text"] == "row 9"
    assert rows[1]["tokens"].tolist() == [0, 1, 2, 3]


def test_torch_formats_give_what_they_gave_before_on_numbers(db):
    numbers = pa.table(
        {"i": [1, 2, 3], "f": [0.5, 1.5, 2.5], "g": pa.array([1, 2, 3], pa.float32())}
    )
    permutation = Permutation.identity(db.create_table("numbers", numbers))
    for row, expected in zip(permutation.with_format("torch").fetch([0, 2]), (0, 2), strict=True):
        assert row["i"].dtype == torch.int64
        assert row["g"].dtype == torch.float32
        assert (row["i"].item(), row["f"].item()) == (expected + 1, expected + 0.5)
    rows = permutation.with_format("torch_row").fetch([0, 2])
    assert [row.tolist() for row in rows] == [[1, 0.5, 1], [3, 2.5, 3]]
    floats = permutation.select_columns(["f"]).with_format("torch_col").fetch([0, 2])
    assert floats.tolist() == [[0.5, 2.5]]


def test_after_pickling(table, shuffled):
    permutation = Permutation.from_tables(table, shuffled, "test").with_format("arrow")
    copied = pickle.loads(pickle.dumps(permutation))
    assert copied.fetch([4, 0]).equals(permutation.fetch([4, 0]))


def fetch_into(permutation, at, queue):
    queue.put(ids(permutation.fetch(at)))


@pytest.mark.parametrize("method", [soaked("fork"), "spawn"])
def test_in_a_child_process(table, method):
    context = multiprocessing.get_context(method)
    permutation, queue = Permutation.identity(table), context.Queue()
    permutation.fetch([0])
    child = context.Process(target=fetch_into, args=(permutation, OFFSETS, queue))
    child.start()
    assert queue.get(timeout=HANGS) == IDS
    child.join(60)
    assert child.exitcode == 0


def test_copies_share_the_reader_and_build_nothing(table, shuffled):
    permutation = Permutation.from_tables(table, shuffled, "train")
    other = copy.copy(permutation)
    assert other is not permutation
    assert other.reader is permutation.reader
    assert permutation.select_columns(["id"]).column_names == ["id"]
    assert len(permutation.column_names) == 5


def test_deleted_rows_are_not_made_up(table):
    permutation = Permutation.identity(table)
    table.delete("id >= 990")
    with pytest.raises((RuntimeError, IndexError)):
        permutation.fetch([999])


def test_one_class_stands_under_lancedbs_name(table):
    assert Permutation.__module__ == "lancedb.permutation"
    assert module.Permutation is Permutation
    assert os.path.basename(module.__file__) == "permutation.py"


def test_rows_are_read_once_however_often_they_are_asked_for(table):
    many = np.tile(np.arange(1000), 20)
    assert ids(Permutation.identity(table).fetch(many)) == many.tolist()


def test_a_split_for_which_memory_is_too_little_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("LANCEDB_PERM_BUILDER_MEMORY_LIMIT", "1000")
    table = lancedb.connect(tmp_path).create_table("many", pa.table({"id": range(20_000)}))
    splits = permutation_builder(table).split_random(ratios=[0.5, 0.5], seed=0)
    with pytest.raises(RuntimeError, match="Not enough memory") as raised:
        splits.execute()
    said = "".join(traceback.format_exception(raised.value))
    assert "LANCEDB_PERM_BUILDER_MEMORY_LIMIT" in said
    assert "split_hash(columns, weights, discard_weight=0)" in said
    by_hash = permutation_builder(table).split_hash(["id"], [1, 1], discard_weight=0)
    assert by_hash.execute().count_rows() == 20_000
