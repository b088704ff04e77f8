# SPDX-License-Identifier: Apache-2.0
"""The bytes of blobs are fetched for the batches that come next, and held nowhere else."""

import contextlib
import gc
import os
from pathlib import Path

import lancedb
import numpy as np
import psutil
import pyarrow as pa
import pytest
from lancedb.integrations._torch.arrow.large_rows import Limits
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from lancedb.schema import blob
from peak import Peak
from torch.utils.data import ConcatDataset, DataLoader

MEGABYTE = 1 << 20
ROWS, SIZE = 160, MEGABYTE
NOISE = np.random.default_rng(0).bytes(SIZE + 1000)


def value(number):
    """About a megabyte; but some are null, empty, and small."""
    size = {3: 0, 5: 100}.get(number % 10, SIZE)
    return None if number % 10 == 7 else NOISE[number : number + size]


def make(db, name, numbers):
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("text", pa.string()), blob("data")])
    table = db.create_table(name, schema=schema)
    for start in range(0, len(numbers), 40):
        some = numbers[start : start + 40]
        table.add([{"id": n, "text": "x" * (n % 7), "data": value(n)} for n in some])
    return table


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """112 MB of blobs."""
    return make(lancedb.connect(tmp_path_factory.mktemp("large")), "large", range(ROWS))


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr(LanceIterableTorchDataset, "_limits", Limits(4 * MEGABYTE, 8 * MEGABYTE))


def checked(batches):
    """The ids of Arrow batches, whose blobs are looked at one by one."""
    ids = []
    for batch in batches:
        for number, data in zip(batch["id"].to_pylist(), batch["data"], strict=True):
            assert data.as_py() == value(number)
            ids.append(number)
    return ids


@pytest.mark.soak
@pytest.mark.parametrize("shuffle", [False, "global"])
def test_memory_is_that_of_the_batches_to_come(large, shuffle, little):
    options = {"shuffle": shuffle, "batch_size": 2, "format": "arrow"}
    loader = LanceDataLoader(LanceIterableTorchDataset(large, **options))
    with Peak() as peak:
        ids = checked(loader)
    assert sorted(ids) == list(range(ROWS))
    assert peak.more < 60 * MEGABYTE


def test_a_batch_larger_than_the_limit_comes(large, little):
    dataset = LanceIterableTorchDataset(large, batch_size=40, format="arrow")
    assert checked(dataset) == list(range(ROWS))


@pytest.mark.parametrize("shuffle", [True, "global"])
def test_a_cache_changes_no_batch_and_keeps_blobs_only_if_asked_to(large, shuffle):
    options = {"shuffle": shuffle, "batch_size": 8, "format": "arrow", "seed": 3}
    found = {}
    for cache in (False, "auto", True):
        dataset = LanceIterableTorchDataset(large, cache=cache, **options)
        loader = LanceDataLoader(dataset)
        found[cache] = [checked(loader) for _ in range(2)]
        stats = dataset.stats()
        blobs = sum(len(value(n) or b"") for n in range(ROWS))
        assert (stats["cached_bytes"] > blobs) == (cache is True)
        assert (stats["bytes"] > 2 * blobs) == (cache is not True)
    assert found[False] == found["auto"] == found[True]
    assert found[False][0] != found[False][1] or not shuffle


def test_a_map_style_cache_keeps_blobs_only_if_asked_to(large):
    for cache in ("auto", True):
        dataset = LanceTorchDataset(large, cache=cache, format="arrow", columns=["id", "data"])
        rows = list(range(20))
        assert checked([dataset.__getitems__(rows)] * 3) == rows * 3
        assert (dataset.stats()["cached_bytes"] > MEGABYTE) == (cache is True)


@pytest.mark.soak
def test_forked_workers_of_a_plain_loader_fetch_for_themselves(large):
    options = {"filter": "id < 24", "shuffle": True, "batch_size": 8, "format": "arrow"}
    dataset = LanceIterableTorchDataset(large, **options)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, multiprocessing_context="fork", collate_fn=_itself
    )
    assert sorted(checked(loader)) == list(range(24))


def _itself(batch):
    return batch


def test_a_resumed_epoch_goes_on_with_the_same_blobs(large):
    def loader():
        options = {"shuffle": True, "batch_size": 8, "format": "arrow"}
        return LanceDataLoader(LanceIterableTorchDataset(large, **options))

    first = loader()
    batches = iter(first)
    begun = [next(batches) for _ in range(7)]
    second = loader()
    second.load_state_dict(first.state_dict())
    assert checked([*begun, *second]) == checked(loader())


def test_rows_that_are_large_beside_their_blobs(db, little):
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("text", pa.string()), blob("data")])
    table = db.create_table("both", schema=schema)
    texts = ["x" * (3_000_000 if n % 11 == 5 else n) for n in range(60)]
    table.add([{"id": n, "text": texts[n], "data": value(n)} for n in range(60)])
    dataset = LanceIterableTorchDataset(table, shuffle=True, batch_size=4, format="arrow")
    ids = []
    for batch in dataset:
        ids += checked([batch])
        assert batch["text"].to_pylist() == [texts[n] for n in batch["id"].to_pylist()]
    assert sorted(ids) == list(range(60))


def test_several_blobs_in_a_row_and_in_a_struct(db):
    inner = pa.field("s", pa.struct([pa.field("k", pa.int32()), blob("b")]))
    table = db.create_table("several", schema=pa.schema([blob("x"), inner, blob("y")]))
    table.add([{"x": b"x" * n, "s": {"k": n, "b": b"b" * n}, "y": b"y" * n} for n in range(30)])
    columns = {"y": "y", "b": "s.b", "k": "s.k", "again": "y"}
    expected = [{"y": b"y" * n, "b": b"b" * n, "k": n, "again": b"y" * n} for n in range(30)]
    options = {"columns": columns, "batch_size": 10}
    dataset = LanceIterableTorchDataset(table, shuffle=True, **options)
    rows = [row for batch in dataset for row in batch]
    assert sorted(rows, key=lambda row: row["k"]) == expected
    assert LanceTorchDataset(table, **options)[:] == expected


@pytest.mark.parametrize("join", [lambda a, b: a + b, lambda a, b: ConcatDataset([a, b])])
def test_rows_of_two_tables(db, join):
    parts = [make(db, name, range(*edge)) for name, edge in [("a", (0, 15)), ("b", (40, 60))]]
    both = join(*(LanceTorchDataset(part, unwrap=True) for part in parts))
    loader = DataLoader(both, batch_size=10, shuffle=True, collate_fn=list)
    rows = [row for batch in loader for row in batch]
    assert {row["id"]: row["data"] for row in rows} == {
        n: value(n) for n in [*range(15), *range(40, 60)]
    }


def test_what_fails_names_the_table_and_the_steps_rows(db, tmp_path):
    table = make(db, "gone", range(40))
    dataset = LanceIterableTorchDataset(table, shuffle=True, batch_size=4, format="arrow")
    batches = iter(dataset)
    checked([next(batches)])
    for folder, _, files in os.walk(tmp_path):
        for name in files if ".lance" in folder and "/data" in folder else []:
            os.truncate(os.path.join(folder, name), 0)
    with pytest.raises(RuntimeError, match="table 'gone', version 2") as caught:
        checked(batches)
    assert "making step" in "".join(caught.value.__notes__)


def count_threads():
    """Threads but for those of lancedb's own pool, which grows and shrinks as it likes."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            names.append((task / "comm").read_text())
    return sum(not name.startswith("lancedb-tokio") for name in names)


def test_a_loop_that_is_left_leaves_no_thread_file_or_memory(large):
    process = psutil.Process()

    def begin_and_leave():
        dataset = LanceIterableTorchDataset(large, shuffle=True, batch_size=4, format="arrow")
        for batch in LanceDataLoader(dataset):
            return batch["id"]

    begin_and_leave()
    gc.collect()
    before = process.num_fds(), count_threads()
    for _ in range(5):
        begin_and_leave()
    gc.collect()
    files, threads = process.num_fds(), count_threads()
    assert files <= before[0] + 4
    assert threads <= before[1] + 4
