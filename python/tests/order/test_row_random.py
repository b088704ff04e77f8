# SPDX-License-Identifier: Apache-2.0
"""Random numbers of rows: a function of the row alone, uniform, and not correlated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lancedb.integrations._torch.order.row_random import (
    as_integers,
    as_normals,
    digest,
    draws,
    floats,
    row_keys,
)

SEEDS = st.integers(-(2**70), 2**70)
EPOCHS = st.integers(0, 2**40)
OFFSETS = st.lists(st.integers(0, 2**50), min_size=1, max_size=40)
# What a chi-square of 255 degrees of freedom exceeds once in a million times.
MOST = 375


def chi_square(values):
    """Of values in [0, 256), against all being as probable."""
    counts = np.bincount(values.ravel(), minlength=256)
    expected = values.size / 256
    return ((counts - expected) ** 2 / expected).sum()


@given(SEEDS, EPOCHS, OFFSETS, st.integers(0, 40), st.integers(0, 7))
def test_a_rows_values_depend_on_nothing_but_the_row(seed, epoch, offsets, cut, first):
    offsets = np.array(offsets)
    keys = row_keys(seed, epoch, offsets)
    whole = floats(keys, 0, 9)
    assert (row_keys(seed, epoch, offsets[cut:]) == keys[cut:]).all()
    assert (floats(keys[cut:], 0, 9) == whole[cut:]).all()
    assert (floats(keys, first, 9 - first) == whole[:, first:]).all()
    assert ((whole >= 0) & (whole < 1)).all()


@given(SEEDS, EPOCHS, st.sets(st.integers(0, 2**50), min_size=2, max_size=40))
def test_keys_of_an_epoch_are_all_different_and_others_than_those_of_any_other(seed, epoch, rows):
    offsets = np.array(sorted(rows))
    ones = np.ones_like(offsets)
    kinds = [
        row_keys(seed, epoch, offsets),
        row_keys(seed, epoch + 1, offsets),
        row_keys(seed + 1, epoch, offsets),
        row_keys(seed, epoch, offsets, ones),
        row_keys(seed, epoch, offsets, 2 * ones),
        row_keys(seed, epoch, offsets, source="web"),
    ]
    assert len(np.unique(kinds)) == len(kinds) * len(offsets)
    assert (row_keys(seed, epoch, offsets, 0 * ones) == kinds[0]).all()


@given(st.integers(-(2**63), 2**63 - 2), st.integers(1, 2**63), st.integers(0, 9))
def test_whole_numbers_are_the_high_half_of_the_product_of_draw_and_range(low, span, seed):
    span = min(span, 2**63 - 1 - low)
    drawn = draws(row_keys(seed, 0, np.arange(20)), 0, 2)
    expected = [[low + ((int(each) * span) >> 64) for each in row] for row in drawn]
    assert as_integers(drawn, np.array(low), np.array(low + span)).tolist() == expected


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("shape", [(100_000, 1), (10, 10_000), (1000, 100)])
def test_every_byte_of_the_draws_is_uniform(seed, shape):
    keys = row_keys(seed, 0, np.arange(shape[0]))
    drawn = draws(keys, 0, shape[1])
    for byte in range(8):
        assert chi_square((drawn >> np.uint64(8 * byte)) & np.uint64(255)) < MOST
    assert chi_square((floats(keys, 0, shape[1]) * 256).astype(int)) < MOST


@pytest.mark.parametrize("seed", [0, 1])
def test_neighbours_of_every_kind_are_not_correlated(seed):
    rows = np.arange(100_000)
    here = floats(row_keys(seed, 0, rows), 0, 3)
    others = {
        "next row": np.roll(here, 1, axis=0),
        "next draw": np.roll(here, 1, axis=1),
        "next epoch": floats(row_keys(seed, 1, rows), 0, 3),
        "next seed": floats(row_keys(seed + 1, 0, rows), 0, 3),
        "next occurrence": floats(row_keys(seed, 0, rows, np.ones_like(rows)), 0, 3),
        "row and draw": np.roll(here, (1, 1), axis=(0, 1)),
    }
    for name, other in others.items():
        # Five standard deviations of the correlation of independent values.
        assert abs(np.corrcoef(here.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(here.size), name
        both = (here * 16).astype(int) * 16 + (other * 16).astype(int)
        assert chi_square(both) < MOST, name


def test_normal_values_are_normal():
    values = as_normals(floats(row_keys(0, 0, np.arange(200_000)), 0, 2))
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    tails = [(np.abs(values) > limit).mean() for limit in (1, 2, 3)]
    assert np.allclose(tails, [0.31731, 0.0455, 0.0027], atol=0.002)


def test_values_are_these_for_ever():
    keys = row_keys(7, 3, np.array([0, 1, 10**12]), np.array([0, 1, 0]), "web")
    assert digest(keys) == 5261829852198678631
    assert draws(keys, 0, 2).tolist() == [
        [11774668577725647336, 6261833493394896124],
        [11377335365862105769, 11430465668399924699],
        [16750593901335542533, 8580130129601528907],
    ]
