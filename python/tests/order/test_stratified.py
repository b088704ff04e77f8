# SPDX-License-Identifier: Apache-2.0
"""The order in which blocks are assigned to lanes: all of them, and from everywhere at any time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.stratified import spread

KEYS = st.integers(0, 2**64 - 1)
SIZES = st.tuples(st.integers(0, 3000), st.integers(1, 12), st.integers(1, 40), KEYS)


def numbers_of(lane, lanes, first, count):
    """The numbers of the blocks that a lane is assigned, from its block number `first` on."""
    return (np.arange(first, first + count)) * lanes + lane


@given(SIZES)
@settings(max_examples=200)
def test_every_block_is_assigned_exactly_once(sizes):
    blocks, lanes, window_blocks, key = sizes
    order = spread(np.arange(blocks), blocks, lanes, window_blocks, key)
    assert np.array_equal(np.sort(order), np.arange(blocks))


@given(SIZES, st.data())
@settings(max_examples=100)
def test_a_block_is_assigned_at_the_same_time_whichever_others_are_asked_for(sizes, data):
    blocks, lanes, window_blocks, key = sizes
    order = spread(np.arange(blocks), blocks, lanes, window_blocks, key)
    asked = np.array(data.draw(st.lists(st.integers(0, max(0, blocks - 1)), max_size=20)), int)
    asked = asked[asked < blocks]
    assert np.array_equal(spread(asked, blocks, lanes, window_blocks, key), order[asked])


@pytest.mark.parametrize("first", [0, 5, 24, 40])
@pytest.mark.parametrize("lane", [0, 3, 7])
def test_blocks_that_a_lane_is_assigned_in_a_row_are_from_equal_parts_of_the_table(lane, first):
    lanes, window_blocks, blocks = 8, 24, 8 * 24 * 5
    found = spread(numbers_of(lane, lanes, first, window_blocks), blocks, lanes, window_blocks, 7)
    assert sorted(found * window_blocks // blocks) == list(range(window_blocks))


@pytest.mark.parametrize("count", [3, 6, 12])
def test_even_a_part_of_a_window_is_spread_over_the_table(count):
    lanes, window_blocks, blocks = 4, 48, 4 * 48 * 20
    for lane in range(lanes):
        for first in (0, 20, 100):
            assigned = numbers_of(lane, lanes, first, count)
            found = np.sort(spread(assigned, blocks, lanes, window_blocks, 3))
            gaps = np.diff([*found, found[0] + blocks])
            assert gaps.max() <= 2.8 * blocks / count


@pytest.mark.parametrize("rounds", [1, 2, 5, 12, 23])
@pytest.mark.parametrize(("lanes", "window_blocks"), [(8, 24), (24, 24), (7, 24), (48, 24)])
def test_what_all_lanes_are_assigned_first_is_spread_over_the_table(lanes, window_blocks, rounds):
    blocks = lanes * window_blocks * 5
    found = spread(np.arange(rounds * lanes), blocks, lanes, window_blocks, 9)
    of_part = np.bincount(found * window_blocks // blocks, minlength=window_blocks)
    assert of_part.max() - of_part.min() <= 1 + lanes // window_blocks


@pytest.mark.parametrize("window_blocks", [100, 101, 5000])
def test_a_window_larger_than_what_a_lane_is_assigned_is_spread_over_the_table(window_blocks):
    lanes, blocks = 10, 1000
    for lane in range(lanes):
        found = spread(numbers_of(lane, lanes, 0, 100), blocks, lanes, window_blocks, 2)
        assert sorted(found * 100 // blocks) == list(range(100))


@pytest.mark.parametrize("rest", [0, 1, 95])
def test_all_lanes_together_are_assigned_one_block_of_each_stratum(rest):
    lanes, window_blocks = 6, 16
    strata = lanes * window_blocks
    blocks = 10 * strata + rest
    edges = np.arange(strata + 1) * blocks // strata
    for number in range(10):
        assigned = np.arange(number * strata, (number + 1) * strata)
        found = np.sort(spread(assigned, blocks, lanes, window_blocks, 11))
        assert np.array_equal(np.searchsorted(edges, found, "right") - 1, np.arange(strata))


def test_what_is_left_of_a_round_is_spread_over_the_table_too():
    lanes, window_blocks, blocks = 4, 32, 3 * 4 * 32 + 60
    last = spread(np.arange(3 * 4 * 32, blocks), blocks, lanes, window_blocks, 5)
    counts = np.bincount(last * 10 // blocks, minlength=10)
    assert counts.min() >= 5
    assert counts.max() <= 7


def test_lanes_next_to_each_other_are_not_assigned_neighbours():
    lanes, window_blocks, blocks = 32, 128, 15_625
    one, other = (
        spread(numbers_of(lane, lanes, 0, 128), blocks, lanes, window_blocks, 1) for lane in (4, 5)
    )
    nearest = np.abs(one[:, None] - other[None, :]).min(axis=1)
    # Of 128 random blocks out of 15,625 the nearest is 61 away on average.
    assert nearest.mean() > 20


def test_each_key_has_an_order_of_its_own():
    orders = [spread(np.arange(2000), 2000, 4, 16, key) for key in range(10)]
    for number, one in enumerate(orders):
        assert all((one == other).mean() < 0.05 for other in orders[:number])


def test_a_block_comes_at_any_time_of_the_epoch():
    times = [
        int(np.flatnonzero(spread(np.arange(1000), 1000, 4, 10, key) == 500)[0])
        for key in range(200)
    ]
    counts = np.bincount(np.array(times) // 100, minlength=10)
    assert counts.min() >= 6
    assert counts.max() <= 38


@given(st.integers(10**9, 10**13), st.integers(1, 4096), st.integers(1, 4096), KEYS)
@settings(max_examples=50)
def test_no_two_of_a_huge_table_collide_and_none_leaves_it(blocks, lanes, window_blocks, key):
    assigned = np.unique(
        [*range(500), *range(blocks - 500, blocks), *range(blocks // 2, blocks // 2 + 9)]
    )
    found = spread(assigned, blocks, lanes, window_blocks, key)
    assert len(np.unique(found)) == len(assigned)
    assert found.min() >= 0
    assert found.max() < blocks
