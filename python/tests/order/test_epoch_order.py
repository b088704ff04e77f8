# SPDX-License-Identifier: Apache-2.0
"""The order of an epoch: every row once, in windows that are bounded, staggered and consistent."""

import itertools
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order import epoch_order as plan_module
from lancedb.integrations._torch.order.epoch_order import EpochOrder
from lancedb.integrations._torch.order.layout import auto_layout

BILLION = 10**9


@st.composite
def block_plans(draw, most_rows=3000):
    block = draw(st.integers(1, 40))
    return EpochOrder(
        rows=draw(st.integers(0, most_rows)),
        seed=draw(st.integers(-5, 2**64)),
        epoch=draw(st.integers(0, 9)),
        shuffle="block",
        block_rows=block,
        window_rows=block * draw(st.integers(1, 30)),
        lanes=draw(st.integers(1, 20)),
        chunk=draw(st.integers(1, 20)),
    )


def windowed_plans(**bounds):
    return block_plans(**bounds).filter(lambda plan: plan.has_windows)


def layout_plan(rows, global_batch, epoch=0, row_bytes=524, **given):
    layout = auto_layout(rows, row_bytes, global_batch, "block", **given)
    return EpochOrder(
        rows,
        seed=0,
        epoch=epoch,
        block_rows=layout.block_rows,
        window_rows=layout.window_rows,
        lanes=layout.lanes,
        chunk=layout.chunk,
    )


def everything(plan):
    return plan.rows_at(np.arange(plan.rows))


def in_words(rows):
    return " ".join(map(str, rows))


def windows_of(plan):
    """Each window's id and where in the sequence its first row stands."""
    windows, _ = plan.locate(np.arange(plan.rows))
    return np.unique(windows, return_index=True)


# -- coverage --------------------------------------------------------------------------------


@given(block_plans())
@settings(max_examples=150, deadline=None)
@example(EpochOrder(26, block_rows=1, window_rows=7, lanes=4, chunk=3))
@example(EpochOrder(17, block_rows=1, window_rows=1, lanes=1, chunk=16))
@example(EpochOrder(5, block_rows=8, window_rows=8, lanes=16, chunk=16))
def test_a_block_shuffle_delivers_every_row_exactly_once(plan):
    assert np.array_equal(np.sort(everything(plan)), np.arange(plan.rows))


@given(st.integers(0, 100_000), st.integers(1, 600), st.integers(1, 20_000), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_chosen_layouts_deliver_every_row_exactly_once(rows, global_batch, row_bytes, epoch):
    plan = layout_plan(rows, global_batch, epoch, row_bytes)
    assert np.array_equal(np.sort(everything(plan)), np.arange(rows))


@given(st.integers(0, 100_000), st.integers(0, 2**64))
@settings(max_examples=30, deadline=None)
def test_a_global_shuffle_delivers_every_row_exactly_once(rows, seed):
    assert np.array_equal(np.sort(everything(EpochOrder(rows, seed, 0, "global"))), np.arange(rows))


def test_no_shuffle_is_the_base_order():
    assert np.array_equal(everything(EpochOrder(1000, 5, 3, "none")), np.arange(1000))


# -- one order, however it is asked for ------------------------------------------------------


@given(block_plans(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_position_has_the_same_row_whichever_others_are_asked_with_it(plan, data):
    at = st.integers(0, max(0, plan.rows - 1))
    asked = np.array(data.draw(st.lists(at, max_size=30 if plan.rows else 0)), np.int64)
    assert np.array_equal(plan.rows_at(asked), everything(plan)[asked])


@given(windowed_plans(), st.data())
@settings(max_examples=100, deadline=None)
def test_pieces_of_windows_put_together_are_the_rows_in_sequence(plan, data):
    start = data.draw(st.integers(0, plan.rows))
    stop = data.draw(st.integers(start, plan.rows))
    pieces = plan.pieces_of(np.array([[start, stop]]))[0]
    rows = [plan.window_rows_of(at.window)[at.begin : at.begin + at.count] for at in pieces]
    assert sum(at.count for at in pieces) == stop - start
    assert all(at.count > 0 for at in pieces)
    together = np.concatenate([np.zeros(0, np.int64), *rows])
    assert np.array_equal(together, plan.rows_at(np.arange(start, stop)))


@given(windowed_plans())
@settings(max_examples=60, deadline=None)
def test_locating_a_position_names_the_window_and_the_place_of_its_row(plan):
    windows, places = plan.locate(np.arange(plan.rows))
    rows = everything(plan)
    for window in np.unique(windows):
        here = windows == window
        assert np.array_equal(plan.window_rows_of(int(window))[places[here]], rows[here])


# -- windows ---------------------------------------------------------------------------------


@given(windowed_plans())
@settings(max_examples=100, deadline=None)
def test_windows_share_no_row_and_are_bounded(plan):
    ids, _ = windows_of(plan)
    held = [plan.window_rows_of(int(window)) for window in ids]
    assert np.array_equal(np.sort(np.concatenate([[], *held])), np.arange(plan.rows))
    for window, rows in zip(ids, held, strict=True):
        assert plan.window_size(int(window)) == len(rows)
        if window < plan.tail_window:
            assert len(rows) <= 1.5 * plan.window_rows


@given(windowed_plans())
@settings(max_examples=100, deadline=None)
def test_a_lane_finishes_a_window_before_it_begins_the_next(plan):
    windows, places = plan.locate(np.arange(plan.rows))
    lanes = np.array([plan.lane_of(int(window)) for window in windows])
    for lane in np.unique(lanes):
        mine = lanes == lane
        begins = places[mine] == 0
        assert begins.sum() == len(np.unique(windows[mine]))
        assert np.array_equal(places[mine][1:][~begins[1:]], places[mine][:-1][~begins[1:]] + 1)


@given(block_plans())
@settings(max_examples=100, deadline=None)
def test_the_tail_is_smaller_than_a_block_and_a_chunk_of_each_lane(plan):
    tail = plan.rows - plan.body_rows
    one_window = plan.lanes == 1 and plan.window_rows >= plan.rows
    assert one_window or tail < plan.lanes * (plan.block_rows + plan.chunk) + plan.block_rows


def test_a_window_is_made_of_whole_blocks_of_neighbours():
    plan = EpochOrder(100_000, block_rows=32, window_rows=32 * 64, lanes=4, chunk=8)
    rows = np.sort(plan.window_rows_of(4))
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    assert sum(len(run) for run in runs) == len(rows)
    # The one block that goes around the end of the table may come apart.
    assert sum(len(run) % 32 != 0 for run in runs) <= 2


@pytest.mark.parametrize(("blocks", "share"), [(4, 2), (32, 2), (64, 4), (128, 8), (1024, 8)])
def test_the_windows_of_a_lane_double_until_they_have_their_full_size(blocks, share):
    plan = EpochOrder(10**6, block_rows=8, window_rows=8 * blocks, lanes=32, chunk=8)
    ids, _ = windows_of(plan)
    for lane in range(plan.lanes):
        mine = [int(window) for window in ids if plan.lane_of(int(window)) == lane]
        *sizes, _ = (plan.window_size(window) // 8 for window in mine)
        early = share.bit_length()
        assert blocks // share <= sizes[0] < 2 * blocks // share
        assert sizes[1] - sizes[0] in (0, 1)
        for before, after in itertools.pairwise(sizes[1:early]):
            assert abs(after - 2 * before) <= 1
        assert sum(sizes[:early]) < 2 * blocks
        assert set(sizes[early:]) <= {blocks}


def test_the_last_window_of_a_lane_is_no_smaller_than_half_a_window():
    for rows in range(10**5, 10**5 + 4096, 500):
        plan = EpochOrder(rows, block_rows=8, window_rows=512, lanes=8, chunk=8)
        ids, _ = windows_of(plan)
        sizes = [plan.window_size(int(window)) for window in ids if window < plan.tail_window]
        assert min(sizes[-8:]) >= 512 / 2 - 8


@pytest.mark.parametrize("group", range(4))
def test_the_lanes_of_a_step_come_to_new_windows_at_different_times(group):
    window, lanes, chunk = 2048, 64, 16
    plan = EpochOrder(10**6, block_rows=32, window_rows=window, lanes=lanes, chunk=chunk)
    ids, firsts = windows_of(plan)
    # The lanes of every fourth step, which one of two or four workers reads.
    mine = (ids < plan.tail_window) & (ids % lanes // 16 == group)
    turns = firsts[mine] // (lanes * chunk)
    sizes = np.array([plan.window_size(int(window)) for window in ids[mine]])
    # In an eighth of the time that a window lasts, 16 lanes hand out the rows of 2 windows. All
    # begin in the first turn, and none does in the last half window.
    eighth = window // chunk // 8
    later = (turns > 0) & (turns < plan.lane_rows // chunk - 6 * eighth)
    begun = np.bincount(turns[later] // eighth, sizes[later])[4:-1] / window
    assert len(begun) > 40
    assert begun.max() <= 2.5 * 2
    assert begun[4:].max() <= 2 * 2
    assert begun[4:].min() > 0


# -- orders differ where they should ---------------------------------------------------------


@pytest.mark.parametrize("shuffle", ["block", "global"])
def test_every_epoch_and_every_seed_has_an_order_of_its_own(shuffle):
    sizes = {"block_rows": 8, "window_rows": 64, "lanes": 4, "chunk": 4}
    layout = sizes if shuffle == "block" else {}
    orders = [
        everything(EpochOrder(5000, seed, epoch, shuffle, **layout))
        for seed in (0, 1, -1, 2**64)
        for epoch in (0, 1, 2)
    ]
    for number, one in enumerate(orders):
        for other in orders[:number]:
            assert (one == other).mean() < 0.01


def test_what_fills_no_block_is_not_the_same_in_every_epoch():
    tails = [
        EpochOrder(1007, 0, epoch, block_rows=100, window_rows=500, lanes=2) for epoch in range(20)
    ]
    last_rows = {int(plan.rows_at(np.array([1006]))[0]) for plan in tails}
    assert len(last_rows) > 15


def test_a_table_in_one_window_is_shuffled_as_a_whole():
    plan = layout_plan(1000, 256)
    pieces, _ = plan.pieces_of(np.array([[0, 1000]]))
    assert [plan.lane_of(at.window) for at in pieces] == [plan.lanes]
    distances = np.abs(np.diff(everything(plan)))
    # Two random numbers below n are n / 3 apart on average.
    assert 300 < distances.mean() < 370


GOLDEN_BLOCK = (
    "52 53 26 50 27 54 56 30 32 55 3 41 5 38 40 18 13 11 19 21 29 28 51 0 62 31 33 57 34 35 4 39 "
    "6 58 59 12 14 20 22 23 42 16 7 48 1 25 15 45 37 47 2 43 44 61 36 8 17 10 46 49 60 24 9"
)
GOLDEN_GLOBAL = "16 9 8 1 18 4 12 3 14 15 2 10 5 6 17 19 0 7 11 13"
GOLDEN_HUGE = "277615510316 582466148596 721331242601"


def test_the_order_of_a_seed_never_changes():
    sizes = {"block_rows": 4, "window_rows": 8, "lanes": 4, "chunk": 5}
    block = EpochOrder(63, 7, 2, "block", **sizes)
    assert in_words(everything(block)) == GOLDEN_BLOCK
    assert in_words(everything(EpochOrder(20, 7, 2, "global"))) == GOLDEN_GLOBAL
    assert in_words(EpochOrder(10**12, 7, 2, "global").rows_at(np.arange(3))) == GOLDEN_HUGE


def test_the_picture_in_the_docstring_is_true():
    plan = EpochOrder(26, 0, 0, "block", block_rows=4, window_rows=8, lanes=2, chunk=2)
    drawn = re.search(r"sequence([ \d]+)\n", plan_module.__doc__)
    assert [int(number) for number in drawn[1].split()] == everything(plan).tolist()
    held = [in_words(plan.window_rows_of(int(window))) for window in windows_of(plan)[0]]
    drawn = re.findall(r"window \[([ \d]+)\]", plan_module.__doc__)
    assert sorted(drawn) == sorted(held[:-1])


# -- cost ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [BILLION, 10**12])
@pytest.mark.parametrize("shuffle", ["block", "global"])
def test_planning_a_huge_table_takes_memory_for_what_is_asked_only(rows, shuffle):
    layout = auto_layout(rows, 524, 256, shuffle)
    asked = np.concatenate([np.arange(4096), np.arange(rows // 2, rows // 2 + 4096), [rows - 1]])
    tracemalloc.start()
    plan = EpochOrder(rows, 1, 1, shuffle, **vars(layout))
    found = plan.rows_at(asked)
    span = np.array([[rows // 3, rows // 3 + 256]])
    pieces = plan.pieces_of(span)[0] if plan.has_windows else ()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(found)) == len(asked)
    assert found.min() >= 0
    assert found.max() < rows
    assert sum(at.count for at in pieces) in (0, 256)
    assert peak < 20 * 2**20


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows", "epoch", "block_rows", "window_rows", "lanes", "chunk"])
@pytest.mark.parametrize("value", [-1, 1.0, True, None, "8"])
def test_what_is_no_whole_number_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number"):
        EpochOrder(**{"rows": 10, name: value})


@pytest.mark.parametrize("name", ["block_rows", "window_rows", "lanes", "chunk"])
def test_sizes_of_zero_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number from 1 on, not 0"):
        EpochOrder(**{"rows": 10, name: 0})


def test_a_window_of_broken_blocks_and_an_unknown_order_are_refused():
    with pytest.raises(ValueError, match="window_rows=10 must be a multiple of block_rows=4"):
        EpochOrder(100, block_rows=4, window_rows=10)
    with pytest.raises(ValueError, match=r"shuffle must be one of .*not 'sideways'"):
        EpochOrder(100, shuffle="sideways")
    with pytest.raises(ValueError, match=r"seed must be a whole number, not 0\.5"):
        EpochOrder(100, seed=0.5)


def test_numpy_integers_give_the_same_order_as_python_ones():
    sizes = {"block_rows": 4, "window_rows": 40, "lanes": 3, "chunk": 2}
    sixtyfour = {name: np.int64(value) for name, value in sizes.items()}
    expected = everything(EpochOrder(500, 2**40, 1, **sizes))
    plan = EpochOrder(np.int64(500), np.int64(2**40), np.int32(1), **sixtyfour)
    assert np.array_equal(everything(plan), expected)
