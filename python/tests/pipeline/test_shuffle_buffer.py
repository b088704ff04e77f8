# SPDX-License-Identifier: Apache-2.0
"""Rows taken out of what was read, in any order and in pieces, are the rows Arrow would take."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from arrow_strategies import record_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.arrow import take
from lancedb.integrations._torch.arrow.buffer_pool import WindowMemory
from lancedb.integrations._torch.arrow.fixed_width import buffer_for, from_raw, raw_rows, row_bytes
from lancedb.integrations._torch.order.window_slices import WindowSlices
from lancedb.integrations._torch.pipeline.shuffle_buffer import ReadRows, Window, assemble

TENSORS = pa.fixed_shape_tensor(pa.float32(), [2, 2])


def window_of(batch: pa.RecordBatch, order: np.ndarray, memory: WindowMemory) -> Window:
    return Window(ReadRows(batch), order, memory)


def put_together(*parts: tuple[Window, int, int]) -> pa.RecordBatch:
    """Some rows of some windows: from which index on, and how many."""
    windows = list(dict.fromkeys(window for window, _, _ in parts))
    owners = np.array([windows.index(window) for window, _, _ in parts])
    begins, counts = np.array([part[1:] for part in parts], np.int64).T
    return assemble(windows, owners, WindowSlices(owners, begins, counts))


def taken(batch: pa.RecordBatch, indices: np.ndarray) -> list:
    rows = batch.to_pylist()
    return [rows[index] for index in indices]


@given(record_batches(min_rows=1, nulls=True), st.data())
def test_taking_rows_gives_them_in_that_order(batch, data):
    rows = st.integers(0, batch.num_rows - 1)
    indices = np.array(data.draw(st.lists(rows, max_size=20)), np.int64)
    got = take.take(batch, indices)
    got.validate()
    assert got.schema == batch.schema
    assert got.to_pylist() == taken(batch, indices)


@given(record_batches(min_rows=1, nulls=True), st.integers(1, 7), st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_batch_of_pieces_of_windows_has_their_rows_in_sequence(batch, segment_rows, seed):
    random, rows = np.random.default_rng(seed), batch.num_rows
    memory = WindowMemory(segment_rows)
    orders = [random.permutation(rows) for _ in range(3)]
    windows = [window_of(batch, order, memory) for order in orders]
    parts, expected = [], []
    for number in random.integers(0, 3, 5):
        begin = random.integers(0, rows)
        count = random.integers(1, rows - begin + 1)
        parts.append((windows[number], begin, count))
        expected += taken(batch, orders[number][begin : begin + count])
    got = put_together(*parts)
    got.validate()
    assert got.schema == batch.schema
    assert got.to_pylist() == expected


def test_what_was_handed_out_is_used_again_and_nothing_else():
    memory = WindowMemory(4)
    batch = pa.record_batch({"x": np.arange(10)})
    window = window_of(batch, np.arange(10), memory)
    kept = put_together((window, 0, 10))
    window.deliver(9)
    new = window_of(pa.record_batch({"x": np.arange(100, 108)}), np.arange(8), memory)
    assert put_together((window, 8, 2))["x"].to_pylist() == [8, 9]
    assert put_together((new, 0, 8))["x"].to_pylist() == list(range(100, 108))
    assert kept["x"].to_pylist() == list(range(10))


def as_lancedb_hands_it_out(batch):
    """A batch out of another library: all of it lives as long as any column of it."""
    reader = pa.RecordBatchReader.from_batches(batch.schema, [batch])
    return pa.RecordBatchReader.from_stream(reader).read_next_batch()


@pytest.mark.parametrize(("letters", "holds"), [(200, False), (4000, True)])
def test_strings_hold_what_was_read_only_if_they_are_most_of_it(letters, holds):
    before = pa.total_allocated_bytes()
    numbers = pc.add(pa.array(np.zeros(100_000)), 1.0)
    texts = pa.array(["x" * letters] * 500)
    columns = {"vec": pa.FixedSizeListArray.from_arrays(numbers, 200), "text": texts}
    batch = as_lancedb_hands_it_out(pa.record_batch(columns))
    read = pa.total_allocated_bytes() - before
    window = window_of(batch, np.arange(500), WindowMemory(500))
    del batch, numbers, texts, columns
    kept = pa.total_allocated_bytes() - before
    assert (kept > 0.9 * read) == holds
    assert holds or kept < 2 * 500 * letters
    assert put_together((window, 0, 500))["text"].to_pylist() == ["x" * letters] * 500


def test_memory_does_not_grow_over_many_windows():
    memory = WindowMemory(1000)
    batch = pa.record_batch({"x": np.arange(3000), "y": np.zeros(3000, np.int32)})
    for _ in range(500):
        window_of(batch, np.arange(3000), memory).close()
    assert [len(memory.rows(*column)) for column in [(0, 8), (1, 4)]] == [4000, 4000]


def test_growing_memory_keeps_what_open_windows_hold():
    memory = WindowMemory(10)
    batches = [pa.record_batch({"x": np.arange(25) + 25 * number}) for number in range(20)]
    windows = [window_of(batch, np.arange(25), memory) for batch in batches]
    got = put_together(*((window, 0, 25) for window in windows))
    assert got["x"].to_pylist() == list(range(500))


def test_closing_a_window_twice_gives_its_memory_back_once():
    memory = WindowMemory(10)
    window = window_of(pa.record_batch({"x": np.arange(30)}), np.arange(30), memory)
    window.deliver(15)
    window.close()
    window.close()
    taken = [memory.take() for _ in range(4)]
    assert len(set(taken)) == 4


@pytest.mark.parametrize(
    ("kind", "width"),
    [
        (pa.int32(), 4),
        (pa.float16(), 2),
        (pa.timestamp("us"), 8),
        (pa.decimal128(9, 2), 16),
        (pa.binary(5), 5),
        (pa.list_(pa.int16(), 3), 6),
        (pa.list_(pa.list_(pa.float64(), 2), 3), 48),
        (TENSORS, 16),
        (pa.bool_(), 0),
        (pa.string(), 0),
        (pa.list_(pa.int32()), 0),
        (pa.dictionary(pa.int8(), pa.string()), 0),
        (pa.struct([("a", pa.int32())]), 0),
        (pa.list_(pa.bool_(), 8), 0),
        (pa.list_(pa.int32(), 0), 0),
        (pa.null(), 0),
    ],
    ids=str,
)
def test_the_width_of_a_row(kind, width):
    assert row_bytes(kind) == width


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2)),
        pa.array([[1, None], [3, 4]], pa.list_(pa.int32(), 2)),
        pa.array([1, None]),
        pa.array([], pa.int32()),
    ],
)
def test_nulls_and_no_rows_are_left_to_arrow(column):
    assert raw_rows(column) is None


def test_tensors_keep_their_shape():
    storage = pa.array([[1, 2, 3, 4], [5, 6, 7, 8]], pa.list_(pa.float32(), 4))
    column = pa.ExtensionArray.from_storage(TENSORS, storage)
    data, out = buffer_for(2, 16)
    out[:] = raw_rows(column)
    assert from_raw(TENSORS, 2, data).equals(column)


def test_nested_fixed_size_lists_are_taken_rightly_out_of_a_slice():
    vectors = pa.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], pa.list_(pa.list_(pa.int8(), 2), 2))
    for column in (vectors, pa.StructArray.from_arrays([vectors], ["x"])):
        expected = [column.to_pylist()[1]] * 2
        assert take.take_column(column.slice(1), np.array([0, 0])).to_pylist() == expected


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_lists_of_numbers_are_taken_whole(kind):
    rows = [[1, 2, 3], [], [4], list(range(50)), []]
    column = pa.array([[9], *rows], kind(pa.int64())).slice(1)
    order = np.array([3, 0, 4, 4, 2])
    assert take.take_column(column, order).to_pylist() == [rows[index] for index in order]
    assert take.take_column(column, np.array([], np.int64)).to_pylist() == []
    empty = pa.array([[], []], kind(pa.int64()))
    assert take.take_column(empty, np.array([1, 0])).to_pylist() == [[], []]


def test_a_column_with_nulls_in_some_windows_only_is_put_together():
    kinds = {"x": pa.int32(), "vec": pa.list_(pa.float32(), 2)}
    rows = [{"x": number, "vec": [number, -number]} for number in range(10)]
    holes = [{**row, "x": None, "vec": None} if row["x"] % 3 else row for row in rows]
    memory = WindowMemory(4)
    order = np.arange(10)[::-1]
    whole, holed = (
        window_of(pa.RecordBatch.from_pylist(each, pa.schema(kinds)), order, memory)
        for each in (rows, holes)
    )
    got = put_together((whole, 1, 5), (holed, 2, 7), (whole, 6, 4))
    got.validate(full=True)
    expected = [*rows[::-1][1:6], *holes[::-1][2:9], *rows[::-1][6:10]]
    assert got.to_pylist() == expected
    only = put_together((holed, 5, 3))
    whole.close()
    holed.close()
    window_of(pa.RecordBatch.from_pylist(rows[:4] * 3, pa.schema(kinds)), np.arange(12), memory)
    assert got.to_pylist() == expected
    assert only.to_pylist() == holes[::-1][5:8]
