# SPDX-License-Identifier: Apache-2.0
"""Groups of rows are cut into as many batches each, and none is above its budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.token_budget import BudgetPlanner, split

KEYS = st.one_of(st.none(), st.integers(0, 2**64 - 1))


@st.composite
def rounds(draw):
    """A planner, and groups of one round whose rows it can batch."""
    tokens = draw(st.integers(1, 200))
    sizes = st.lists(st.integers(1, tokens), max_size=40)
    groups = [np.array(draw(sizes), np.int64) for _ in range(draw(st.integers(1, 4)))]
    return BudgetPlanner(tokens, draw(st.integers(1, 50))), groups


def costs(lengths, units):
    """The padded tokens of each batch."""
    spans = zip(units.edges[:-1], units.edges[1:], strict=True)
    return [int(lengths[units.places[start:end]].max()) * (end - start) for start, end in spans]


@given(rounds(), KEYS)
@settings(max_examples=60, deadline=None)
def test_each_row_is_in_one_batch_and_no_batch_is_above_the_budget(drawn, key):
    planner, groups = drawn
    for lengths, units in zip(groups, planner.units_of(groups, key), strict=True):
        assert sorted(units.places.tolist()) == list(range(len(lengths)))
        assert (np.diff(units.edges) > 0).all()
        assert (np.diff(units.edges) <= planner.max_rows).all()
        assert max(costs(lengths, units), default=0) <= planner.tokens


@given(rounds(), KEYS)
@settings(max_examples=60, deadline=None)
def test_all_groups_have_as_many_batches_as_the_one_that_needs_most(drawn, key):
    planner, groups = drawn
    fewest = [planner.units_of([lengths], key)[0].number for lengths in groups]
    for lengths, units in zip(groups, planner.units_of(groups, key), strict=True):
        assert units.number == min(max(fewest), len(lengths))


@given(rounds(), KEYS)
@settings(max_examples=100, deadline=None)
def test_batches_follow_each_other_by_length_in_the_same_order_in_all_groups(drawn, key):
    planner, groups = drawn
    made = planner.units_of(groups, key)
    most = max(units.number for units in made)
    whole = [(g, u) for g, u in zip(groups, made, strict=True) if u.number == most]
    orders = {
        tuple(np.argsort(np.argsort([g[u.places[at]] for at in u.edges[:-1]], kind="stable")))
        for g, u in whole
        if len(set(g.tolist())) == len(g)
    }
    assert len(orders) <= 1


def test_the_fewest_batches_are_those_of_the_longest_first():
    lengths = [np.array([1, 2, 3, 3, 6, 12])]
    assert [each.number for each in BudgetPlanner(12, 100).units_of(lengths, 0)] == [3]
    assert [each.number for each in BudgetPlanner(12, 2).units_of(lengths, 0)] == [4]


def test_batches_cost_about_as_much_as_each_other():
    lengths = np.random.default_rng(0).lognormal(5.8, 1.0, 4096).clip(20, 4000).astype(np.int64)
    [units] = BudgetPlanner(16_384, 10_000).units_of([lengths], 0)
    found = costs(lengths, units)
    assert lengths.sum() / sum(found) > 0.95
    assert min(found) > 0.5 * max(found)


@pytest.mark.parametrize(("edges", "batches"), [([0, 5, 6], 4), ([3, 10], 7), ([0, 1, 2], 2)])
def test_splitting_keeps_the_cuts_there_are(edges, batches):
    made = split(edges, batches)
    assert set(edges) <= set(made)
    assert len(made) == batches + 1
    assert (np.diff(made) > 0).all()
