# SPDX-License-Identifier: Apache-2.0
"""Lengths of documents are read once a machine where there is a cache on disk."""

import threading
import time
import warnings

import numpy as np
import pytest
from conftest import record_reads
from damage import cut, emptied, flipped
from documents import documents
from lancedb.integrations._torch.cache import disk, numbers
from lancedb.integrations._torch.cache.directory import cache_settings
from lancedb.integrations._torch.common.process import PROCESS
from lancedb.integrations.torch import LanceIterableTorchDataset, TokenBudget, cache_info


@pytest.fixture
def table(db):
    return db.create_table("docs", documents(200))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    PROCESS.replace(disk.Said())
    return tmp_path / "cache"


def batches(table, cache, **options):
    dataset = LanceIterableTorchDataset(
        table,
        **{"columns": ["id"], "shuffle": True, "format": "torch", **options},
        batching=TokenBudget(96, lengths="tokens"),
        cache_dir=cache,
    )
    return [batch["id"].tolist() for batch in dataset]


def parts(cache):
    """The parts that have lengths: those of columns named otherwise have rows."""
    keys = [entry.parent for entry in cache.glob("*/about.json") if '"made"' in entry.read_text()]
    return [part for key in keys for part in key.glob("*.arrow")]


def test_who_comes_second_reads_no_lengths(table, cache, monkeypatch):
    read = record_reads(monkeypatch, lambda reader, rows: list(reader.columns))
    first = batches(table, cache)
    assert ["length"] in read
    read.clear()
    assert batches(table, cache) == first == batches(table, None)
    assert read.count(["length"]) == 3  # by the one without a cache
    kept = [each for each in cache_info(cache)["tables"] if each["columns"] == ["length"]]
    assert [(each["rows"], each["cached_rows"]) for each in kept] == [(200, 200)]


def test_other_rows_fills_and_versions_have_lengths_of_their_own(table, cache):
    whole = batches(table, cache)
    assert len(parts(cache)) == 1
    some = batches(table, cache, filter="id < 150")
    assert some == batches(table, None, filter="id < 150")
    assert batches(table, cache, fill_null=0) == whole
    table.add(documents(300).slice(200))
    assert batches(table, cache) == batches(table, None) != whole
    assert len(parts(cache)) == 4


@pytest.mark.parametrize("damage", [cut, emptied, flipped])
def test_damaged_lengths_are_read_anew(table, cache, damage):
    first = batches(table, cache)
    [part] = parts(cache)
    damage(part)
    with pytest.warns(UserWarning, match="a part is read from the table again"):
        assert batches(table, cache) == first
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert batches(table, cache) == first
    assert len(parts(cache)) == 1


@pytest.mark.filterwarnings("ignore:cache_dir=")  # of rows, which do not fit either
def test_what_does_not_fit_is_not_kept(table, cache):
    dataset = LanceIterableTorchDataset(
        table, batching=TokenBudget(96, lengths="n"), cache_dir=cache, cache_bytes=600
    )
    assert sum(map(len, dataset)) > 150
    assert parts(cache) == []


def test_a_directory_that_cannot_be_made_is_said_once(table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="lengths are not cached"):
        made = batches(table, tmp_path / "file" / "cache", shuffle="global")
    assert made == batches(table, None, shuffle="global")


def test_who_asks_while_another_reads_waits_for_it(table, cache, monkeypatch):
    waits = threading.Event()
    asleep = time.sleep
    monkeypatch.setattr(numbers.time, "sleep", lambda each: (waits.set(), asleep(each)))
    settings = cache_settings(cache, None)
    reader = LanceIterableTorchDataset(table, columns=["n"])._rows.new_reader()

    def never():
        raise AssertionError("read twice")

    found = []
    other = threading.Thread(
        target=lambda: found.append(numbers.cached_numbers(settings, reader, "lengths", never))
    )

    def read():
        other.start()
        assert waits.wait(60)
        return np.arange(200, dtype=np.int32)

    mine = numbers.cached_numbers(settings, reader, "lengths", read)
    other.join()
    assert mine.tolist() == found[0].tolist() == list(range(200))
