# SPDX-License-Identifier: Apache-2.0
"""Rows drawn in proportion to weights: how often, how evenly, and where in the sequence."""

import math
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lancedb.integrations._torch.order.epoch_order import EpochOrder
from lancedb.integrations._torch.order.weighted import cumulative, drawn

WEIGHTS = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-300, 1e300), st.integers(1, 100).map(float)),
    min_size=1,
    max_size=60,
).filter(any)


class Draws:
    def __init__(self, weights, points):
        self.ends = cumulative(np.array(weights, float), points)

    def rows(self, points, seed, epoch):
        return drawn(self.ends, points, seed, epoch)


@given(WEIGHTS, st.integers(1, 500), st.integers(0, 2**70), st.integers(0, 10**6))
@example([0.0, 1.0, 0.0], 7, 0, 0)
@example([1e-300, 1e300], 3, 1, 2)
def test_each_row_comes_as_often_as_is_expected_up_to_one(weights, points, seed, epoch):
    rows = drawn(cumulative(np.array(weights), points), np.arange(points), seed, epoch)
    expected = np.array(weights) / max(weights)
    expected *= points / math.fsum(expected)
    counts = np.bincount(rows, minlength=len(weights))
    assert (np.abs(counts - expected) < 1 + 1e-9 * points).all()
    assert (counts[np.array(weights) == 0] == 0).all()


@given(WEIGHTS, st.integers(1, 300), st.integers(0, 99), st.randoms(use_true_random=False))
def test_a_point_draws_the_same_row_whatever_it_is_asked_with(weights, points, epoch, random):
    ends = cumulative(np.array(weights), points)
    all_rows = drawn(ends, np.arange(points), 3, epoch)
    some = np.array([random.randrange(points) for _ in range(20)])
    assert drawn(ends, some, 3, epoch).tolist() == all_rows[some].tolist()


def test_rare_rows_come_in_turn_over_the_epochs():
    weights = np.r_[np.ones(99), np.full(10, 0.1)]
    ends = cumulative(weights, 100)
    counts = np.zeros(len(weights))
    for epoch in range(100):
        counts += np.bincount(drawn(ends, np.arange(100), 0, epoch), minlength=len(weights))
    assert np.abs(counts - weights * 100).max() <= 2


@pytest.mark.parametrize(
    "layout",
    [
        {"shuffle": "none"},
        {"shuffle": "global"},
        {"shuffle": "block", "block_rows": 8, "window_rows": 64, "lanes": 4, "chunk": 2},
    ],
    ids=lambda layout: layout["shuffle"],
)
def test_an_order_is_that_of_its_points(layout):
    draws = Draws(np.arange(300) % 5, 1000)
    points = EpochOrder(1000, seed=7, epoch=3, **layout)
    plan = EpochOrder(1000, seed=7, epoch=3, draws=draws, **layout)
    positions = np.arange(1000)
    assert (plan.rows_at(positions) == draws.rows(points.rows_at(positions), 7, 3)).all()
    assert plan == points  # also where it is cached
    if plan.has_windows:
        window = int(plan.locate(positions)[0][500])
        expected = draws.rows(points.window_rows_of(window), 7, 3)
        assert (plan.window_rows_of(window) == expected).all()


@pytest.mark.parametrize("shuffle", ["global", "block"])
def test_draws_of_one_row_are_spread_over_the_epoch(shuffle):
    weights = np.ones(100_000)
    weights[5000] = 1000
    layout = {"block_rows": 32, "window_rows": 512, "lanes": 64, "chunk": 4}
    plan = EpochOrder(
        100_000,
        shuffle=shuffle,
        draws=Draws(weights, 100_000),
        **(layout if shuffle == "block" else {}),
    )
    steps = plan.rows_at(np.arange(99_840)).reshape(-1, 256)
    in_step = (steps == 5000).sum(axis=1)
    assert in_step.sum() >= 985
    assert in_step.max() <= 16  # of 2.5 on average
    assert (in_step.reshape(-1, 13).sum(axis=1) > 0).all()


def test_sums_of_many_weights_are_right_to_a_part_of_a_stratum():
    weights = np.random.default_rng(0).random(3_000_000)
    begun = time.process_time()
    ends = cumulative(weights, len(weights))
    assert time.process_time() - begun < 5
    exact = np.cumsum(weights.astype(np.longdouble))
    exact *= len(weights) / exact[-1]
    assert float(np.abs(ends - exact).max()) < 1e-6
