# SPDX-License-Identifier: Apache-2.0
"""Columns of a map-style dataset are kept in memory; nothing else about its rows changes."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import record_reads, rows_of, rows_with_nulls
from hypothesis import given
from hypothesis import strategies as st
from lancedb.integrations._torch.cache.columns import narrowest
from lancedb.integrations.torch import LanceTorchDataset
from lancedb.permutation import permutation_builder
from soak import FORKED
from torch.utils.data import DataLoader

ROWS = 20_000
ASKED = [19_999, 7, 7, -1, 0, 512, 8]


@pytest.fixture
def columns_read(monkeypatch):
    """The columns of each read of this process."""
    return record_reads(monkeypatch, lambda reader, rows: list(reader.columns))


@pytest.fixture
def room_for_numbers(monkeypatch):
    """So little memory that text and vectors of 20,000 rows are too much."""
    monkeypatch.setattr("lancedb.integrations._torch.cache.tables.MOST_BYTES", 15 * ROWS)
    monkeypatch.setattr("lancedb.integrations._torch.cache.tables.FEWER_BYTES", 15 * ROWS)


def dataset_of(table, cache="auto", **options):
    return LanceTorchDataset(table, cache=cache, **{"format": "arrow", **options})


def warm(dataset):
    """The dataset, once it has read enough to keep columns."""
    dataset.__getitems__(range(-(-len(dataset) // 16)))
    dataset[0]
    return dataset


def splits_of(table):
    return permutation_builder(table).split_random(ratios=[0.8, 0.1], seed=1).execute()


def test_columns_that_turn_out_to_be_too_large_are_not_kept(db, monkeypatch, columns_read):
    texts = ["x" * (1 if i < 500 else 500) for i in range(5000)]
    table = db.create_table("sorted", pa.table({"text": texts}))
    monkeypatch.setattr("lancedb.integrations._torch.cache.tables.MOST_BYTES", 100_000)
    dataset = warm(dataset_of(table))
    columns_read.clear()
    assert dataset[ASKED[1:]]["text"].to_pylist() == [texts[i] for i in ASKED[1:]]
    assert columns_read == [["text"]]


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("chosen", "cache"),
    [
        ({}, "auto"),
        ({}, True),
        ({"filter": "id % 3 > 0"}, "auto"),
        ({"filter": "id % 100 = 7"}, True),
        ({"filter": "id >= 5000 AND id < 5300"}, "auto"),
        ({"columns": ["vec", "id"]}, "auto"),
        ({"columns": {"twice": "id * 2", "text": "text"}}, "auto"),
        ({"format": "python"}, True),
        ({"format": "torch", "fill_null": 0, "columns": ["half", "vec", "text"]}, "auto"),
    ],
    ids=str,
)
def test_rows_are_those_that_are_read_without(db, room_for_numbers, chosen, cache):
    table = db.create_table("mixed", rows_with_nulls(ROWS))
    kept, read = (warm(dataset_of(table, each, **chosen)) for each in (cache, False))
    indices = [index % len(kept) for index in ASKED]
    for _ in range(2):
        ours, theirs = (list(DataLoader(each, sampler=indices)) for each in (kept, read))
        assert str(ours) == str(theirs)
        assert str(kept[indices]) == str(read[indices])


@pytest.mark.parametrize("split", [0, 1])
def test_a_split_keeps_its_order(wide_range, room_for_numbers, split):
    chosen = {"permutation_table": splits_of(wide_range), "split": split}
    kept, read = (warm(dataset_of(wide_range, each, **chosen)) for each in ("auto", False))
    assert kept[ASKED[1:]] == read[ASKED[1:]]


def test_the_narrow_columns_are_kept_and_the_others_read(
    wide_range, room_for_numbers, columns_read
):
    dataset = dataset_of(wide_range, columns=["vec", "label", "id"])
    before = dataset[ASKED]
    warm(dataset)
    columns_read.clear()
    assert dataset[ASKED] == before
    assert columns_read == [["vec"]]


def test_a_table_that_fits_is_read_once(wide_range, columns_read):
    dataset = warm(dataset_of(wide_range))
    before = dataset[ASKED]
    columns_read.clear()
    assert dataset[ASKED] == before
    assert columns_read == []


def test_all_columns_are_kept_from_the_first_read_on_if_so_told(
    wide_range, room_for_numbers, columns_read
):
    dataset = dataset_of(wide_range, True)
    before = dataset[ASKED]
    columns_read.clear()
    assert dataset[ASKED] == before
    assert columns_read == []


@pytest.mark.parametrize(
    "otherwise", [{"cache": False}, {"filter": "id % 5 = 0"}, {"columns": ["vec"]}], ids=str
)
def test_nothing_is_kept_otherwise(wide_range, room_for_numbers, columns_read, otherwise):
    dataset = warm(dataset_of(wide_range, **otherwise))
    columns_read.clear()
    dataset[[1, 2]]
    dataset[[1, 2]]
    assert columns_read == [dataset.column_names] * 2


def test_tables_of_tiny_fragments_are_kept_too(db, columns_read):
    table = db.create_table("tiny", rows_of(100))
    for start in range(100, 500, 100):
        table.add(rows_of(100, start))
    dataset = warm(dataset_of(table))
    columns_read.clear()
    assert dataset[[499, 1]]["id"].to_pylist() == [499, 1]
    assert columns_read == []


def test_what_is_kept_is_of_the_pinned_version(wide_range):
    kept, read = (warm(dataset_of(wide_range, each)) for each in ("auto", False))
    wide_range.delete("id < 100")
    wide_range.update(values={"label": -5})
    assert kept[ASKED] == read[ASKED]


def test_a_copy_in_another_process_begins_with_nothing(wide_range):
    dataset = dataset_of(wide_range)
    before = len(pickle.dumps(dataset))
    assert len(pickle.dumps(warm(dataset))) == before
    assert pickle.loads(pickle.dumps(dataset))[ASKED] == dataset[ASKED]


@pytest.mark.few(1)
@pytest.mark.parametrize("method", FORKED)
@pytest.mark.parametrize("cache", ["auto", True])
def test_workers_hand_out_the_same_rows(wide_range, room_for_numbers, method, cache):
    kept, read = (dataset_of(wide_range, each, format="torch") for each in (cache, False))
    workers = {"num_workers": 2, "multiprocessing_context": method}
    for ours, theirs in zip(
        DataLoader(warm(kept), 1000, **workers), DataLoader(read, 1000), strict=True
    ):
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_batches_that_are_changed_do_not_change_what_is_kept(wide_range):
    dataset = warm(dataset_of(wide_range, format="torch"))
    for _ in range(2):
        columns = dataset[ASKED].columns
        assert columns["id"].tolist() == [index % ROWS for index in ASKED]
        columns["id"].fill_(-1)


def test_a_table_that_is_gone_is_said_by_the_read_that_was_asked_for(db):
    dataset = dataset_of(db.create_table("gone", rows_of(16)))
    dataset[0]
    shutil.rmtree(Path(db.uri) / "gone.lance")
    with pytest.raises(RuntimeError, match="reading 3 rows .* its files are gone"):
        dataset[[0, 9, 15]]


def test_loading_that_fails_is_tried_again_by_the_next_read(db):
    table = db.create_table("gone", rows_of(ROWS))
    dataset, files = dataset_of(table, True), Path(db.uri) / "gone.lance"
    files.rename(files.with_suffix(".away"))
    with pytest.raises(ValueError, match="no table 'gone'"):
        dataset[ASKED]
    files.with_suffix(".away").rename(files)
    assert dataset[ASKED] == dataset_of(table, False)[ASKED]


@given(st.dictionaries(st.text(), st.floats(0, 100)), st.floats(0, 300))
def test_the_narrowest_columns_that_fit_are_chosen(widths, room):
    chosen = narrowest(widths, room)
    left = [widths[name] for name in widths if name not in chosen]
    assert sum(widths[name] for name in chosen) <= room * (1 + 1e-9) + 1e-9
    assert all(widths[name] <= width for name in chosen for width in left)
    assert not left or sum(widths[name] for name in chosen) + min(left) >= room * (1 - 1e-9) - 1e-9


@pytest.mark.parametrize("wrong", ["yes", 2, None])
def test_what_is_no_answer_is_refused(table, wrong):
    with pytest.raises(ValueError, match="cache must be one of True, False, 'auto', not"):
        dataset_of(table, wrong)
