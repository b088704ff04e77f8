# SPDX-License-Identifier: Apache-2.0
"""A small table is read once and kept in memory; nothing else about it changes."""

import json

import numpy as np
import pyarrow as pa
import pytest
from conftest import record_reads, rows_with_nulls
from lancedb.integrations._torch.arrow.in_memory import InMemoryRows, TooLarge
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset

ORDERS = pytest.mark.parametrize("shuffle", [True, "global"])


@pytest.fixture
def rows_asked(monkeypatch):
    """How many rows each read of this process asks for."""
    return record_reads(monkeypatch, lambda reader, rows: len(rows))


def dataset_of(table, cache="auto", **options):
    options = {"format": "arrow", "batch_size": 64, "shuffle": True, **options}
    return LanceIterableTorchDataset(table, cache=cache, **options)


def run(dataset, epochs=1):
    return [batch.to_pylist() for _ in range(epochs) for batch in LanceDataLoader(dataset)]


@ORDERS
def test_rows_come_in_the_order_in_which_they_come_without(db, shuffle):
    table = db.create_table("mixed", rows_with_nulls(7000))
    kept, read = (dataset_of(table, cache, shuffle=shuffle) for cache in (True, False))
    assert run(kept, 2) == run(read, 2)


@ORDERS
@pytest.mark.parametrize(
    "chosen", [{"filter": "label < 3"}, {"columns": ["text"]}, {"columns": {"twice": "id * 2"}}]
)
def test_a_filter_and_columns_are_kept_as_they_are(table, chosen, shuffle):
    kept, read = (dataset_of(table, cache, shuffle=shuffle, **chosen) for cache in (True, False))
    assert run(kept) == run(read)


def test_a_whole_table_of_one_process_is_read_once_for_all_epochs(wide_range, rows_asked):
    dataset = dataset_of(wide_range)
    rows_asked.clear()
    run(dataset, 3)
    assert sum(rows_asked) == 20_000


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "otherwise",
    [
        {"shuffle": False},
        {"rank": 0, "world_size": 2},
        {"filter": "id % 5 = 0"},
        {"block_rows": 8},
        {"cache": False},
    ],
    ids=str,
)
def test_it_is_read_in_each_epoch_otherwise(wide_range, rows_asked, otherwise):
    dataset = dataset_of(wide_range, **otherwise)
    rows_asked.clear()
    run(dataset)
    once = sum(rows_asked)
    run(dataset)
    assert sum(rows_asked) == pytest.approx(2 * once, rel=0.05)


def test_a_table_that_is_too_large_is_not_kept(wide_range, rows_asked, monkeypatch):
    monkeypatch.setattr("lancedb.integrations._torch.cache.tables.MOST_BYTES", 1000)
    dataset = dataset_of(wide_range, shuffle="global")
    rows_asked.clear()
    next(iter(dataset))
    assert 0 < sum(rows_asked) < 20_000


@ORDERS
def test_a_table_that_turns_out_to_be_too_large_is_read_from_then_on(
    db, rows_asked, monkeypatch, shuffle
):
    # Where few rows were looked at, all were small.
    texts = ["x" * (5000 if 130 <= i < 190 else 1) for i in range(3000)]
    table = db.create_table("uneven", pa.table({"id": range(3000), "text": texts}))
    monkeypatch.setattr("lancedb.integrations._torch.cache.tables.MOST_BYTES", 100_000)
    dataset, read = (dataset_of(table, cache, shuffle=shuffle) for cache in ("auto", False))
    rows_asked.clear()
    first = run(dataset)
    assert sum(rows_asked) > 3000
    rows_asked.clear()
    assert [*first, *run(dataset)] == run(read, 2)
    assert sum(rows_asked) <= 3 * 3000


def test_rows_that_are_more_than_may_be_kept_are_not_kept():
    rows = rows_with_nulls(3000)
    cached = InMemoryRows(3000, 50, rows.nbytes // 2)
    for _ in range(2):
        with pytest.raises(TooLarge):
            cached.load(rows.to_batches(max_chunksize=100))
    assert cached.is_too_large


@ORDERS
def test_json_is_kept_as_it_is_read(db, shuffle):
    texts = pa.array([f'{{"a": {i}}}' for i in range(5000)])
    column = pa.ExtensionArray.from_storage(pa.json_(), texts)
    fields = pa.StructArray.from_arrays([column], ["j"])
    table = db.create_table("json", pa.table({"j": column, "s": fields, "id": range(5000)}))
    kept, read = (dataset_of(table, cache, shuffle=shuffle) for cache in (True, False))
    assert kept.schema.field("j").type == pa.json_()
    assert run(kept) == run(read)
    assert next(iter(kept)).schema.types == kept.schema.types


@ORDERS
def test_a_state_goes_on_with_the_cache_and_without(wide_range, shuffle):
    whole = run(dataset_of(wide_range, False, shuffle=shuffle))
    for before, after in [(True, False), (False, True), (True, True)]:
        loader = LanceDataLoader(dataset_of(wide_range, before, shuffle=shuffle))
        batches = iter(loader)
        first = [next(batches).to_pylist() for _ in range(5)]
        other = LanceDataLoader(dataset_of(wide_range, after, shuffle=shuffle))
        other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        assert first + [batch.to_pylist() for batch in other] == whole


def test_workers_keep_it_if_they_are_told_to(wide_range):
    kept, alone = (dataset_of(wide_range, cache, format="python") for cache in (True, False))
    assert list(LanceDataLoader(kept, num_workers=2)) == list(LanceDataLoader(alone))


def test_two_iterators_share_what_was_read(wide_range, rows_asked):
    dataset = dataset_of(wide_range)
    rows_asked.clear()
    first, second = iter(dataset), iter(dataset)
    together = [next(batches)["id"].to_pylist() for batches in (first, second, first, second)]
    assert sum(rows_asked) == 20_000
    assert len(set(np.ravel(together))) > 128


def test_breaking_off_while_it_is_read_leaves_it_for_the_next_epoch(wide_range):
    dataset = dataset_of(wide_range)
    whole = run(dataset_of(wide_range, False), 2)
    for _ in LanceDataLoader(dataset):
        break
    loader = LanceDataLoader(dataset)
    assert [batch.to_pylist() for batch in loader] == whole[: len(loader)]


def test_batches_that_are_changed_do_not_change_what_is_kept(wide_range):
    dataset = dataset_of(wide_range, format="torch")
    loader = LanceDataLoader(dataset)
    for batch in loader:
        batch["id"].fill_(-1)
        batch["vec"].zero_()
    ids = [row for batch in loader for row in batch["id"].tolist()]
    assert min(ids) >= 0
    assert len(set(ids)) == len(ids)


def test_a_column_too_large_for_one_array_is_kept_in_pieces(monkeypatch):
    monkeypatch.setattr("lancedb.integrations._torch.arrow.in_memory._PIECE_BYTES", 20_000)
    rows = rows_with_nulls(3000)
    cached = InMemoryRows(3000, 50)
    cached.load(rows.to_batches(max_chunksize=100))
    places = np.random.default_rng(0).integers(0, 3000, 500)
    assert cached.take(places).to_pylist() == rows.take(places).to_pylist()
    assert cached.take(places[:1]).to_pylist() == rows.take(places[:1]).to_pylist()
    assert cached.take(places[:0]).num_rows == 0


@pytest.mark.parametrize("wrong", ["yes", 2, None])
def test_what_is_no_answer_is_refused(table, wrong):
    with pytest.raises(ValueError, match="cache must be one of True, False, 'auto', not"):
        dataset_of(table, wrong)
