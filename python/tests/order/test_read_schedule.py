# SPDX-License-Identifier: Apache-2.0
"""What a worker reads, in which order: every step's rows are there in time and no longer."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.epoch_order import EpochOrder
from lancedb.integrations._torch.order.layout import auto_layout
from lancedb.integrations._torch.order.read_schedule import rows_of, schedule
from lancedb.integrations._torch.order.steps import Steps
from lancedb.integrations._torch.order.window_slices import WindowSlices, divided, runs

LAYOUTS = {
    "none": {},
    "global": {},
    "block": {"block_rows": 4, "window_rows": 32, "lanes": 6, "chunk": 3},
}


def spans_of(rows, batch_size, worker=0, workers=1):
    steps = Steps(rows, batch_size, drop_last=False)
    return [steps.slice_of(step, 0) for step in range(worker, steps.num_steps, workers)]


@pytest.mark.few(1)
@pytest.mark.parametrize("shuffle", list(LAYOUTS))
@given(st.integers(1, 3000), st.integers(1, 200), st.integers(1, 4), st.integers(1, 500), st.data())
@settings(max_examples=40)
def test_every_step_is_made_of_what_was_read_before_it(
    shuffle, rows, batch_size, workers, read_rows, data
):
    plan = EpochOrder(rows, 1, 2, shuffle, **LAYOUTS[shuffle])
    worker = data.draw(st.integers(0, workers - 1))
    spans = spans_of(rows, batch_size, worker, workers)
    open_windows, made = {}, []
    for group in schedule(plan, spans, read_rows):
        for window in itertools.chain(*group.reads):
            assert window.window not in open_windows
            open_windows[window.window] = rows_of(plan, window)
            assert len(open_windows[window.window]) == window.size
        pieces = iter(group.pieces)
        for step in group.steps:
            of_step = itertools.islice(pieces, step.pieces)
            made.append(
                np.concatenate(
                    [open_windows[at.window][at.begin : at.begin + at.count] for at in of_step]
                )
            )
            assert len(made[-1]) == step.rows
            for window in step.spent:
                del open_windows[window]
        assert next(pieces, None) is None
    for got, span in zip(made, spans, strict=True):
        assert np.array_equal(got, plan.rows_at(np.arange(*span)))


def test_of_the_tail_a_worker_reads_its_own_rows_in_a_few_windows():
    plan = EpochOrder(100_000, block_rows=64, window_rows=384, lanes=652, chunk=1)
    tail = plan.rows - plan.body_rows
    assert tail > 10_000
    spans = spans_of(plan.rows, 163, worker=1, workers=3)
    reads = [read for group in schedule(plan, spans, 4096) for read in group.reads]
    windows = [window for read in reads for window in read if window.spans]
    wanted = sum(max(0, stop - max(start, plan.body_rows)) for start, stop in spans)
    assert sum(window.size for window in windows) == wanted
    assert len(windows) <= 1 + wanted // 2048


def test_reads_are_large_but_for_the_first_ones():
    plan = EpochOrder(100_000, shuffle="global")
    groups = list(schedule(plan, spans_of(100_000, 100), read_rows=5000))
    sizes = [window.size for group in groups for read in group.reads for window in read]
    assert sizes[0] == 100
    assert all(size >= 5000 for size in sizes[7:-1])


def test_an_epoch_of_a_billion_rows_begins_at_once():
    plan = EpochOrder(10**9, **vars(auto_layout(10**9, 524, 256, "block")))
    steps, asked = Steps(10**9, 256), itertools.count()
    spans = (steps.slice_of(step, 0) for step in range(steps.num_steps) if next(asked) >= 0)
    assert next(schedule(plan, spans, 16_384)).steps
    assert next(asked) < 10


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(1, 4)), max_size=20))
def test_joined_pieces_have_the_same_rows_and_no_two_could_be_one(of_each):
    pieces = WindowSlices(*np.array(of_each, np.int64).reshape(-1, 3).T)
    joined = pieces.joined()
    assert np.array_equal(joined.indices(), pieces.indices())
    for apart in (joined, pieces):
        windows = np.repeat(apart.windows, apart.counts)
        assert np.array_equal(windows, np.repeat(pieces.windows, pieces.counts))
    for one, other in itertools.pairwise(joined):
        assert other[:2] != (one.window, one.begin + one.count)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=20), st.integers(1, 9))
def test_divided_spans_are_what_they_were_and_no_part_crosses_a_multiple(ends, unit):
    starts, stops = np.sort(np.array(ends, np.int64).reshape(-1, 2)).T
    owners, begins, finishes = divided(starts, stops, unit)
    assert np.array_equal(runs(begins, finishes - begins), runs(starts, stops - starts))
    assert np.array_equal(
        np.repeat(owners, finishes - begins), np.repeat(np.arange(len(starts)), stops - starts)
    )
    assert np.array_equal(begins // unit, (finishes - 1) // unit)
