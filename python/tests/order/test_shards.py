# SPDX-License-Identifier: Apache-2.0
"""Canonical shards: every row in one of them, lanes of their own, sizes even for ever."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.epoch_order import EpochOrder
from lancedb.integrations._torch.order.layout import auto_layout
from lancedb.integrations._torch.order.shards import (
    Shards,
    canonical_shards,
    epoch_at,
    rows_before,
)

COUNTS = st.sampled_from([1, 2, 4, 8, 64])


@st.composite
def sharded(draw, most_rows=3000):
    count, block = draw(COUNTS), draw(st.integers(1, 40))
    plan = EpochOrder(
        rows=draw(st.integers(0, most_rows)),
        seed=draw(st.integers(0, 2**64)),
        epoch=draw(st.integers(0, 99)),
        shuffle=draw(st.sampled_from(["block", "block", "global", "none"])),
        block_rows=block,
        window_rows=block * draw(st.integers(1, 30)),
        lanes=count * draw(st.integers(1, 4)),
        chunk=draw(st.integers(1, 20)),
    )
    return Shards(plan, count)


def rows_of(shards, shard):
    return shards.rows_at(shard, np.arange(shards.sizes[shard]))


def row_by_row(shards):
    """The rows of each shard, assigned as the module says: by lanes, then the tail in turn."""
    plan, count = shards.plan, shards.count
    sequence = plan.rows_at(np.arange(plan.rows)).tolist()
    lanes, lane_rows = plan.lanes, plan.lane_rows
    if not plan.has_windows:
        lanes, lane_rows = count, plan.rows // (count * plan.chunk) * plan.chunk
    assigned, body = [[] for _ in range(count)], lanes * lane_rows
    for position in range(body):
        assigned[position // plan.chunk % lanes % count].append(sequence[position])
    for place, row in enumerate(sequence[body:], plan.epoch * (plan.rows - body)):
        assigned[place % count].append(row)
    return assigned


@given(sharded(most_rows=600), st.data())
@settings(max_examples=60, deadline=None)
def test_windows_say_how_many_of_their_rows_come_before_a_place(shards, data):
    if not shards.plan.has_windows:
        return
    shard = data.draw(st.integers(0, shards.count - 1))
    size = int(shards.sizes[shard])
    pieces, _ = shards.pieces_of(shard, [(0, size)])
    windows = pieces.windows_of_rows()
    assert {shards.shard_of(window) for window in windows.tolist()} <= {shard}
    for index in (0, size, size + 5, data.draw(st.integers(0, size))):
        for window in set(windows.tolist()):
            before = np.count_nonzero(windows[:index] == window)
            assert shards.in_window_before(window, index) == before


def test_a_step_has_the_largest_power_of_two_that_divides_it():
    assert [canonical_shards(rows) for rows in (1, 2, 12, 256, 1000)] == [1, 2, 4, 8, 8]
    assert [canonical_shards(rows) for rows in (1008, 1040, 1056, 1024, 4096)] == [
        8,
        16,
        32,
        64,
        64,
    ]


@given(sharded())
@settings(max_examples=150, deadline=None)
def test_rows_are_assigned_by_lanes_and_the_tail_in_turn(shards):
    assert [rows_of(shards, s).tolist() for s in range(shards.count)] == row_by_row(shards)


@given(sharded())
@settings(max_examples=100, deadline=None)
def test_every_row_is_in_one_shard(shards):
    rows = np.concatenate([rows_of(shards, shard) for shard in range(shards.count)])
    assert np.array_equal(np.sort(rows), np.arange(shards.plan.rows))


@given(st.integers(1, 500), COUNTS, st.integers(0, 200))
def test_sizes_over_all_epochs_differ_by_one_row_at_most(rows, count, epoch):
    sizes = [
        Shards(EpochOrder(rows, epoch=e, shuffle="none"), count).sizes for e in range(epoch + 1)
    ]
    totals = np.sum(sizes, axis=0)
    assert totals.sum() == (epoch + 1) * rows
    assert totals.max() - totals.min() <= 1
    assert totals.tolist() == rows_before(rows, count, np.arange(count), epoch + 1).tolist()


@given(st.integers(1, 500), COUNTS, st.data())
def test_rows_counted_through_all_epochs_have_the_epoch_in_which_they_come(rows, count, data):
    shard = data.draw(st.integers(0, count - 1))
    ends = [rows_before(rows, count, shard, epoch) for epoch in range(20)]
    expected = [
        epoch for epoch, (a, b) in enumerate(itertools.pairwise(ends)) for _ in range(b - a)
    ]
    assert epoch_at(rows, count, shard, np.arange(len(expected))).tolist() == expected


@given(sharded().filter(lambda shards: shards.plan.has_windows), st.data())
@settings(max_examples=60, deadline=None)
def test_windows_deliver_the_rows_of_a_shard_in_its_order(shards, data):
    shard = data.draw(st.integers(0, shards.count - 1))
    size = int(shards.sizes[shard])
    spans = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for _ in range(3)]
    pieces, counts = shards.pieces_of(shard, np.array(spans))
    assert counts.sum() == len(pieces)
    numbers = np.repeat(np.repeat(np.arange(3), counts), pieces.counts)
    windows = np.repeat(pieces.windows, pieces.counts)
    got = [[] for _ in spans]
    for span, window, index in zip(numbers, windows, pieces.indices(), strict=True):
        assert index < shards.window_size(int(window))
        got[span].append(int(shards.window_rows_of(int(window))[index]))
    assert got == [shards.rows_at(shard, np.arange(*span)).tolist() for span in spans]


@given(sharded().filter(lambda shards: shards.plan.has_windows))
@settings(max_examples=60, deadline=None)
def test_no_two_shards_share_a_window_or_a_lane(shards):
    seen = {}
    for shard in range(shards.count):
        pieces, _ = shards.pieces_of(shard, np.array([[0, shards.sizes[shard]]]))
        for window in np.unique(pieces.windows).tolist():
            assert seen.setdefault(window, shard) == shard
            assert seen.setdefault(("lane", shards.lane_of(window)), shard) == shard


@pytest.mark.parametrize("global_batch", [8, 100, 256, 1024, 4096])
def test_automatic_layouts_have_lanes_for_every_shard(global_batch):
    for rows, row_bytes in itertools.product([1, 1000, 10**6, 10**9], [4, 524, 10**5]):
        layout = auto_layout(rows, row_bytes, global_batch, "block")
        plan = EpochOrder(rows, **vars(layout))
        sizes = Shards(plan, canonical_shards(global_batch)).sizes
        assert sizes.sum() == rows
        assert sizes.max() - sizes.min() <= 1


def test_a_billion_rows_are_looked_up_without_being_listed():
    layout = auto_layout(10**9, 524, 1024, "block")
    shards = Shards(EpochOrder(10**9, seed=1, epoch=10**12, **vars(layout)), 64)
    size = int(shards.sizes[63])
    rows = shards.rows_at(63, np.array([0, size // 2, size - 1]))
    assert len(set(rows.tolist())) == 3
    pieces, _ = shards.pieces_of(63, np.array([[size - 5000, size]]))
    assert pieces.counts.sum() == 5000


def test_lanes_that_cannot_be_assigned_evenly_are_refused():
    plan = EpochOrder(1000, block_rows=4, window_rows=16, lanes=6)
    with pytest.raises(ValueError, match=r"lanes=6 must be a multiple of 4"):
        Shards(plan, 4)
