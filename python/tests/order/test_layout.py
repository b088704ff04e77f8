# SPDX-License-Identifier: Apache-2.0
"""The layout chosen for a table: within its budget, aligned, and following what is given."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.epoch_order import EpochOrder
from lancedb.integrations._torch.order.layout import (
    ONE_WINDOW_BYTES,
    WINDOWS_BYTES,
    WINDOWS_ROWS,
    Layout,
    auto_chunk,
    auto_layout,
    times_read,
)
from lancedb.integrations._torch.order.steps import Steps


@given(st.integers(0, 10**12), st.integers(1, 10**7), st.integers(1, 10**5))
@settings(max_examples=300)
def test_every_layout_makes_a_plan_and_keeps_windows_within_the_budget(rows, row_bytes, batch):
    layout = auto_layout(rows, row_bytes, batch, "block")
    EpochOrder(rows, **vars(layout))
    window_bytes = layout.window_rows * layout.lanes * row_bytes
    one_block_each = layout.lanes * layout.block_rows * row_bytes
    # A batch has to be held in any case, and so has one block of each lane.
    assert window_bytes <= max(WINDOWS_BYTES, one_block_each)
    if (layout.block_rows, layout.lanes) == (1, 1) and layout.window_rows > 1:
        assert rows * row_bytes <= ONE_WINDOW_BYTES


@pytest.mark.parametrize("batch", [8, 24, 32, 100, 256, 1000, 1024, 4096])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ranks_cut_a_step_between_chunks(batch, ranks):
    if batch % ranks == 0:
        assert batch // ranks % auto_chunk(batch) == 0


@pytest.mark.parametrize("batch", [37, 101, 163, 254, 313, 4099])
def test_steps_that_no_chunk_divides_come_round_to_the_first_lane(batch):
    assert auto_chunk(batch) == 1
    layout = auto_layout(10**6, 524, batch, "block")
    assert layout.chunk > 1
    assert layout.lanes * layout.chunk % batch == 0


@given(st.integers(0, 10**12), st.integers(1, 500), st.sampled_from([1, 8, 256, 2048]))
def test_windows_of_small_rows_are_bounded_by_rows(rows, row_bytes, batch):
    layout = auto_layout(rows, row_bytes, batch, "block")
    assert layout.lanes * layout.window_rows <= max(WINDOWS_ROWS, 1024 * batch)


def test_rows_of_a_few_bytes_have_the_windows_of_wider_ones():
    assert auto_layout(10**7, 20, 256, "block") == Layout(64, 8_192, 32, 32)
    assert auto_layout(10**7, 524, 256, "block") == Layout(64, 8_192, 32, 32)


def lanes_of_worker(plan, batch, worker, workers):
    """Of how many lanes a worker reads windows."""
    steps = Steps(plan.rows, batch)
    mine = range(worker, steps.num_steps, workers)
    pieces, _ = plan.pieces_of(np.array([steps.slice_of(step, 0) for step in mine]))
    return len(np.unique(pieces.windows[pieces.windows < plan.tail_window] % plan.lanes))


@pytest.mark.parametrize("batch", [163, 256])
@pytest.mark.parametrize("workers", range(1, 9))
def test_blocks_are_read_as_often_as_is_said(batch, workers):
    layout = auto_layout(100_000, 2000, batch, "block")
    plan = EpochOrder(100_000, **vars(layout))
    read = sum(lanes_of_worker(plan, batch, worker, workers) for worker in range(workers))
    # Where a step begins within a chunk, two workers share a lane at its edge.
    assert 1 <= read / plan.lanes / times_read(layout, batch, workers) <= 1.1


def test_large_steps_do_not_make_one_window_of_a_large_table():
    assert auto_layout(60_000, 524, 2**15, "block") == Layout(1, 60_000, 1, 1)
    assert auto_layout(10**6, 524, 2**15, "block") == Layout(8, 496, 1024, 32)


def test_large_rows_need_no_windows():
    assert auto_layout(10**6, 200_000, 256, "block") == Layout(1, 1, 1, 1)


@pytest.mark.parametrize("shuffle", ["none", "global"])
def test_orders_without_blocks_have_no_layout(shuffle):
    assert auto_layout(10**6, 524, 256, shuffle) == Layout(1, 1, 1, 1)


@pytest.mark.parametrize(
    "given_sizes",
    [
        {"block_rows": 10},
        {"lanes": 7},
        {"window_rows": 4096},
        {"block_rows": 10, "window_rows": 500, "lanes": 3},
        {"block_rows": 1, "lanes": 5},
    ],
)
@pytest.mark.parametrize("rows", [100, 10**6])
def test_what_is_given_wins(rows, given_sizes):
    layout = auto_layout(rows, 524, 256, "block", **given_sizes)
    EpochOrder(rows, **vars(layout))
    assert {name: getattr(layout, name) for name in given_sizes} == given_sizes


@pytest.mark.parametrize("name", ["block_rows", "window_rows", "lanes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many", None])
def test_what_is_no_size_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be 'auto' or a whole number from 1 on"):
        auto_layout(1000, 524, 256, "block", **{name: value})
