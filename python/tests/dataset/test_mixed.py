# SPDX-License-Identifier: Apache-2.0
"""Mixtures of tables: their rows, shares and figures."""

import pickle
import threading
from collections import Counter

import lancedb
import numpy as np
import pytest
import torch
from conftest import rows_of
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
)
from mixed_tables import FIRST, SIZES, WEIGHTS, epochs_of, mixed, source_of, tables_in

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer than one step:UserWarning")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return tables_in(tmp_path_factory.mktemp("mixed"))


@pytest.mark.parametrize("cache", [False, True])
def test_rows_are_those_of_their_tables(tables, small_windows, cache):
    dataset = mixed(tables, source_column="source", cache=cache, format="arrow")
    names = list(SIZES)
    for batch in LanceDataLoader(dataset):
        assert batch.num_rows == 48
        for row in batch.to_pylist():
            name, i = names[row["source"]], row["id"]
            assert source_of(i) == name
            assert row["text"] == f"row {i}"
            assert row["tokens"] == list(range(i % 5))
            assert row["vec"] == [i, i + 0.125, i + 0.25, i + 0.375]
    assert dataset.schema.names[-1] == "source"


@pytest.mark.parametrize("cache", [True, "auto"])
def test_batches_are_the_same_in_memory_and_from_windows(tables, small_windows, cache):
    assert epochs_of(tables, cache=cache) == epochs_of(tables, cache=False)


def test_sources_are_within_two_rows_a_shard_of_their_shares(tables, small_windows):
    given = Counter()
    total = sum(WEIGHTS.values())
    for number, batch in enumerate(epochs_of(tables, 1)[0], 1):
        given.update(map(source_of, batch))
        for name, weight in WEIGHTS.items():
            assert abs(given[name] - 48 * number * weight / total) <= 2 * 8


def test_sources_are_gone_through_before_rows_repeat(tables, small_windows):
    came = Counter(id for epoch in epochs_of(tables, 12) for batch in epoch for id in batch)
    for name, size in SIZES.items():
        times = [came[FIRST[name] + row] for row in range(size)]
        assert sum(times) > size
        # Parts of a source differ by a few rows in how far they have come.
        assert max(times) - min(times) <= 2
        middle = sorted(times)[len(times) // 2]
        assert sum(abs(n - middle) > 1 for n in times) == 0


def test_an_epoch_ends_before_a_source_repeats(tables):
    loader = LanceDataLoader(mixed(tables, stop="first_exhausted", batch_size=8))
    counts = Counter(id for batch in loader for id in batch["id"].tolist())
    assert 280 <= sum(counts.values()) <= 326  # 31 books are a tenth
    # Shards may draw a row or two more of their part than others.
    assert sum(times > 1 for times in counts.values()) <= 2 * 8


def test_an_epoch_that_waits_for_all_delivers_every_row(tables):
    loader = LanceDataLoader(
        mixed(
            tables,
            stop="all_exhausted",
            batch_size=8,
            drop_last=False,
            weights={"web": 1, "code": 1},
        )
    )
    names = Counter(source_of(id) for batch in loader for id in batch["id"].tolist())
    assert 3000 <= names["web"] + names["code"] <= 3010
    assert abs(names["web"] - names["code"]) <= 16


def test_figures_show_how_far_each_source_has_come(tables):
    loader = LanceDataLoader(mixed(tables))
    for _ in loader:
        pass
    shown = loader.stats()["sources"]
    assert sum(source["rows"] for source in shown.values()) == 480
    assert shown["books"] == {"rows": shown["books"]["rows"], "epoch": shown["books"]["rows"] / 31}
    assert loader.postfix()["web"] == f"{shown['web']['epoch']:.2f}"
    assert loader.dataset.stats()["sources"].keys() == SIZES.keys()


def test_its_repr_reads_as_a_recipe(tables):
    shown = repr(mixed(tables, source_column="source"))
    assert "'web': table 'web', version 1" in shown
    assert "weights={'web': 0.6, 'code': 0.3, 'books': 0.1}" in shown
    assert "stop=480, source_column='source'" in shown


def test_its_pickle_is_small(tables):
    dataset = mixed(tables)
    next(iter(dataset))
    assert len(pickle.dumps(dataset)) < 4096 * len(tables)
    assert next(iter(pickle.loads(pickle.dumps(dataset))))["id"].shape == (48,)


def test_errors_name_the_rows_and_their_tables(tables):
    def fail(batch):
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError) as caught:
        next(iter(mixed(tables, transform=fail)))
    notes = "".join(getattr(caught.value, "__notes__", ["of 'web'"]))
    assert "of 'web'" in notes


class Odd:
    """Fails on odd ids."""

    def __call__(self, batch):
        if (batch["id"] % 2).any():
            raise ValueError("odd")
        return batch


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_that_are_left_out_are_named_with_their_source(tables, workers):
    dataset = mixed(tables, transform=Odd(), on_error="skip", stop=96)
    loader = LanceDataLoader(dataset, num_workers=workers)
    even = {id for batch in loader for id in batch["id"].tolist()}
    assert all(id % 2 == 0 for id in even)
    skipped = loader.skipped_rows()
    assert len(skipped) + len(even) == 96
    assert all((FIRST[name] + offset) % 2 for name, offset in skipped)
    assert {name for name, _ in skipped} == set(SIZES)


def test_rows_come_one_by_one(tables):
    row = next(iter(mixed(tables, batch_size=1, unwrap=True)))
    assert row["id"].shape == ()


def test_twenty_tables_take_no_more_threads_than_one(tmp_path):
    db = lancedb.connect(tmp_path)
    made = {f"t{n}": db.create_table(f"t{n}", rows_of(200, 10_000 * n)) for n in range(20)}

    def threads(names):
        before = set(threading.enumerate())
        dataset = LanceMixedTorchDataset(
            {name: LanceIterableTorchDataset(made[name], shuffle=True) for name in names},
            dict.fromkeys(names, 1),
            cache=False,
            format="torch",
        )
        batches = iter(dataset)
        next(batches)
        count = len(set(threading.enumerate()) - before)
        batches.close()
        return count

    threads(["t0"])
    assert threads(list(made)) <= threads(["t0"])


def test_values_are_those_of_the_tables_with_nulls_in_one_of_them(db):
    clean = db.create_table("clean", rows_of(50).select(["id"]))
    rows = rows_of(50).select(["id"]).to_pylist()
    nulls = db.create_table("nulls", [{"id": None if row["id"] % 2 else row["id"]} for row in rows])
    made = {"a": LanceIterableTorchDataset(clean), "b": LanceIterableTorchDataset(nulls)}
    dataset = LanceMixedTorchDataset(
        made, {"a": 1, "b": 1}, batch_size=20, format="torch", fill_null=-1, stop=100, cache=False
    )
    values = torch.cat([batch["id"] for batch in dataset])
    assert abs(np.count_nonzero(values == -1) - 25) <= 2 * 4
