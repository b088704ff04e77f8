# SPDX-License-Identifier: Apache-2.0
"""What `TokenBudget` is given: lengths of rows, bounds, and what it refuses."""

import pickle
import threading
import warnings

import pyarrow as pa
import pytest
from conftest import record_reads
from documents import BUDGET, PACKING, dataset, documents
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset, TokenBudget
from limits import HANGS
from torch.utils.data import DataLoader


@pytest.fixture
def table(db):
    return db.create_table("docs", documents(300))


def budgeted(table, tokens=96, lengths="tokens", max_rows=None, **options):
    budget = TokenBudget(tokens, lengths=lengths, max_rows=max_rows)
    return LanceIterableTorchDataset(
        table, **{"format": "torch", "ragged": "pad", "batching": budget, **options}
    )


@pytest.mark.parametrize("lengths", ["tokens", "n", "n * 1", "array_length(tokens)"])
def test_lengths_are_counted_or_a_column_or_an_expression(table, lengths):
    batches = [batch["id"].tolist() for batch in budgeted(table, lengths=lengths)]
    assert batches == [batch["id"].tolist() for batch in budgeted(table)]


def test_the_only_column_of_lists_is_counted_by_itself(table):
    dataset = budgeted(table, lengths=None, columns={"id": "id", "words": "tokens"})
    assert max(batch["words"].numel() for batch in dataset) <= 96


def test_a_batch_has_no_more_rows_than_it_may(table):
    assert max(len(batch["id"]) for batch in budgeted(table, max_rows=5)) == 5


def test_lengths_are_read_once_and_sent_to_no_other_process_but_a_worker(table, monkeypatch):
    dataset = budgeted(table, lengths="n", columns=["id"], ragged="jagged")
    read = record_reads(monkeypatch, lambda reader, rows: list(reader.columns))
    list(dataset)
    list(dataset)
    assert read.count(["length"]) == 3  # two of them a sample, to know how many to ask for at once
    assert len(pickle.dumps(dataset)) < 6000


def test_rows_that_a_filter_leaves_out_may_have_no_length(db):
    rows = pa.table({"n": [1, None, 3] * 20, "x": range(60)})
    table = db.create_table("some", rows)
    kept = budgeted(table, 12, "n", filter="n IS NOT NULL", ragged="jagged")
    assert sum(len(batch["x"]) for batch in kept) == 40
    with pytest.raises(ValueError, match=r"row 1 of table .* has no length, as 'n' is null there"):
        next(iter(budgeted(table, 12, "n", columns=["x"], ragged="jagged")))
    filled = budgeted(table, 12, "n", fill_null={"n": 2}, ragged="jagged")
    assert sum(len(batch["x"]) for batch in filled) == 60


def test_each_rank_of_a_table_of_fewer_rows_than_shards_has_its_batches(db):
    table = db.create_table("few", documents(5))
    options = {"drop_last": False, "shuffle": True, "world_size": 2}
    both = [list(budgeted(table, rank=rank, **options)) for rank in range(2)]
    assert len(both[0]) == len(both[1])
    assert sorted(i for each in both for batch in each for i in batch["id"].tolist()) == [*range(5)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lengths": None}, ValueError, r"there are \['tokens', 'labels'\]: say which"),
        ({"lengths": "m"}, ValueError, "lengths='m' cannot be evaluated"),
        ({"lengths": 7}, TypeError, r"TokenBudget\(lengths=...\) must be a column's name"),
        ({"tokens": 0}, ValueError, r"TokenBudget\(tokens=...\) must be a whole number from 1 on"),
        ({"tokens": 9.5}, ValueError, r"TokenBudget\(tokens=...\) must be a whole number"),
        ({"max_rows": True}, ValueError, r"TokenBudget\(max_rows=...\) must be a whole number"),
        ({"batch_size": 10}, ValueError, r"batch_size=10 and batching=TokenBudget\(...\)"),
        ({"unwrap": True}, ValueError, "unwrap=True"),
        ({"batching": 4096}, TypeError, r"batching must be TokenBudget\(...\) or Packing"),
        (
            {"shuffle": True, "lanes": 12, "block_rows": 2, "window_rows": 8},
            ValueError,
            "lanes=12 must be a multiple of 8",
        ),
        (
            {"lengths": "n", "pad_to": {"tokens": 8, "labels": 4}},
            ValueError,
            "pad_to says something for 'tokens', 'labels'",
        ),
    ],
)
def test_what_cannot_be_is_refused_where_the_dataset_is_made(table, options, error, message):
    with pytest.raises(error, match=message):
        budgeted(table, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 30}, r"row \d+ of .* has \d+ tokens, more than TokenBudget\(tokens=30\)"),
        ({"tokens": 41, "pad_to": 32}, r"tokens, padded to 64, more than"),
        ({"lengths": "n - 2"}, "is empty by lengths='n - 2'"),
        ({"lengths": "n - 99"}, r"has length -\d+ by lengths"),
        ({"pad_to": [8, 16]}, r"has a list of \d+ values, and pad_to=\[8, 16\] ends at 16"),
    ],
)
def test_documents_that_fit_no_batch_are_an_error_before_the_first_one(table, options, message):
    with pytest.raises(ValueError, match=message):
        next(iter(budgeted(table, **options)))


@pytest.mark.parametrize("format", ["torch", "numpy", "python"])
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], r"row 3 of table .* is empty by lengths='tokens'.*leave such rows out with filter="),
        (None, r"row 3 of table .* is null there: pass filter='tokens IS NOT NULL'"),
        ([0] * 9, r"row 3 of table .* has 9 tokens, more than TokenBudget\(tokens=8\)"),
    ],
)
def test_documents_that_are_none_are_an_error_in_any_format(db, format, tokens, message):
    rows = pa.array([[1, 2], [3], [4], tokens, [5, 6]], pa.list_(pa.int64()))
    table = db.create_table("some", pa.table({"tokens": rows}))
    with pytest.raises(ValueError, match=message):
        list(budgeted(table, 8, lengths=None, format=format, ragged="jagged"))


@pytest.mark.parametrize("shuffle", [True, "global"])
def test_rows_drawn_by_weights_are_batched_as_often_as_they_are_drawn(table, shuffle):
    weights = {"sample_weights": "id % 2 * 3", "epoch_rows": 450, "cache": False}
    drawn = budgeted(table, drop_last=False, shuffle=shuffle, **weights)
    ids = [i for batch in drawn for i in batch["id"].tolist()]
    assert sorted(ids) == sorted([*range(1, 300, 2)] * 3)


def test_rows_that_a_transform_fails_on_may_be_left_out(table):
    def odd(batch):
        if (batch["id"] % 2 == 0).any():
            raise ValueError("even")
        return batch

    dataset = budgeted(table, transform=odd, on_error="skip", drop_last=False)
    assert sorted(i for batch in dataset for i in batch["id"].tolist()) == list(range(1, 300, 2))


def with_context(batch, context):
    return {**batch, "drawn": context.random()}


def test_a_transform_with_a_context_has_numbers_of_each_row_whatever_batch_it_is_in(table):
    def drawn(budget, **options):
        dataset = LanceIterableTorchDataset(
            table,
            columns=["id"],
            format="torch",
            shuffle=True,
            transform=with_context,
            batching=TokenBudget(budget, lengths="1 + id % 3"),
            **options,
        )
        return {
            id: value
            for batch in dataset
            for id, value in zip(batch["id"].tolist(), batch["drawn"].tolist(), strict=True)
        }

    small, large = drawn(40), drawn(90)
    common = small.keys() & large.keys()
    assert len(common) > 100
    assert all(small[id] == large[id] for id in common)


@pytest.mark.parametrize("shuffle", [True, "global"])
def test_rows_that_are_drawn_several_times_have_numbers_of_their_own_each_time(table, shuffle):
    def drawn(budget, **options):
        dataset = LanceIterableTorchDataset(
            table,
            **{"columns": ["id"], "format": "torch", "shuffle": shuffle, "drop_last": False},
            transform=with_context,
            batching=TokenBudget(budget, lengths="1 + id % 3"),
            sample_weights="id % 2",
            **options,
        )
        return [
            pair
            for batch in dataset
            for pair in zip(batch["id"].tolist(), batch["drawn"].tolist(), strict=True)
        ]

    pairs = drawn(40)
    assert len(set(pairs)) == len({value for _, value in pairs}) == 300
    assert sorted(drawn(90)) == sorted(pairs)
    ranks = [drawn(40, rank=rank, world_size=2) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == sorted(pairs)


@pytest.mark.parametrize("batching", [PACKING, BUDGET], ids=["packing", "budget"])
@pytest.mark.parametrize("load", [LanceDataLoader, iter], ids=["loader", "alone"])
def test_documents_that_fill_no_step_are_warned_of(db, batching, load):
    table = db.create_table("few", documents(6))
    said = r"\d documents fill fewer batches than one step of 4 has: drop_last=True leaves all of"
    with pytest.warns(UserWarning, match=said):
        assert list(load(dataset(table, batching, "none", rank=0, world_size=4))) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = LanceDataLoader(dataset(table, batching, "none", drop_last=False))
        assert [len(list(loader)) > 0 for _ in range(2)] == [True, True]


def test_a_process_that_is_forked_while_another_thread_plans_plans_for_itself(table):
    dataset = budgeted(table)
    expected = next(iter(dataset))["id"].tolist()
    dataset.set_epoch(0)
    planned = dataset._planned
    sequence, lengths = planned.sequence(0, dataset._cursor.layout), planned._lengths[""]
    locks = [sequence._lock, planned._here.known.lock, lengths._locks.known]
    is_held, is_done = threading.Event(), threading.Event()

    def hold():
        with locks[0], locks[1], locks[2]:
            is_held.set()
            is_done.wait(HANGS)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(HANGS)
    options = {"multiprocessing_context": "fork", "timeout": HANGS}
    batches = iter(DataLoader(dataset, batch_size=None, num_workers=1, **options))
    try:
        assert next(batches)["id"].tolist() == expected
    finally:
        is_done.set()
        thread.join()
