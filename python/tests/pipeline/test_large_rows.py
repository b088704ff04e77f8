# SPDX-License-Identifier: Apache-2.0
"""Rows far larger than the others come in the same order, and memory is bounded by their bytes."""

import itertools
from collections import deque

import numpy as np
import pyarrow as pa
import pytest
from arrow_strategies import record_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.arrow import large_rows
from lancedb.integrations._torch.arrow.large_rows import LargeRows, Limits
from lancedb.integrations._torch.common.counters import Stats
from lancedb.integrations._torch.convert.transform import Output
from lancedb.integrations._torch.datasets import map_style
from lancedb.integrations._torch.datasets.sharded import ShardedDataset
from lancedb.integrations._torch.order.state import Position
from lancedb.integrations._torch.pipeline.mixed_sources import in_turn
from lancedb.integrations._torch.table import sample
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
    LanceTorchDataset,
)
from peak import Peak
from soak import soaked

MEGABYTE = 1 << 20
ROWS, LARGE = 480, 2_500_000
PLACES = {
    "here and there": range(7, ROWS, 15),
    "in a stretch": range(240, 272),
}
OTHERS = 1000
LITTLE = Limits(4 * MEGABYTE, 4 * MEGABYTE)


NOISE = np.random.default_rng(0).bytes(LARGE + ROWS)


def value_of(row, large):
    return NOISE[row : row + (LARGE if row in large else 100 + row % 7)]


@pytest.fixture(scope="module", params=PLACES)
def uneven(tmp_path_factory, request):
    """80 MB in 32 rows of 480."""
    import lancedb

    large = PLACES[request.param]
    values = [value_of(row, large) for row in range(ROWS)]
    data = {"id": range(ROWS), "value": pa.array(values, pa.large_binary())}
    db = lancedb.connect(tmp_path_factory.mktemp("uneven") / "db")
    return db.create_table("uneven", pa.table(data)), large


@pytest.fixture
def known_as_uneven(monkeypatch):
    """A table of 60 MB can do no harm, and is not looked at closely."""
    monkeypatch.setattr(sample, "_HIDDEN_BYTES", MEGABYTE)
    monkeypatch.setattr(ShardedDataset, "_limits", LITTLE)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("uneven", "shuffle"),
    [
        ("here and there", "global"),
        ("in a stretch", False),
        ("in a stretch", True),
    ],
    indirect=["uneven"],
)
def test_memory_is_bounded_by_bytes_and_every_row_is_whole(uneven, shuffle, known_as_uneven):
    table, large = uneven
    dataset = LanceIterableTorchDataset(table, shuffle=shuffle, batch_size=2, format="arrow")
    ids = []
    with Peak() as peak:
        for batch in dataset:
            for row, value in zip(batch["id"].to_pylist(), batch["value"], strict=True):
                expected = value_of(row, large)
                assert value.as_buffer().equals(pa.py_buffer(expected))
                ids.append(row)
    assert sorted(ids) == list(range(ROWS))
    assert peak.more < 72 * MEGABYTE


def test_the_order_is_that_of_a_table_without_large_rows(uneven, known_as_uneven):
    import lancedb

    table, _ = uneven
    even = lancedb.connect("memory://").create_table("even", [{"id": i} for i in range(ROWS)])
    layout = {"block_rows": 4, "window_rows": 64, "lanes": 8}
    options = {"shuffle": True, "format": "torch", "batch_size": 16, "seed": 3, **layout}
    orders = [
        [batch["id"].tolist() for batch in LanceIterableTorchDataset(each, **options)]
        for each in (table, even)
    ]
    assert orders[0] == orders[1]


@given(record_batches(min_rows=1, nulls=True), st.integers(0, 400))
@settings(max_examples=80)
def test_what_was_left_out_of_a_read_is_put_back_into_its_batch(batch, allowed):
    large = LargeRows(1, True, Limits(0, 0))
    read = large_rows.CountedRead(large, allowed)
    offsets = np.arange(batch.num_rows) * 10
    for part in read.cut(offsets):
        read.add(batch.take(pa.array(part // 10)), part)
    kept = read.batch()
    rows, places = large_rows.left_out(kept)
    assert kept.num_rows == batch.num_rows
    assert places.tolist() == offsets[rows].tolist()
    if not len(rows):
        return
    fetched = large.fetched()
    for part in fetched.cut(places):
        fetched.add(batch.take(pa.array(part // 10)), part)
    parts = list(large_rows.completed(large_rows.without_offsets(kept), rows, fetched.parts))
    assert not fetched.parts
    whole = pa.Table.from_batches(parts)
    whole.validate()
    assert whole.schema == batch.schema
    assert whole.to_pylist() == batch.to_pylist()


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(0, 3))
def test_rows_are_fetched_in_the_order_in_which_they_are_asked_for(asked, size):
    fetched = LargeRows(1, True, Limits(one_call=64 * MEGABYTE)).fetched()
    for part in fetched.cut(np.array(asked)):
        assert (np.diff(part) > 0).all()
        values = [f"{number}" * size for number in part.tolist()]
        fetched.add(pa.record_batch({"id": part, "text": values}), part)
    rows = [row for part in fetched.parts for row in part.to_pylist()]
    assert rows == [{"id": number, "text": f"{number}" * size} for number in asked]
    assert fetched.batch().schema == fetched.parts[0].schema


def test_a_read_keeps_what_its_rows_may_have_and_leaves_out_the_largest():
    large = LargeRows(100, False, Limits())
    read = large.counted()
    values = ["x" * 100] * 1000 + ["x" * 900_000, "x" * 300_000, "x" * 2_000_000]
    read.add(pa.record_batch({"text": values}), np.arange(1003))
    kept = read.batch()
    assert large_rows.left_out(kept)[0].tolist() == [1000, 1002]
    assert kept.nbytes < 200 * 1003 + MEGABYTE + 8 * 1003


def test_of_rows_of_about_one_size_nothing_is_left_out():
    sizes = np.random.default_rng(0).lognormal(np.log(100_000), 0.5, 64).astype(int)
    batch = pa.record_batch({"image": [bytes(size) for size in sizes.tolist()]})
    read = LargeRows(int(sizes.mean()), False, Limits()).counted()
    read.add(batch, np.arange(64))
    assert len(large_rows.left_out(read.batch())[0]) == 0


def test_once_a_large_row_was_seen_few_are_asked_for_at_once():
    large = LargeRows(100, False, Limits(one_call=32 * MEGABYTE, ahead=MEGABYTE))
    assert large.rows_of_a_call is None
    large.counted().add(pa.record_batch({"text": ["x" * 400_000] * 100}), np.arange(100))
    assert large.rows_of_a_call == 2


def test_calls_grow_while_they_bring_little_and_shrink_when_they_bring_much():
    large = LargeRows(100, True, Limits(one_call=32 * MEGABYTE, ahead=MEGABYTE))

    def brought(size):
        rows = large.rows_of_a_call
        large.note(size, rows)
        return large.rows_of_a_call

    assert [brought(1000) for _ in range(5)] == [4, 8, 16, 16, 16]
    assert brought(20 * MEGABYTE) == 16
    assert [brought(100 * MEGABYTE) for _ in range(5)] == [8, 4, 2, 1, 1]


@pytest.fixture
def others(tmp_path):
    """Rows of other numbers, and other ones of them large."""
    import lancedb

    numbers = range(OTHERS, OTHERS + ROWS)
    values = [other_value(number) for number in numbers]
    data = {"id": numbers, "value": pa.array(values, pa.large_binary())}
    return lancedb.connect(tmp_path).create_table("others", pa.table(data))


def other_value(number):
    return value_of(number - OTHERS, range(0, ROWS, 60))[::-1]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("mix", "workers"), [("rows", 0), soaked("rows", 2), soaked("batches", 0), ("batches", 2)]
)
@pytest.mark.parametrize("uneven", ["here and there"], indirect=True)
def test_a_mixture_too_reads_large_rows_with_their_batch_each_from_its_table(
    uneven, others, known_as_uneven, mix, workers
):
    table, large = uneven
    own = {"format": "arrow"} if mix == "batches" else {}
    mixture = LanceMixedTorchDataset(
        {
            name: LanceIterableTorchDataset(of, shuffle=True, **own)
            for name, of in (("uneven", table), ("others", others))
        },
        {"uneven": 1, "others": 1},
        mix=mix,
        source_column="source",
        batch_size=4,
        **({} if own else {"format": "arrow"}),
    )
    ids = []
    with Peak() as peak:
        for batch in LanceDataLoader(mixture, num_workers=workers):
            columns = (batch[name] for name in ("id", "value", "source"))
            for number, value, source in zip(*columns, strict=True):
                row = number.as_py()
                expected = other_value(row) if row >= OTHERS else value_of(row, large)
                assert value.as_py() == expected
                assert source.as_py() == (row >= OTHERS)
                ids.append(row)
    assert len(set(ids)) == len(ids) > ROWS
    assert workers or peak.more < 80 * MEGABYTE


@given(st.lists(st.integers(0, 2), min_size=1), st.data())
def test_rows_of_several_sources_are_handed_on_in_the_sequence_that_was_asked_for(sources, data):
    brought = {}
    for source in set(sources):
        rows = [place for place, of in enumerate(sources) if of == source]
        cuts = data.draw(st.sets(st.sampled_from(range(len(rows)))))
        ends = itertools.pairwise(sorted({0, len(rows), *cuts}))
        brought[source] = deque(pa.record_batch({"row": rows[a:b]}) for a, b in ends)
    parts = in_turn(brought, np.array(sources))
    assert [row for part in parts for row in part["row"].to_pylist()] == [*range(len(sources))]


@pytest.mark.parametrize("uneven", ["here and there"], indirect=True)
def test_a_worker_that_reads_by_index_gives_back_what_large_rows_have_used(uneven, monkeypatch):
    done = []
    monkeypatch.setattr(map_style, "in_worker", lambda: True)
    monkeypatch.setattr(map_style, "release_freed", lambda: done.append("released"))
    dataset = LanceTorchDataset(
        uneven[0], format="arrow", transform=lambda batch: done.append("made") or batch
    )
    for rows in (range(60), range(5), range(60, 120), range(60, 120)):
        dataset.__getitems__(rows)
    assert done == ["made", "released", "made", "made", "released", "made"]


@pytest.mark.parametrize(
    ("sizes", "are_large"),
    [
        ([10_000_000, 100, 100], True),
        ([10_000_000, 9_000_000, 8_000_000], False),
        ([7_000_000, 100, 100], False),
        ([500_000] * 20 + [100] * 21, False),
        ([], False),
    ],
)
def test_large_rows_are_far_larger_than_most_of_their_batch(sizes, are_large):
    values = pa.array([bytes(size) for size in sizes], pa.binary())
    batch = pa.record_batch({"value": values})
    assert large_rows.has_large_rows(batch) == are_large
    assert not large_rows.has_large_rows(pa.record_batch({"value": np.zeros(2_000_000)}))


def test_a_table_far_larger_than_its_sample_has_large_rows(uneven, known_as_uneven):
    reader = LanceIterableTorchDataset(uneven[0])._rows.new_reader()
    assert sample._hides_large_rows(reader, 120)


def test_nobody_is_advised_to_cache_what_a_sample_says_nothing_of(uneven, known_as_uneven):
    assert LanceIterableTorchDataset(uneven[0], cache=False)._bytes_to_cache() is None


def test_columns_that_are_not_read_may_be_what_makes_a_table_large(uneven, known_as_uneven):
    columns = {"text": "CAST(id AS STRING)", "value": "octet_length(CAST(id AS STRING))"}
    dataset = LanceIterableTorchDataset(uneven[0], columns=columns)
    assert sample.row_sizes(dataset._rows.new_reader()).average < 100


def test_where_no_column_varies_in_size_nothing_is_counted(uneven):
    dataset = LanceIterableTorchDataset(uneven[0], columns=["id"])
    assert dataset._large_rows() is None
    assert not sample.row_sizes(dataset._rows.new_reader()).are_skewed


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("uneven", "shuffle", "format"),
    [("here and there", "global", "torch"), ("in a stretch", False, "arrow")],
    indirect=["uneven"],
)
def test_batches_of_large_rows_are_the_same_with_workers(uneven, shuffle, format, known_as_uneven):
    table, large = uneven
    dataset = LanceIterableTorchDataset(table, shuffle=shuffle, batch_size=60, format=format)
    alone, by_workers = (
        [[as_lists(batch[name]) for name in ("id", "value")] for batch in loader]
        for loader in (LanceDataLoader(dataset), LanceDataLoader(dataset, num_workers=2))
    )
    assert len(alone) == ROWS // 60
    assert by_workers == alone
    rows = [row for ids, _ in alone for row in ids]
    assert sorted(rows) == list(range(ROWS))
    assert all(
        value == value_of(row, large) for batch in alone for row, value in zip(*batch, strict=True)
    )


@pytest.mark.parametrize("uneven", ["in a stretch"], indirect=True)
def test_of_large_batches_none_is_made_beyond_the_one_that_workers_are_sent(
    uneven, known_as_uneven
):
    dataset = LanceIterableTorchDataset(uneven[0], batch_size=16, format="torch")
    batches = dataset._record_batches(Position(0), None, are_whole=True)
    under_way = [len(batches._stream._jobs) for _ in batches]
    batches.close()
    assert under_way[2] == 2
    assert under_way[256 // 16] == 0  # as the one before was large, too


def as_lists(column):
    if isinstance(column, list):
        return column
    return column.to_pylist() if isinstance(column, pa.Array) else column.tolist()


@given(record_batches(), st.sampled_from(["torch", "python", "python_col"]), st.data())
@settings(max_examples=80)
def test_a_batch_converted_part_by_part_is_the_same(batch, format, data):
    output, rows = Output(format, None), batch.num_rows
    cuts = data.draw(st.lists(st.integers(0, rows), max_size=3))
    parts = (batch.slice(a, b - a) for a, b in itertools.pairwise([0, *sorted(cuts), rows]))
    if output.converts_parts(batch.schema):
        (whole,) = output.convert(batch, [rows], Stats())
        made = output.convert_parts(parts, Stats())
        assert repr(made) == repr(whole)
