# SPDX-License-Identifier: Apache-2.0
"""`LanceIterableTorchDataset`: whole batches, in one order, sharded over workers and ranks."""

import copy
import pickle
import warnings
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from lancedb.integrations._torch.table.handle import OwnHandle
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
)
from lancedb.permutation import Permutation, permutation_builder
from loaders import flat
from torch.utils.data import DataLoader
from whole_epochs import ORDER_IDS, ORDERS, batches, torch_ids

# -- orders ------------------------------------------------------------------------------------


def test_without_shuffle_rows_come_in_base_order(wide_range):
    assert flat(batches(torch_ids(wide_range, drop_last=False))) == list(range(20_000))


def test_true_is_the_block_shuffle_and_small_tables_are_shuffled_as_a_whole(table):
    for shuffle in (True, "block", "global"):
        rows = flat(batches(torch_ids(table, shuffle=shuffle, batch_size=10)))
        assert sorted(rows) == list(range(1000))
        assert np.abs(np.diff(rows)).mean() > 250


def test_a_shuffled_permutation_keeps_its_order_without_shuffle(table):
    order = permutation_builder(table).shuffle(seed=4).execute()
    expected = [row["id"] for row in Permutation.from_tables(table, order).fetch(slice(None))]
    assert flat(batches(torch_ids(table, permutation_table=order, batch_size=50))) == expected


# -- workers and ranks -------------------------------------------------------------------------


def test_the_rank_comes_from_the_environment_and_travels_to_workers(wide_range, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    dataset = torch_ids(wide_range)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert dataset.rank_and_world_size() == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    copied = pickle.loads(pickle.dumps(dataset))
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert copied.rank_and_world_size() == (1, 2)
    assert next(iter(copied))["id"].tolist() == list(range(64, 128))


@pytest.mark.parametrize(
    ("rank", "world_size", "said"),
    [
        (None, "2", "WORLD_SIZE='2'"),
        ("1", None, "RANK='1'"),
        ("a", "2", "RANK='a' and WORLD_SIZE='2'"),
        ("", "2", "RANK='' and WORLD_SIZE='2'"),
        ("2", "2", r"RANK must be in \[0, WORLD_SIZE\)"),
    ],
)
def test_half_an_environment_of_ranks_is_refused(table, monkeypatch, rank, world_size, said):
    for name, value in (("RANK", rank), ("WORLD_SIZE", world_size)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"the environment has .*{said}.*set both, as torchrun"):
        torch_ids(table)


def test_a_copy_asks_for_its_rank_as_the_original_does(wide_range, monkeypatch):
    dataset = torch_ids(wide_range)
    copies = [copy.copy(dataset), copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for each in (dataset, *copies):
        assert each.rank_and_world_size() == (1, 2)


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0), (1, None), (None, 2)])
def test_a_rank_that_cannot_be_is_refused(table, rank, world_size):
    with pytest.raises(ValueError, match="rank"):
        torch_ids(table, rank=rank, world_size=world_size)


def test_fewer_rows_than_ranks_are_refused_and_fewer_than_a_step_warned_of(db):
    table = db.create_table("few", [{"id": id} for id in range(3)])
    with pytest.raises(ValueError, match="3 rows cannot be divided among 4"):
        torch_ids(table, drop_last=False, rank=0, world_size=4)
    with pytest.warns(UserWarning, match="3 rows are fewer than one step of 1 x 64"):
        assert batches(torch_ids(table)) == []


def test_few_rows_without_a_batch_size_are_warned_of_where_batches_are_made(db):
    table = db.create_table("few", [{"id": id} for id in range(30)])

    def said(make):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make()
        return [(str(each.message).partition(":")[0], each.filename) for each in caught]

    dataset = LanceIterableTorchDataset(table)
    warning = [("30 rows are fewer than one step of 1 x 100", __file__)]
    assert said(lambda: LanceIterableTorchDataset(table)) == []
    assert said(lambda: [list(dataset) for _ in range(2)]) == warning
    dataset = LanceIterableTorchDataset(table)
    assert said(lambda: [list(LanceDataLoader(dataset)) for _ in range(2)]) == warning
    sources = {"few": LanceIterableTorchDataset(table)}
    mixture = partial(LanceMixedTorchDataset, sources, {"few": 1})
    assert said(lambda: list(LanceDataLoader(mixture(batch_size=2)))) == []
    assert said(mixture) == [("28 rows are fewer than one step of 1 x 100", __file__)]


def test_a_table_without_rows_makes_no_batch(db, table):
    empty = db.create_table("empty", schema=table.schema)
    for order in ORDERS:
        assert list(torch_ids(empty, **order)) == []


# -- output ------------------------------------------------------------------------------------


def test_every_format_is_a_whole_batch(table):
    def first(format, **options):
        dataset = LanceIterableTorchDataset(
            table, columns=["id", "label"], format=format, batch_size=2, **options
        )
        return next(iter(LanceDataLoader(dataset)))

    assert first(None) == [{"id": 0, "label": 0}, {"id": 1, "label": 1}]
    assert first("python_col") == {"id": [0, 1], "label": [0, 1]}
    assert first("numpy").tolist() == [[0, 0], [1, 1]]
    assert isinstance(first("numpy"), np.ndarray)
    assert first("pandas").shape == first("polars").shape == (2, 2)
    assert isinstance(first("arrow"), pa.RecordBatch)
    assert first("torch")["label"].dtype == torch.int32
    assert torch.stack(first("torch_row")).tolist() == [[0, 0], [1, 1]]
    assert first("torch_col").tolist() == [[0, 1], [0, 1]]
    assert first(None, transform=pa.RecordBatch.to_pydict) == {"id": [0, 1], "label": [0, 1]}


def test_unwrap_yields_single_rows(table):
    dataset = LanceIterableTorchDataset(table, columns=["id"], batch_size=1, unwrap=True)
    assert [row["id"] for row in dataset] == list(range(1000))
    with pytest.raises(ValueError, match="needs batch_size=1, not 100"):
        LanceIterableTorchDataset(table, unwrap=True)


def add_one(columns):
    return {**columns, "id": columns["id"] + 1}


@pytest.mark.parametrize(("order", "threads"), [(0, 1), (1, 0), (1, 3), (2, 3)])
def test_transforms_in_any_number_of_threads_keep_the_order(wide_range, order, threads):
    plain = torch_ids(wide_range, **ORDERS[order])
    changed = torch_ids(wide_range, transform=add_one, transform_threads=threads, **ORDERS[order])
    assert batches(changed) == [[id + 1 for id in batch] for batch in batches(plain)]


class BreaksAt:
    def __init__(self, id):
        self.id = id

    def __call__(self, columns):
        if self.id in columns["id"]:
            raise KeyError(f"cannot make {self.id}")
        return columns


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_before_one_that_fails_are_delivered(wide_range, threads):
    dataset = torch_ids(wide_range, transform=BreaksAt(64 * 5 + 3), transform_threads=threads)
    got = []
    with pytest.raises(KeyError, match="cannot make 323") as caught:
        got.extend(batch["id"] for batch in dataset)
    assert len(got) == 5
    if hasattr(caught.value, "__notes__"):
        assert "making step 5 of epoch 0: rows [320, 321" in caught.value.__notes__[0]
        assert "of table 'many', version" in caught.value.__notes__[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_note_counts_steps_from_where_the_epoch_begins(wide_range, workers):
    first, second = (
        LanceDataLoader(torch_ids(wide_range, transform=BreaksAt(64 * 5 + 3)), num_workers=count)
        for count in (0, workers)
    )
    batches = iter(first)
    for _ in range(3):
        next(batches)
    second.load_state_dict(first.state_dict())
    with pytest.raises(KeyError) as caught:
        list(second)
    notes = getattr(caught.value, "__notes__", ["making step 5 of epoch 0: rows [320"])
    assert any("making step 5 of epoch 0: rows [320" in note for note in notes)


def test_a_null_is_reported_with_the_batch_that_has_it(db):
    rows = [{"x": None if number == 300 else float(number)} for number in range(1000)]
    table = db.create_table("holes", rows)
    dataset = LanceIterableTorchDataset(table, format="torch", batch_size=64)
    got = []
    with pytest.raises(ValueError, match="column 'x' has 1 null"):
        got.extend(dataset)
    assert len(got) == 4


def test_batches_may_be_changed_in_place(wide_range):
    for order in ORDERS:
        dataset = torch_ids(wide_range, columns=["id", "vec"], **order)
        for batch in dataset:
            batch["id"].fill_(-1)
            batch["vec"].fill_(-1)
        dataset.set_epoch(0)
        again = [batch["vec"][:, 0].long().equal(batch["id"]) for batch in dataset]
        assert all(again)


@pytest.mark.parametrize("order", ORDERS, ids=ORDER_IDS)
def test_strings_lists_and_nulls_stay_with_their_rows(table, order):
    layout = {"block_rows": 4, "window_rows": 64, "lanes": 4} if "lanes" in order else {}
    dataset = LanceIterableTorchDataset(
        table, batch_size=32, shuffle=order["shuffle"], drop_last=False, **layout
    )
    rows = {row["id"]: row for batch in dataset for row in batch}
    assert len(rows) == 1000
    for id, row in rows.items():
        assert (row["text"], row["label"], row["vec"][0]) == (f"row {id}", id % 7, id)
        assert row["tokens"] == list(range(id % 5))


# -- what is read ------------------------------------------------------------------------------


@pytest.fixture
def rows_asked(monkeypatch):
    """Counts the rows asked of lancedb, and those of each read."""
    asked = []
    request = OwnHandle.request

    async def counted(self, offsets):
        asked.append(len(offsets))
        return await request(self, offsets)

    monkeypatch.setattr(OwnHandle, "request", counted)
    return asked


@pytest.mark.parametrize("order", ORDERS, ids=ORDER_IDS)
def test_every_row_is_read_once(wide_range, order, rows_asked):
    dataset = torch_ids(wide_range, drop_last=False, **order)
    rows_asked.clear()
    batches(dataset)
    assert sum(rows_asked) <= 1.1 * 20_000


def test_blocks_of_a_random_split_are_neighbours_in_the_table(table):
    splits = permutation_builder(table).split_random(ratios=[0.5, 0.5], seed=0).execute()
    blocks = {"shuffle": True, "block_rows": 4, "window_rows": 32, "lanes": 2}
    split = torch_ids(table, permutation_table=splits, drop_last=False, **blocks)
    ids = sorted(flat(batches(split)))
    stored = torch_ids(table, filter=f"id IN {tuple(ids)}", drop_last=False, **blocks)
    split.set_epoch(0)
    assert batches(split) == batches(stored)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_read_no_row_twice(wide_range, world_size, rows_asked):
    options = {"batch_size": 64 // world_size, "world_size": world_size}
    ranks = [
        torch_ids(wide_range, rank=rank, shuffle=True, block_rows=8, **options)
        for rank in range(world_size)
    ]
    rows_asked.clear()
    for rank in ranks:
        batches(rank)
    assert sum(rows_asked) <= 1.1 * 20_000


def test_a_filter_that_chooses_few_rows_reads_few(wide_range, rows_asked):
    dataset = torch_ids(wide_range, filter="id >= 19000", shuffle=True, batch_size=10)
    rows_asked.clear()
    batches(dataset)
    assert sum(rows_asked) == 1000


def test_breaking_off_reads_no_more_than_what_was_ahead(wide_range, rows_asked):
    dataset = torch_ids(wide_range, shuffle="global", batch_size=10, cache=False)
    rows_asked.clear()
    next(iter(dataset))
    assert sum(rows_asked) < 2000


def test_the_reader_is_asked_for_many_rows_at_a_time(db, rows_asked):
    table = db.create_table("long", pa.table({"id": np.arange(200_000)}))
    dataset = torch_ids(table, shuffle=True, block_rows=16, window_rows=4096, lanes=8)
    rows_asked.clear()
    batches(dataset)
    assert len(rows_asked) < 50


# -- describing --------------------------------------------------------------------------------


def test_it_says_what_it_is(table):
    said = repr(torch_ids(table, shuffle=True, seed=7))
    for part in ("LanceIterableTorchDataset", "'points'", "batch_size=64", "'block'", "seed=7"):
        assert part in said


def test_stats_add_up(wide_range):
    dataset = torch_ids(wide_range, shuffle=True)
    batches(dataset)
    stats = dataset.stats()
    assert (stats["rows"], stats["bytes"]) == (19_968, 8 * 19_968)
    assert stats["reading"] > 0
    assert stats["waiting"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"shuffle": "random"},
            "shuffle must be one of .*, 'global', not 'random'",
        ),
        ({"block_rows": 0}, "block_rows must be 'auto' or a whole number from 1 on"),
        ({"window_rows": "big"}, "window_rows must be 'auto'"),
        ({"lanes": 1.5}, "lanes must be 'auto'"),
        ({"readahead": 0}, "readahead must be a whole number from 1 on"),
        ({"transform_threads": -1}, "transform_threads must be a whole number from 0 on"),
        (
            {"transform_threads": None},
            "transform_threads must be a whole .*, not None",
        ),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_are_refused_by_name(table, arguments, message):
    with pytest.raises(ValueError, match=message):
        torch_ids(table, **{"shuffle": True, **arguments})


@pytest.mark.parametrize("epoch", [-1, 1.0, True, "1"])
def test_an_epoch_is_a_whole_number(table, epoch):
    with pytest.raises(ValueError, match="epoch must be a whole number from 0 on"):
        torch_ids(table).set_epoch(epoch)


def test_a_seed_is_a_whole_number(table):
    with pytest.raises(TypeError, match=r"seed must be a whole number, not 0\.5"):
        torch_ids(table, seed=0.5)


def test_an_iterator_that_is_asked_for_nothing_uses_up_no_epoch(table):
    epochs = [flat(batches(each)) for each in [torch_ids(table, shuffle=True)] for _ in range(2)]
    dataset = torch_ids(table, shuffle=True)
    iter(dataset)
    one, other = iter(dataset), iter(dataset)
    assert [flat(batches(one)), flat(batches(other))] == epochs


def test_a_copy_in_mid_epoch_begins_where_the_next_iter_would(table):
    dataset = torch_ids(table, shuffle=True)
    next(iter(dataset))
    copied = pickle.loads(pickle.dumps(dataset))
    assert batches(copied) == batches(dataset)


def test_a_plain_loader_over_the_dataset_of_another_loader_counts_for_itself(table):
    dataset = torch_ids(table, shuffle=True)
    loader = LanceDataLoader(dataset)
    epochs = [batches(loader) for _ in range(2)]
    for workers in (0, 1):
        dataset.set_epoch(0)
        context = "forkserver" if workers else None
        plain = DataLoader(dataset, None, num_workers=workers, multiprocessing_context=context)
        assert [batches(plain), batches(plain)] == epochs


def test_where_a_loader_iterates_the_dataset_does_not_guess_where_it_stands(table):
    dataset = torch_ids(table)
    loader = LanceDataLoader(dataset)
    next(iter(loader))
    with pytest.raises(RuntimeError, match="take the state_dict.. of that loader"):
        dataset.state_dict()
    dataset.load_state_dict(loader.state_dict())
    assert dataset.state_dict() == loader.state_dict()
