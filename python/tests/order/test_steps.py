# SPDX-License-Identifier: Apache-2.0
"""Who takes which rows when: ranks and workers share an epoch, evenly, exactly, resumably."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.epoch_order import EpochOrder
from lancedb.integrations._torch.order.layout import auto_layout
from lancedb.integrations._torch.order.steps import Steps

SIZES = {"block_rows": 4, "window_rows": 24, "lanes": 6, "chunk": 3}
BATCHES = st.sampled_from([1, 2, 3, 7, 16, 33, 100, 256])
RANKS = st.integers(1, 8)
WORKERS = st.integers(0, 8)


@st.composite
def topologies(draw, most_rows=100_000):
    """An epoch's steps, with enough rows that every rank has one where none may be dropped."""
    rows, world_size = draw(st.integers(0, most_rows)), draw(RANKS)
    drop_last = draw(st.booleans())
    assume(drop_last or rows == 0 or rows >= world_size)
    return Steps(rows, draw(BATCHES), world_size, drop_last)


def slices(steps, num_workers=0):
    """Per rank, the positions of its steps in the order in which they are delivered."""
    workers = max(1, num_workers)
    made = [list(range(worker, steps.num_steps, workers)) for worker in range(workers)]
    in_turn = [step for turn in range(steps.num_steps) for step in take(made, turn)]
    return [[steps.slice_of(step, rank) for step in in_turn] for rank in range(steps.world_size)]


def take(made, turn):
    return [steps[turn] for steps in made if turn < len(steps)]


def delivered(steps, num_workers=0):
    """The positions that all ranks together deliver, ascending."""
    spans = [span for rank in slices(steps, num_workers) for span in rank]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *(np.arange(*span) for span in spans)]))


# -- coverage and equal steps ----------------------------------------------------------------


@given(topologies(), WORKERS)
@settings(max_examples=60, deadline=None)
def test_every_position_is_delivered_once_and_fewer_than_a_step_left_out(steps, num_workers):
    got = delivered(steps, num_workers)
    assert np.array_equal(got, np.arange(len(got)))
    left_out = steps.rows - len(got)
    assert 0 <= left_out < steps.global_batch
    assert left_out == 0 or steps.drop_last


@given(topologies())
@settings(max_examples=100, deadline=None)
def test_every_rank_makes_the_same_number_of_steps_and_none_is_empty(steps):
    by_rank = slices(steps)
    assert {len(rank) for rank in by_rank} == {steps.num_steps}
    for spans in zip(*by_rank, strict=True):
        counts = [stop - start for start, stop in spans]
        assert min(counts) >= 1
        assert max(counts) - min(counts) <= 1
        assert max(counts) <= steps.batch_size + 1


@given(topologies(most_rows=3000))
@settings(max_examples=60, deadline=None)
def test_all_steps_but_the_last_are_full(steps):
    for rank in slices(steps):
        assert all(stop - start == steps.batch_size for start, stop in rank[:-1])
        if steps.drop_last:
            assert all(stop - start == steps.batch_size for start, stop in rank)


@pytest.mark.parametrize(
    ("rows", "batch_size", "world_size", "last_step"),
    [
        (10, 2, 2, [(8, 9), (9, 10)]),
        (11, 2, 2, [(8, 10), (10, 11)]),
        # One row is fewer than two ranks: it joins the step before.
        (9, 2, 2, [(4, 7), (7, 9)]),
        (8, 2, 2, [(4, 6), (6, 8)]),
        (3, 100, 3, [(0, 1), (1, 2), (2, 3)]),
        (7, 1, 4, [(0, 2), (2, 4), (4, 6), (6, 7)]),
    ],
)
def test_a_short_last_step_is_dealt_evenly(rows, batch_size, world_size, last_step):
    steps = Steps(rows, batch_size, world_size, drop_last=False)
    got = [steps.slice_of(steps.num_steps - 1, rank) for rank in range(world_size)]
    assert got == last_step


def test_no_rows_make_no_steps():
    assert Steps(0, 10, 4, drop_last=False).num_steps == 0
    assert Steps(0, 10, 4, drop_last=True).num_steps == 0


@pytest.mark.parametrize(("rows", "start"), [(3, 0), (100, 97)])
def test_fewer_rows_than_ranks_are_refused_with_both_numbers(rows, start):
    with pytest.raises(ValueError, match=r"3 rows .*among 4 ranks.*at most 3 ranks"):
        Steps(rows, 10, 4, drop_last=False, start=start)
    assert Steps(rows, 10, 4, drop_last=True, start=start).num_steps == 0


# -- the same batches whatever the topology --------------------------------------------------


@pytest.mark.parametrize("shuffle", ["none", "block", "global"])
@given(st.integers(48, 20_000), st.integers(1, 3), st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_global_step_holds_the_same_rows_on_any_number_of_ranks(shuffle, rows, times, drop_last):
    layout = SIZES if shuffle == "block" else {}
    order = EpochOrder(rows, 1, 1, shuffle, **layout).rows_at(np.arange(rows))
    global_batch = 24 * times
    held = []
    for world_size in (1, 2, 3, 4, 6, 8):
        steps = Steps(rows, global_batch // world_size, world_size, drop_last)
        by_step = zip(*slices(steps, num_workers=3), strict=True)
        held.append([set(np.concatenate([order[slice(*span)] for span in at])) for at in by_step])
    # A remainder smaller than the ranks joins the step before it, so that the end may differ.
    shared = rows // global_batch - 1
    assert all(one[:shared] == held[0][:shared] for one in held)
    assert all(set().union(*one) == set().union(*held[0]) for one in held)


# -- resume ----------------------------------------------------------------------------------


@given(topologies(most_rows=20_000), BATCHES, RANKS, WORKERS, st.data())
@settings(max_examples=100, deadline=None)
def test_the_rest_of_an_epoch_is_delivered_exactly_on_other_ranks_and_workers(
    steps, batch_size, world_size, num_workers, data
):
    done = data.draw(st.integers(0, steps.num_steps))
    position = steps.span_of(done - 1)[1] if done else 0
    left = steps.rows - position
    assume(steps.drop_last or left == 0 or left >= world_size)
    resumed = Steps(steps.rows, batch_size, world_size, steps.drop_last, start=position)
    got = delivered(resumed, num_workers)
    assert np.array_equal(got, position + np.arange(len(got)))
    left_out = left - len(got)
    assert 0 <= left_out < resumed.global_batch
    assert left_out == 0 or steps.drop_last


@given(topologies(most_rows=5000), st.data())
@settings(max_examples=60, deadline=None)
def test_resuming_on_as_many_ranks_goes_on_with_the_very_steps(steps, data):
    assume(steps.num_steps)
    done = data.draw(st.integers(1, steps.num_steps))
    resumed = Steps(
        steps.rows,
        steps.batch_size,
        steps.world_size,
        steps.drop_last,
        start=steps.span_of(done - 1)[1],
    )
    assert [rank[done:] for rank in slices(steps)] == slices(resumed)


@given(topologies(most_rows=5000))
@settings(max_examples=60, deadline=None)
def test_the_position_after_a_step_is_what_has_been_delivered(steps):
    ends = [steps.span_of(step)[1] for step in range(steps.num_steps)]
    for spans, end in zip(zip(*slices(steps), strict=True), ends, strict=True):
        assert spans[-1][1] == end
    if not steps.drop_last and steps.rows:
        assert ends[-1] == steps.rows


# -- what each process reads -----------------------------------------------------------------


@pytest.mark.parametrize(("rows", "global_batch"), [(300_000, 64), (300_000, 256), (10**6, 1000)])
def test_each_rank_and_worker_reads_windows_of_its_own(rows, global_batch):
    plan = EpochOrder(rows, **vars(auto_layout(rows, 524, global_batch, "block")))
    windows, _ = plan.locate(np.arange(rows))
    sizes = np.bincount(windows)
    # Of the tail each reads its own rows (test_schedule.py), and of a lane whole windows.
    in_lane = windows < plan.tail_window
    tail_rows = rows - np.count_nonzero(in_lane)
    for world_size in (1, 2, 4, 8):
        for num_workers in (1, 2, 4):
            steps = Steps(rows, global_batch // world_size, world_size, drop_last=False)
            process = process_of_each_position(steps, num_workers)
            read = np.unique((windows * 32 + process)[in_lane]) // 32
            assert sizes[read].sum() + tail_rows <= 1.1 * rows


@pytest.mark.parametrize(("world_size", "num_workers"), [(3, 1), (1, 3), (5, 6)])
def test_ranks_and_workers_that_share_lanes_read_more_and_deliver_the_same(world_size, num_workers):
    plan = EpochOrder(2000, **SIZES)
    steps = Steps(plan.rows, 12, world_size, drop_last=False)
    rows = plan.rows_at(delivered(steps, num_workers))
    assert np.array_equal(np.sort(rows), np.arange(plan.rows))


def process_of_each_position(steps, num_workers):
    """The number of the process, over all ranks and workers, that delivers each position."""
    step, within = np.divmod(np.arange(steps.rows), steps.global_batch)
    return step % num_workers * steps.world_size + within // steps.batch_size
