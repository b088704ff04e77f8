# SPDX-License-Identifier: Apache-2.0
"""Orders of up to 10^12 rows in layouts of any shape: whatever positions are asked for, their rows
are there, are others each, and are those of the windows that the positions stand in."""

import itertools
import tracemalloc

import numpy as np
import pytest
from counted import Counted
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.epoch_order import EpochOrder
from lancedb.integrations._torch.order.steps import Steps

MOST_ROWS = 10**12
SHUFFLES = ("none", "global", "block")
# Of every magnitude alike: else nearly all would be of the largest one.
COUNTS = st.integers(0, 12).flatmap(lambda digits: st.integers(0, 10**digits))


@st.composite
def plans(draw, shuffles=SHUFFLES):
    """Plans of which a window fits in memory."""
    block = draw(st.integers(1, 64) | st.sampled_from([1, 127, 1000]))
    return EpochOrder(
        rows=draw(COUNTS | st.just(MOST_ROWS)),
        seed=draw(st.integers(-(2**64), 2**64)),
        epoch=draw(st.integers(0, 2**62)),
        shuffle=draw(st.sampled_from(shuffles)),
        block_rows=block,
        window_rows=block * draw(st.integers(1, 60)),
        lanes=draw(st.integers(1, 200) | st.sampled_from([1, 97, 128])),
        chunk=draw(st.integers(1, 40) | st.sampled_from([1, 1009])),
    )


def windowed():
    return plans(("block",)).filter(lambda plan: plan.has_windows and plan.rows)


@st.composite
def positions_in(draw, plan):
    """Some positions, each once: of anywhere, in runs, at both ends, and where the tail begins."""
    last = plan.rows - 1
    edges = st.sampled_from([0, last, plan.body_rows - 1, plan.body_rows, plan.rows // 2])
    starts = draw(st.lists(st.integers(0, last) | edges, min_size=1, max_size=4))
    run = draw(st.integers(1, 40))
    asked = np.concatenate([np.arange(start, start + run) for start in starts])
    return np.unique(np.clip(asked, 0, last))


@given(data=st.data())
@settings(max_examples=150)
def test_positions_have_rows_that_are_there_and_are_others_each(data):
    plan = data.draw(plans().filter(lambda plan: plan.rows))
    positions = data.draw(positions_in(plan))
    rows = plan.rows_at(positions)
    assert rows.dtype == np.int64
    assert len(np.unique(rows)) == len(positions)
    assert 0 <= rows.min() <= rows.max() < plan.rows
    # Each has the same row when it is asked for alone.
    assert plan.rows_at(positions[:1]).tolist() == rows[:1].tolist()


@given(data=st.data())
@settings(max_examples=150)
def test_a_position_stands_in_a_window_that_holds_its_row_there(data):
    plan = data.draw(windowed())
    positions = data.draw(positions_in(plan))
    rows = plan.rows_at(positions)
    windows, places = plan.locate(positions)
    assert len(np.unique(np.stack([windows, places]), axis=1).T) == len(positions)
    held = {}
    for window, place, row in zip(windows.tolist(), places.tolist(), rows.tolist(), strict=True):
        if window not in held:
            held[window] = plan.window_rows_of(window)
        assert len(held[window]) == plan.window_size(window)
        assert held[window][place] == row
        assert (plan.lane_of(window) == plan.lanes) == (window >= plan.tail_window)
    # No row stands in two windows, nor twice in one.
    together = np.concatenate(list(held.values()))
    assert len(np.unique(together)) == len(together)
    assert 0 <= together.min() <= together.max() < plan.rows


@given(data=st.data())
@settings(max_examples=150)
def test_the_pieces_of_a_span_are_its_positions_one_after_the_other(data):
    plan = data.draw(windowed())
    start = int(data.draw(positions_in(plan))[0])
    stop = min(plan.rows, start + data.draw(st.integers(1, 300)))
    pieces = plan.pieces_of(np.array([[start, stop]]))[0]
    assert sum(piece.count for piece in pieces) == stop - start
    windows, places = plan.locate(np.arange(start, stop))
    spelt = [(at.window, at.begin + more) for at in pieces for more in range(at.count)]
    assert spelt == list(zip(windows.tolist(), places.tolist(), strict=True))
    assert all(at.begin + at.count <= plan.window_size(at.window) for at in pieces)


@given(data=st.data())
@settings(max_examples=100)
def test_layouts_of_huge_numbers_overflow_nowhere(data):
    size = st.integers(0, 50).flatmap(lambda bits: st.integers(1, 2**bits))
    rows, block = data.draw(st.integers(1, 2**60)), data.draw(size)
    plan = EpochOrder(
        rows,
        block_rows=block,
        window_rows=block * max(1, data.draw(size) // block),
        lanes=data.draw(size),
        chunk=data.draw(size),
    )
    assert 0 <= plan.body_rows <= rows
    if not plan.has_windows:
        return
    start = data.draw(st.integers(0, rows - 1))
    stop = min(rows, start + 3 * min(plan.chunk, 2**20))
    # Pieces name what is to be read, and read nothing: no window is made.
    before = start
    for piece in itertools.islice(plan.pieces_of(np.array([[start, stop]]))[0], 100):
        assert 0 <= piece.begin < piece.begin + piece.count <= plan.window_size(piece.window)
        before += piece.count
    assert before <= stop


@pytest.mark.parametrize("rows", [10**6, 10**9, MOST_ROWS])
@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_what_positions_cost_does_not_grow_with_the_table(rows, shuffle):
    layout = {"block_rows": 24, "window_rows": 24 * 50, "lanes": 97, "chunk": 7}
    plan = Counted(rows, 3, 4, shuffle, **layout)
    positions = np.unique(np.linspace(0, rows - 1, 500).astype(np.int64))
    Counted.asked = 0
    tracemalloc.start()
    found = plan.rows_at(positions)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(found)) == len(positions)
    # Counted and not timed: the windows that the positions stand in, and nothing besides.
    assert Counted.asked <= len(positions) * 1.5 * plan.window_rows
    assert peak < 20 << 20


@given(data=st.data())
@settings(max_examples=200)
def test_ranks_and_workers_share_steps_of_any_size(data):
    ranks, workers = data.draw(st.integers(1, 2**20)), data.draw(st.integers(1, 64))
    rows = data.draw(st.integers(ranks, 2**62))
    drop_last = data.draw(st.booleans())
    start = data.draw(st.integers(0, rows - ranks))
    steps = Steps(rows, data.draw(st.integers(1, 2**50)), ranks, drop_last, start)
    left = rows - start
    made = steps.num_steps * steps.global_batch
    assert abs(left - made) < steps.global_batch
    assert sum(len(range(each, steps.num_steps, workers)) for each in range(workers)) == (
        steps.num_steps
    )
    if steps.num_steps == 0:
        assert drop_last
        return
    asked = data.draw(st.integers(0, steps.num_steps - 1))
    for step in {0, asked, steps.num_steps - 1}:
        begin, end = steps.span_of(step)
        assert begin == (steps.span_of(step - 1)[1] if step else start)
        rank = data.draw(st.integers(0, ranks - 1))
        low, high = steps.slice_of(step, rank)
        assert begin <= low < high <= end
        assert high == (steps.slice_of(step, rank + 1)[0] if rank + 1 < ranks else end)
    last = steps.span_of(steps.num_steps - 1)[1]
    assert last == rows or (drop_last and 0 < rows - last < steps.global_batch)
