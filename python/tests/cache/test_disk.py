# SPDX-License-Identifier: Apache-2.0
"""Rows off the disk cache are those of the table, in every order, dataset and process."""

import os
import pickle
import stat

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from arrow_strategies import record_batches
from conftest import record_reads, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.cache.directory import cache_settings, parse_bytes
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
    cache_info,
    clear_cache,
)
from lancedb.permutation import permutation_builder
from lancedb.schema import blob
from small_parts import small_parts
from torch.utils.data import DataLoader

__all__ = ["small_parts"]
pytestmark = pytest.mark.usefixtures("small_parts")

KINDS = [{"shuffle": False}, {"shuffle": True}, {"shuffle": "global"}]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def iterable(table, **arguments):
    given = {"format": "arrow", "batch_size": 50, "cache": False, "drop_last": False}
    return LanceIterableTorchDataset(table, **{**given, **arguments})


def filled(dataset):
    """The dataset, once all that it needs is on disk."""
    dataset._rows.disk.fill(again=True)
    dataset._rows.disk.wait()
    assert dataset._rows.disk.is_complete
    return dataset


def epoch(dataset):
    return [batch.to_pydict() for batch in dataset]


@pytest.mark.parametrize("order", KINDS, ids=["sequence", "block", "global"])
def test_epochs_are_those_without_a_cache(table, cache, order):
    plain, cached = iterable(table, **order), iterable(table, cache_dir=cache, **order)
    epochs = [epoch(plain) for _ in range(3)]
    assert epoch(cached) == epochs[0]  # while the parts are written
    filled(cached)
    assert [epoch(cached), epoch(cached)] == epochs[1:]
    assert cached.state_dict() == plain.state_dict()


def test_a_complete_cache_is_all_that_is_read(table, cache, monkeypatch):
    first = filled(iterable(table, shuffle=True, cache_dir=cache))
    second = iterable(table, shuffle="global", cache_dir=cache)
    mapped = LanceTorchDataset(table, cache_dir=cache, cache=False)
    reads = record_reads(monkeypatch, lambda reader, rows: len(rows))
    assert len(epoch(first)) == len(epoch(second)) == 20
    assert [row["id"] for row in mapped[[999, 0, -5, 0]]] == [999, 0, 995, 0]
    assert reads == []
    assert {name: first.stats()[name] for name in ("rows", "cached_rows", "bytes")} == {
        "rows": 1000,
        "cached_rows": 1000,
        "bytes": 0,
    }
    assert mapped.stats()["cached_rows"] == 4
    assert f"cache_dir={str(cache)!r}" in repr(first)


@pytest.mark.few(2)
@pytest.mark.parametrize("gone", [[0], [3, 7], range(7), "all but the last"])
def test_rows_of_missing_parts_are_of_the_table(table, cache, gone, monkeypatch):
    monkeypatch.setattr("lancedb.integrations._torch.cache.disk._LOOKED_EVERY", 3600)
    dataset = filled(iterable(table, shuffle=True, cache_dir=cache))
    parts = sorted(cache.glob("*/*.arrow"))
    for part in [parts[n] for n in gone] if not isinstance(gone, str) else parts[:-1]:
        part.unlink()
    other = iterable(table, shuffle=True, cache_dir=cache)
    other._rows.disk.fill = lambda again=False: None
    assert epoch(other) == epoch(iterable(table, shuffle=True))
    assert 0 < other.stats()["cached_rows"] < 1000
    mapped = LanceTorchDataset(table, cache_dir=cache, cache=False, format="arrow")
    mapped._rows.disk.fill = lambda again=False: None
    rows = [999, 5, 400, 5, 998]
    assert mapped[rows]["id"].to_pylist() == rows
    assert dataset._rows.disk.is_complete  # has mapped none: looks again in its next epoch


@given(data=st.data())
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
def test_rows_of_every_type_come_back(tmp_path_factory, data):
    batch = data.draw(record_batches(min_rows=1, max_rows=12, nulls=True))
    rows = pa.Table.from_batches([batch] * data.draw(st.integers(1, 4)))
    path = tmp_path_factory.mktemp("db")
    table = lancedb.connect(path).create_table("t", rows)
    if not table.count_rows():  # lancedb leaves out rows whose vectors are null
        return
    plain = LanceTorchDataset(table, format="arrow", cache=False)
    cached = filled(LanceTorchDataset(table, format="arrow", cache=False, cache_dir=path / "c"))
    picked = data.draw(st.lists(st.integers(0, len(plain) - 1), min_size=1, max_size=20))
    ours, theirs = cached[picked], plain[picked]
    assert cached.stats()["cached_rows"] == len(picked)
    assert ours.schema.equals(theirs.schema)
    assert ours.to_pylist() == theirs.to_pylist() or ours.equals(theirs)


def test_a_dense_filter_shares_the_parts_of_the_table(table, cache):
    dense = filled(iterable(table, filter="id % 2 = 0 and id < 500", cache_dir=cache))
    (info,) = cache_info(cache)["tables"]
    assert info["rows"] == 1000
    assert 500 <= info["cached_rows"] < 600  # the parts that it needs
    everything = filled(iterable(table, cache_dir=cache))
    assert len(cache_info(cache)["tables"]) == 1
    assert sorted(id for batch in epoch(dense) for id in batch["id"]) == list(range(0, 500, 2))
    assert len(epoch(everything)) == 20


def test_rows_of_which_nothing_is_written_yet_are_not_listed(table, cache):
    (cache / ("0" * 32)).mkdir(parents=True)
    assert cache_info(cache)["tables"] == []


def test_rows_here_and_there_have_parts_of_their_own(table, cache):
    sparse = filled(iterable(table, filter="id % 9 = 1", shuffle=True, cache_dir=cache))
    (info,) = cache_info(cache)["tables"]
    assert (info["rows"], info["cached_rows"]) == (111, 111)
    assert epoch(sparse) == epoch(iterable(table, filter="id % 9 = 1", shuffle=True))
    assert sparse.stats()["cached_rows"] == 111


def test_a_split_in_any_order_is_the_same(table, cache):
    permutation = permutation_builder(table).split_random(ratios=[0.1, 0.9], seed=1).execute()
    for split in (0, 1):
        chosen = {"permutation_table": permutation, "split": split, "shuffle": False}
        cached = filled(iterable(table, cache_dir=cache, **chosen))
        assert epoch(cached) == epoch(iterable(table, **chosen))
        assert cached.stats()["cached_rows"] == cached.num_rows


def test_other_versions_and_columns_have_others(table, cache):
    filled(iterable(table, cache_dir=cache))
    filled(iterable(table, cache_dir=cache, columns={"n": "id * 2"}))
    table.add(rows_of(10, 1000))
    newer = filled(iterable(table, cache_dir=cache))
    assert sorted(each["rows"] for each in cache_info(cache)["tables"]) == [1000, 1000, 1010]
    assert sum(len(batch["id"]) for batch in epoch(newer)) == 1010


def test_a_table_made_anew_in_its_place_has_another(db, cache):
    old = filled(iterable(db.create_table("t", rows_of(100)), cache_dir=cache))
    db.drop_table("t")
    new = filled(iterable(db.create_table("t", rows_of(100, 500)), cache_dir=cache))
    assert epoch(new)[0]["id"][0] == 500
    assert len(cache_info(cache)["tables"]) == 2
    assert old._rows.disk._rows.key != new._rows.disk._rows.key


def test_blobs_are_cached_where_their_column_is_named(db, cache):
    table = db.create_table("b", schema=pa.schema([pa.field("id", pa.int64()), blob("data")]))
    table.add([{"id": n, "data": bytes([n]) * 3000} for n in range(30)])
    with pytest.warns(UserWarning, match="blobs are cached by the map-style dataset"):
        LanceTorchDataset(table, cache_dir=cache)
    named = filled(LanceTorchDataset(table, columns=["id", "data"], cache=False, cache_dir=cache))
    assert [row["data"] for row in named[[29, 3]]] == [bytes([29]) * 3000, bytes([3]) * 3000]
    assert named.stats()["cached_rows"] == 2


def test_memory_is_loaded_from_the_parts(table, cache, monkeypatch):
    filled(iterable(table, cache_dir=cache))
    dataset = iterable(table, shuffle=True, cache=True, cache_dir=cache)
    taken = []
    find = dataset._rows.disk.find
    dataset._rows.disk.find = lambda offsets: taken.append(len(offsets)) or find(offsets)
    assert epoch(dataset) == epoch(iterable(table, shuffle=True))
    assert sum(taken) == 1000


def test_what_is_in_memory_unasked_is_not_written(db, cache):
    table = db.create_table("t", rows_of(3000))
    dataset = iterable(table, shuffle=True, cache="auto", cache_dir=cache)
    epoch(dataset)
    assert cache_info(cache)["bytes"] == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_with_workers_use_it(table, cache, workers):
    dataset = iterable(table, shuffle=True, format="torch", cache_dir=cache)
    filled(dataset)
    loader = LanceDataLoader(dataset, num_workers=workers)
    assert sorted(id for batch in loader for id in batch["id"].tolist()) == list(range(1000))
    assert loader.stats()["cached_rows"] == 1000


def test_workers_of_a_plain_loader_use_it(table, cache):
    mapped = LanceTorchDataset(table, format="torch", cache_dir=cache, cache=False)
    filled(mapped)
    mapped._share_counts(3)
    loader = DataLoader(mapped, batch_size=100, num_workers=2, multiprocessing_context="forkserver")
    assert [id for batch in loader for id in batch["id"].tolist()] == list(range(1000))
    assert mapped.stats()["cached_rows"] == 1000


def test_the_pickle_stays_small_and_holds_no_map(table, cache):
    dataset = filled(iterable(table, cache_dir=cache))
    epoch(dataset)
    sent = pickle.dumps(dataset)
    assert len(sent) < 8000
    assert pickle.loads(sent)._rows.disk._mapped.numbers == set()


def test_only_the_owner_may_look_into_it(table, cache):
    filled(iterable(table, cache_dir=cache))
    for path in [cache, *cache.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_environment_names_a_directory(table, cache, monkeypatch):
    monkeypatch.setenv("LANCEDB_TORCH_CACHE_DIR", str(cache))
    filled(iterable(table))
    assert cache_info()["tables"][0]["cached_rows"] == 1000
    assert clear_cache() > 0
    memory = lancedb.connect("memory://").create_table("m", rows_of(10))
    assert len(epoch(iterable(memory))) == 1  # nobody asked for it: no warning


def test_what_a_cache_may_be_is_checked(table, monkeypatch):
    monkeypatch.delenv("LANCEDB_TORCH_CACHE_DIR", raising=False)
    assert [parse_bytes(size) for size in ("500GB", "2 MiB", 7, "1.5k")] == [
        500 * 10**9,
        2 << 20,
        7,
        1500,
    ]
    for wrong in ("much", "5XB", 0, -1, True, float("inf"), "0", [1]):
        with pytest.raises(ValueError, match="cache_bytes must be a size above 0"):
            iterable(table, cache_dir="c", cache_bytes=wrong)
    with pytest.raises(ValueError, match="cache_bytes needs cache_dir"):
        iterable(table, cache_bytes="1GB")
    with pytest.raises(TypeError, match="cache_dir must be the path of a directory"):
        iterable(table, cache_dir=5)
    assert cache_settings("~/x", 5).directory == os.path.expanduser("~/x")
    memory = lancedb.connect("memory://").create_table("m", rows_of(10))
    with pytest.warns(UserWarning, match="the table is in memory"):
        iterable(memory, cache_dir="c")


def test_the_first_parts_that_fit_are_kept(table, cache):
    filled(iterable(table, cache_dir=cache))
    parts = sorted(cache.glob("*/*.arrow"))
    room = sum(part.stat().st_size for part in parts[:5]) + 3000
    clear_cache(cache)
    dataset = iterable(table, shuffle=True, cache_dir=cache, cache_bytes=room)
    first = epoch(dataset)
    dataset._rows.disk.wait()
    dataset._rows.disk._looked = -np.inf
    assert [part.name[:6] for part in sorted(cache.glob("*/*.arrow"))] == [
        f"{number:06}" for number in range(len(list(cache.glob("*/*.arrow"))))
    ]
    assert 3 <= len(list(cache.glob("*/*.arrow"))) <= 5
    plain = iterable(table, shuffle=True)
    assert [first, epoch(dataset)] == [epoch(plain), epoch(plain)]
    assert cache_info(cache)["bytes"] <= room


def test_what_was_used_longest_ago_goes_first_unless_it_is_in_use(db, cache):
    tables = [db.create_table(f"t{n}", rows_of(200)) for n in range(3)]
    used = [filled(iterable(table, cache_dir=cache)) for table in tables]
    one = cache_info(cache)["bytes"] / 3
    for age, dataset in enumerate(used):
        os.utime(cache / "locks" / f"{dataset._rows.disk._rows.key}.reading", (age, age))
    used[1] = None  # nobody uses the second and the third any more
    used[2] = None
    last = filled(
        iterable(db.create_table("t3", rows_of(200)), cache_dir=cache, cache_bytes=int(3.3 * one))
    )
    assert sorted(each["table"] for each in cache_info(cache)["tables"]) == ["t0", "t2", "t3"]
    assert len(epoch(last)) == len(epoch(used[0])) == 4
