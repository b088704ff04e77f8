# SPDX-License-Identifier: Apache-2.0
"""Mixtures of whole steps: one source a step, in proportion, each whole before it repeats."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.layout import Layout
from lancedb.integrations._torch.order.mixed_order import MixedEpochOrder, SourceOrder
from lancedb.integrations._torch.order.mixture import Change
from lancedb.integrations._torch.order.step_mixture import StepMixture
from lancedb.integrations._torch.order.steps import Steps

SIZE = 24


def source_of(number, rows, shuffle):
    layout = Layout(2, 12, 8, 3) if shuffle == "block" else Layout(1, 1, 1, 2)
    return SourceOrder(f"s{number}", rows, shuffle, layout)


@st.composite
def mixtures(draw):
    count = draw(st.integers(1, 3))
    rows = draw(st.tuples(*[st.integers(SIZE, 200)] * count))
    shuffles = draw(st.tuples(*[st.sampled_from(["block", "global", "none"])] * count))
    weights = st.tuples(*[st.integers(0, 9)] * count).filter(any)
    changes = (Change(0, draw(weights)), Change(draw(st.integers(1, 300)), draw(weights)))
    stop = draw(st.sampled_from(["first_exhausted", "all_exhausted", 50, 130]))
    mixture = StepMixture(rows, changes, draw(st.sampled_from([1, 2, 4, 8])), stop, SIZE)
    return mixture, tuple(map(source_of, range(count), rows, shuffles))


def steps_of(mixture, sources, epoch, ranks=1):
    """The source of each step of an epoch, and its rows, as ranks take them."""
    steps = Steps(mixture.rows_of(epoch), SIZE // ranks, ranks)
    plan = MixedEpochOrder(mixture, sources, 3, epoch, steps)
    made = []
    for step in range(steps.num_steps):
        of_ranks = [plan.rows_of([steps.slice_of(step, rank)]) for rank in range(ranks)]
        (source,) = {number for rows in of_ranks for number in rows.sources.tolist()}
        made.append((source, [row for rows in of_ranks for row in rows.rows.tolist()]))
    return made


@given(mixtures(), st.sampled_from([2, 3, 4]))
@settings(max_examples=25)
def test_a_step_is_of_one_source_and_the_same_on_any_ranks(of, ranks):
    for epoch in (0, 2):
        made = steps_of(*of, epoch)
        assert all(len(rows) == SIZE for _, rows in made)
        assert len(made) * SIZE == of[0].rows_of(epoch)
        assert steps_of(*of, epoch, ranks) == made


@given(mixtures())
@settings(max_examples=25)
def test_rows_of_a_source_come_before_they_repeat(of):
    mixture, sources = of
    came = [Counter() for _ in sources]
    for epoch in range(4):
        for source, rows in steps_of(mixture, sources, epoch):
            came[source].update(rows)
            counts = [came[source][row] for row in range(sources[source].rows)]
            assert max(counts) - min(counts) <= 1
        given_so_far = mixture.before(epoch + 1).sum(axis=0).tolist()
        assert given_so_far == [sum(counts.values()) for counts in came]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 400))
def test_shares_of_steps_are_within_one_of_their_weights_at_every_prefix(weights, steps):
    mixture = StepMixture(
        (10**9,) * len(weights), (Change(0, tuple(weights)),), 8, steps * SIZE, SIZE
    )
    for step in range(steps + 1):
        rows = mixture.delivered(0, step * SIZE)
        assert rows.sum() == step * SIZE
        expected = step * np.array(weights) / sum(weights)
        assert (np.abs(rows / SIZE - expected) < 1).all()


def test_weights_change_with_the_first_step_at_their_row_or_after_it():
    changes = (Change(0, (1, 0)), Change(SIZE * 2 - 1, (0, 1)), Change(SIZE * 4 + 1, (1, 0)))
    mixture = StepMixture((1000, 1000), changes, 2, SIZE * 7, SIZE)
    sources = (source_of(0, 1000, "block"), source_of(1, 1000, "none"))
    assert [source for source, _ in steps_of(mixture, sources, 0)] == [0, 0, 1, 1, 1, 0, 0]


def test_epochs_end_where_a_step_does():
    def rows(stop, sizes=(100, 60)):
        return StepMixture(sizes, (Change(0, (1, 1)),), 2, stop, SIZE).rows_of(0)

    assert rows("first_exhausted") == SIZE * 5  # of 60 rows there are two whole steps
    assert rows("all_exhausted") == SIZE * 9
    assert rows(SIZE * 3 + 5) == SIZE * 3
    with pytest.raises(ValueError, match="stop=20 is less than one step of 24 rows"):
        rows(20)
