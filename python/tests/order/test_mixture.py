# SPDX-License-Identifier: Apache-2.0
"""Mixtures: shares at every prefix, sources whole before they repeat, closed forms."""

import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.chairman import period, whole_weights
from lancedb.integrations._torch.order.mixture import ALL, FIRST, Change, Mixture
from lancedb.integrations._torch.order.shards import epoch_at, rows_before

SHARDS = st.sampled_from([1, 2, 4, 8])


def weights_of(sources):
    return st.tuples(*[st.integers(0, 30)] * sources).filter(any)


@st.composite
def mixtures(draw):
    sources = draw(st.integers(1, 5))
    rows = draw(st.lists(st.integers(1, 400), max_size=2, unique=True))
    changes = [Change(row, draw(weights_of(sources))) for row in [0, *sorted(rows)]]
    stop = draw(st.sampled_from([FIRST, ALL, 57, 128]))
    sizes = tuple(draw(st.integers(30, 120)) for _ in range(sources))
    try:
        return Mixture(sizes, tuple(changes), draw(SHARDS), stop)
    except ValueError:
        return Mixture(sizes, tuple(changes), 1, 57)


def simulated(mixture, epochs):
    """Each row of some epochs, one after the other: (source, part, number), per epoch."""
    D, start = mixture.shards, 0
    drawn = {}  # rows of each (part, source) so far
    for epoch in range(epochs):
        places, last, made = [0] * D, [None] * D, []
        for position in range(mixture.rows_of(epoch)):
            shard = position % D
            weights = mixture.weights_at(start + position)
            force = [c for c in mixture.changes if c.row <= start + position][-1]
            if last[shard] is not force:
                last[shard], places[shard] = force, period(weights).phase(shard)
            of = period(weights)
            source = int(of.sources[places[shard] % of.length])
            places[shard] += 1
            key = ((shard + epoch) % D, source)
            made.append((source, key[0], drawn.get(key, 0)))
            drawn[key] = drawn.get(key, 0) + 1
        yield made
        start += mixture.rows_of(epoch)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any))
@settings(max_examples=100, deadline=None)
def test_every_source_is_within_one_row_of_its_share_at_every_prefix(weights):
    of, total = period(tuple(weights)), sum(weights)
    came = np.zeros(len(weights), int)
    for place, source in enumerate(of.sources, 1):
        assert of.earlier[place - 1] == came[source]
        came[source] += 1
        off = [abs(n - Fraction(w * place, total)) for n, w in zip(came, weights, strict=True)]
        assert max(off) < 1
        assert of.counts(place).tolist() == came.tolist()
    assert came.tolist() == weights


@pytest.mark.parametrize("weights", [(1, 65_000), (1, 1), (65_535, 1), tuple(range(200))])
def test_extreme_weights_are_assigned_within_a_second(weights):
    period.cache_clear()
    begin = time.process_time()
    of = period(weights)
    assert time.process_time() - begin < 1
    shares = np.cumsum(of.sources[:, None] == np.arange(len(weights)), axis=0)
    exact = np.arange(1, of.length + 1)[:, None] * np.array(weights) / sum(weights)
    assert np.abs(shares - exact).max() < 1


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9))
def test_weights_become_whole_numbers_in_proportion(weights):
    total = sum(weights)
    if not total or any(0 < w < total / 65_536 for w in weights):
        return
    whole = whole_weights(weights)
    assert sum(whole) <= 65_536
    for w, number in zip(weights, whole, strict=True):
        assert abs(number / sum(whole) - w / total) <= 1 / 65_536
        assert bool(number) == bool(w)


@given(mixtures())
@settings(max_examples=150, deadline=None)
def test_rows_are_what_a_simulation_draws(mixture):
    for epoch, made in enumerate(simulated(mixture, 4)):
        positions = np.arange(len(made))
        draws = mixture.draws(epoch, positions % mixture.shards, positions // mixture.shards)
        assert list(zip(*(d.tolist() for d in draws), strict=True)) == made
        for position in (0, len(made) // 3, len(made)):
            counts = np.bincount(draws.sources[:position], minlength=len(mixture.sizes))
            assert mixture.delivered(epoch, position).tolist() == counts.tolist()


@given(mixtures().filter(lambda m: len(m.changes) == 1), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_shares_hold_within_two_rows_a_shard_over_any_stretch(mixture, epoch):
    rows, D = mixture.rows_of(epoch), mixture.shards
    positions = np.arange(rows)
    draws = mixture.draws(epoch, positions % D, positions // D)
    share = np.array(mixture.changes[0].weights) / sum(mixture.changes[0].weights)
    for shard in range(D):
        sources = draws.sources[positions % D == shard]
        off = np.cumsum(sources[:, None] == np.arange(len(share)), axis=0)
        off = off - np.arange(1, len(sources) + 1)[:, None] * share
        off = np.concatenate([np.zeros((1, len(share))), off])
        assert (off.max(axis=0) - off.min(axis=0)).max() <= 2  # any stretch of the shard
    came = np.cumsum(draws.sources[:, None] == np.arange(len(share)), axis=0)
    exact = np.arange(1, rows + 1)[:, None] * share
    assert np.abs(came - exact).max() <= 2 * D


@given(mixtures(), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_parts_go_on_where_the_epoch_before_ended(mixture, epochs):
    """Rows of a part are drawn one by one, and so a source is whole before it repeats."""
    D = mixture.shards
    given_rows = [[[] for _ in mixture.sizes] for _ in range(D)]
    for epoch in range(min(epochs, 6)):
        positions = np.arange(mixture.rows_of(epoch))
        draws = mixture.draws(epoch, positions % D, positions // D)
        for source, part, number in zip(*(d.tolist() for d in draws), strict=True):
            given_rows[part][source].append(number)
    for part in given_rows:
        for numbers in part:
            assert numbers == list(range(len(numbers)))
    after = mixture.before(min(epochs, 6))
    assert after.tolist() == [[len(n) for n in part] for part in given_rows]


@pytest.mark.parametrize(("shards", "most"), [(4, 3), (8, 6), (64, 26)])
def test_parts_of_a_source_stay_together_through_hundreds_of_epochs(shards, most):
    mixture = Mixture((10_007, 5_003, 401), (Change(0, (7, 2, 1)),), shards, 4_096 - shards)
    spreads = [np.ptp(mixture.before(epoch), axis=0).max() for epoch in range(0, 500, 7)]
    assert max(spreads) <= most


@given(mixtures().filter(lambda m: len(m.changes) == 1), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_epochs_stop_where_a_source_is_exhausted(mixture, epoch):
    sizes = np.where(np.array(mixture.changes[0].weights) > 0, mixture.sizes, 0)
    rows, D = mixture.rows_of(epoch), mixture.shards
    if mixture.stop == FIRST:
        assert rows % D == 0
        assert (mixture.delivered(epoch, rows) <= mixture.sizes).all()
        assert (mixture.delivered(epoch, rows + D) > mixture.sizes).any()
    elif mixture.stop == ALL:
        assert rows % D == 0
        assert (mixture.delivered(epoch, rows) >= sizes).all()
        assert (mixture.delivered(epoch, rows - D) < sizes).any()
    else:
        assert rows == mixture.stop


def test_weights_that_come_later_end_an_epoch_that_waits_for_all():
    changes = (Change(0, (1, 1)), Change(100, (1, 0)))
    assert Mixture((300, 1000), changes, 1, ALL).rows_of(0) == 350


def test_a_source_of_weight_0_never_exhausts():
    assert Mixture((30, 1), (Change(0, (1, 0)),), 1, FIRST).rows_of(0) == 30
    assert Mixture((30, 1), (Change(0, (1, 0)),), 1, ALL).rows_of(0) == 30


def test_an_epoch_without_rows_is_refused():
    with pytest.raises(ValueError, match="would have no rows: it is divided into 8 shards"):
        Mixture((3, 10), (Change(0, (1, 1)),), 8, FIRST)


@pytest.mark.parametrize("stop", [FIRST, ALL, 10**9])
def test_sources_from_one_row_to_a_billion_are_planned_within_a_second(stop):
    sizes = tuple(10 ** (number % 10) for number in range(20))
    weights = tuple(10 ** (number % 4) for number in range(20))
    changes = (Change(0, weights), Change(10**6, weights[::-1]), Change(10**9, weights))
    shards = 1 if stop == FIRST else 64
    begin = time.process_time()
    mixture = Mixture(sizes, changes, shards, stop)
    rows = np.arange(10_000)
    for epoch in (0, 10**6):
        draws = mixture.draws(epoch, rows * 0, np.minimum(rows, mixture.rows_of(epoch) - 1))
        for source, size in enumerate(sizes):
            part = draws.numbers[draws.sources == source]
            epochs = epoch_at(size, shards, int(draws.parts[0]), part)
            assert (part >= rows_before(size, shards, int(draws.parts[0]), epochs)).all()
    assert time.process_time() - begin < 1
