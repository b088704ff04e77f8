# SPDX-License-Identifier: Apache-2.0
"""The keyed bijections: exact, uniform, and the same for ever."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.index_shuffle import (
    LARGEST,
    derive_key,
    permute,
    shuffled,
)

KEYS = st.integers(0, 2**64 - 1)
# Around every boundary of the construction: sorted and walked, digits that grow by one.
SIZES = [0, 1, 2, 3, 5, 16, 97, 1000, 1024, 2000, 4095, 4096, 4097, 5000, 2**14 + 1, 65_537]


def chi_square_deviations(counts: np.ndarray, expected: float) -> float:
    """How many standard deviations a chi-square statistic lies above its mean."""
    freedom = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("key", [0, 1, 2**64 - 1])
def test_every_number_is_hit_exactly_once(n, key):
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))
    assert np.array_equal(np.sort(shuffled(n, key)), np.arange(n))


@given(st.integers(0, 2000), KEYS)
def test_it_is_a_bijection_for_any_small_size(n, key):
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


@given(st.integers(2, LARGEST), KEYS, st.data())
@settings(max_examples=60)
def test_no_two_of_a_huge_domain_collide_and_none_leaves_it(n, key, data):
    start = data.draw(st.integers(0, n - 1))
    ends = np.unique([*range(min(n, 500)), *range(max(0, n - 500), n)])
    run = np.arange(start, min(n, start + 500), dtype=np.int64)
    x = np.union1d(ends, run)
    y = permute(x, n, key)
    assert y.dtype == np.int64
    assert y.min() >= 0
    assert y.max() < n
    assert len(np.unique(y)) == len(x)


@given(st.integers(1, LARGEST), KEYS, st.data())
@settings(max_examples=30)
def test_a_number_goes_to_the_same_place_whichever_others_are_asked_with_it(n, key, data):
    x = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)), np.int64)
    alone = np.concatenate([permute(x[i : i + 1], n, key) for i in range(len(x))])
    assert np.array_equal(permute(x, n, key), alone)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orders_of_a_few_numbers_are_equally_likely(n):
    orders = list(itertools.permutations(range(n)))
    each = 40
    seen = Counter(
        tuple(permute(np.arange(n), n, derive_key(7, trial)).tolist())
        for trial in range(each * len(orders))
    )
    counts = np.array([seen[order] for order in orders])
    assert abs(chi_square_deviations(counts, each)) < 4


@pytest.mark.parametrize("order", ["permute", "shuffled"])
@pytest.mark.parametrize("n", [160, 4096, 4112, 100_000])
def test_every_place_is_equally_likely_for_every_number(order, n):
    places = np.zeros((16, 16))
    trials = max(8, 100_000 // n)
    numbers = np.arange(n)
    for trial in range(trials):
        key = derive_key(11, trial)
        y = permute(numbers, n, key) if order == "permute" else shuffled(n, key)
        np.add.at(places, (numbers * 16 // n, y * 16 // n), 1)
    assert abs(chi_square_deviations(places, trials * n / 256)) < 5


@pytest.mark.parametrize("n", [10_000, 10**6, 10**12, LARGEST])
def test_neighbours_end_up_anywhere_from_each_other(n):
    distances = np.diff(permute(np.arange(10_000), n, key=3)) % n
    counts = np.bincount((distances / (n / 20)).astype(np.int64), minlength=20)
    assert abs(chi_square_deviations(counts, 9999 / 20)) < 5


def test_keys_that_differ_in_one_bit_give_unrelated_orders():
    n = 100_000
    first = permute(np.arange(n), n, key=1 << 40)
    for other in (permute(np.arange(n), n, key=(1 << 40) + 1), permute(np.arange(n), n, 1 << 41)):
        # Two unrelated orders agree in one place on average.
        assert (first == other).sum() < 10


@pytest.mark.parametrize(
    ("n", "key", "expected"),
    [
        (10, 7, [4, 3, 2, 0, 9, 6, 8, 1, 5, 7]),
        (10**6, 7, [455650, 39030, 632305, 331736]),
        (
            LARGEST,
            2**64 - 1,
            [1181261168072549593, 538250899575818865, 1717828538183723958, 730077344699116709],
        ),
    ],
)
def test_the_order_of_a_key_never_changes(n, key, expected):
    assert permute(np.arange(len(expected)), n, key).tolist() == expected


def test_the_key_of_some_numbers_never_changes():
    assert derive_key() == 0xE9E0033E3BADAF36
    assert derive_key(0) == 0xF6CE71ED42544360
    assert derive_key(1, 2, 3) == 0xC37DFAFD1C92BCC2
    assert derive_key(-1, 2**70) == 0xF04375D307DAF3D4


def test_keys_of_different_numbers_differ():
    parts = [
        (),
        (0,),
        (0, 0),
        (1,),
        (-1,),
        (1, 0),
        (0, 1),
        (2**63,),
        (2**64,),
        (2**64 - 1,),
        (2**64, 0),
        (0, 2**64),
        (-(2**63),),
        (1, 1),
    ]
    assert len({derive_key(*each) for each in parts}) == len(parts)


@pytest.mark.parametrize(("x", "n"), [([-1], 5), ([5], 5), ([0], 0), ([4097], 4097)])
def test_numbers_outside_the_domain_are_refused(x, n):
    with pytest.raises(ValueError, match="x must be in"):
        permute(np.array(x), n, key=0)


@pytest.mark.parametrize("n", [-1, LARGEST + 1])
def test_domains_too_large_are_refused(n):
    with pytest.raises(ValueError, match="n must be in"):
        permute(np.zeros(0, np.int64), n, key=0)
