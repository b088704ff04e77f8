# SPDX-License-Identifier: Apache-2.0
"""Documents are packed whole into rows of one length, and hardly a place is left."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.packing import PackingPlanner, pack

KEYS = st.one_of(st.none(), st.integers(0, 2**64 - 1))
LENGTHS = st.sampled_from([1, 2, 7, 255, 256, 257, 1000])


@st.composite
def documents(draw, most=None):
    """A length of rows, and documents of at most as many tokens, or of any number."""
    length = draw(LENGTHS)
    lengths = draw(st.lists(st.integers(1, most or length), max_size=60))
    return length, np.array(lengths, np.int64)


@given(documents())
@settings(max_examples=80, deadline=None)
def test_no_row_has_more_than_its_length_and_none_is_empty(drawn):
    length, lengths = drawn
    rows, number = pack(lengths, length)
    used = np.bincount(rows, lengths, minlength=number)
    assert len(used) == number
    assert ((used > 0) & (used <= length)).all()


@given(documents())
@settings(max_examples=80, deadline=None)
def test_no_two_rows_would_fit_into_one(drawn):
    length, lengths = drawn
    rows, number = pack(lengths, length)
    used = np.sort(np.bincount(rows, lengths, minlength=number))
    assert number < 2 or used[0] + used[1] > length


@given(documents(3000), st.booleans(), KEYS)
@settings(max_examples=80, deadline=None)
def test_each_token_is_in_one_piece_or_cut_off(drawn, splits, key):
    length, lengths = drawn
    [units] = PackingPlanner(length, 8, splits).units_of([lengths], key)
    seen = [[] for _ in lengths]
    counts = np.minimum(units.lengths - units.starts, length)
    for place, start, count in zip(units.places, units.starts, counts, strict=True):
        assert 0 < count <= length
        seen[place] += range(start, start + count)
    for tokens, total in zip(seen, lengths.tolist(), strict=True):
        assert sorted(tokens) == list(range(total if splits else min(total, length)))
    of_rows = np.add.reduceat(counts, units.edges[:-1]) if len(lengths) else np.zeros(0)
    assert (of_rows <= length).all()


@pytest.mark.parametrize(("group", "length"), [(1024, 2048), (4096, 2048), (4096, 8192)])
def test_at_least_98_percent_of_the_places_are_used(group, length):
    lengths = np.random.default_rng(0).lognormal(5.8, 1.0, group).clip(20, 20_000).astype(np.int64)
    [units] = PackingPlanner(length, 8, True).units_of([lengths], 0)
    assert lengths.sum() >= 0.98 * units.number * length


def test_without_a_key_rows_follow_the_first_document_in_each():
    [units] = PackingPlanner(10, 2, True).units_of([np.array([4, 9, 6, 1])], None)
    assert units.places.tolist() == [0, 2, 1, 3]
    assert units.edges.tolist() == [0, 2, 4]
