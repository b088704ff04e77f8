# SPDX-License-Identifier: Apache-2.0
"""The order in which blocks are assigned to lanes, so that each window has some of everywhere.

The blocks are cut into strata of neighbours, as many as all lanes' windows together hold blocks.
Whatever a table is sorted by, a window that has one block of each of many strata has its share of
every part. Strata are visited in a random order and give a random block each, so that nothing else
about the order is regular: a stratified sample (Cochran, "Sampling Techniques", 1977).
"""

from __future__ import annotations

import math

import numpy as np

from .index_shuffle import derive_key, hash_below, permute

# Products of two numbers of strata stay below 2**62.
_MOST_STRATA = 1 << 31
_GOLDEN_RATIO = (1 + math.sqrt(5)) / 2
_GROUP, _STRATUM, _ROUND, _BLOCK, _LAST = 1, 2, 3, 4, 5


def spread(
    assigned: np.ndarray, blocks: int, lanes: int, window_blocks: int, key: int
) -> np.ndarray:
    """Which block is assigned when: a keyed bijection on [0, blocks).

    Parameters
    ----------
    assigned : numpy.ndarray of int64
        Numbers in ``[0, blocks)``. The i-th block of a lane is assigned as ``i * lanes + lane``.
    blocks : int
        How many there are.
    lanes, window_blocks : int
        Any `window_blocks` blocks that a lane is assigned in a row are from as many equal parts of
        the table; what all lanes are assigned meanwhile is from as many strata as it has blocks. If
        a lane is assigned fewer in all, so many parts are meant.
    key : int
        64 bits; another key is another order.

    Returns
    -------
    numpy.ndarray of int64
        Blocks, distinct for distinct `assigned`.

    Examples
    --------
    >>> order = spread(np.arange(12), blocks=12, lanes=2, window_blocks=3, key=0)
    >>> sorted(order.tolist()) == list(range(12))
    True
    >>> sorted((order[:6] // 2).tolist())  # a window of each lane: one block of every stratum
    [0, 1, 2, 3, 4, 5]
    """
    window_blocks = min(window_blocks, blocks // lanes)
    strata = lanes * window_blocks
    if not 0 < strata <= _MOST_STRATA:
        return permute(assigned, blocks, key)
    rounds, rest = divmod(blocks, strata)
    of_round = assigned // strata
    stratum = np.empty_like(assigned)
    whole = of_round < rounds
    stratum[whole] = _stratum_of(assigned[whole], lanes, window_blocks, key)
    if rest:
        left = assigned[~whole] - rounds * strata
        left = spread(left, rest, lanes, rest // lanes, derive_key(key, _LAST))
        # The strata that have a block more than the others are as far apart as may be.
        stratum[~whole] = -(-(left + 1) * strata // rest) - 1
    first = stratum * rounds + stratum * rest // strata
    size = (stratum + 1) * rounds + (stratum + 1) * rest // strata - first
    within = (of_round + hash_below(stratum, rounds + 1, derive_key(key, _BLOCK))) % size
    for number in (rounds, rounds + 1):
        here = size == number
        within[here] = permute(within[here], number, derive_key(key, _ROUND, number))
    return first + within


def _stratum_of(assigned: np.ndarray, lanes: int, window_blocks: int, key: int) -> np.ndarray:
    """The stratum that a lane's block is taken of: once each over all lanes in a round."""
    of_round, slot = np.divmod(assigned, lanes * window_blocks)
    place, lane = np.divmod(slot, lanes)
    # Lanes begin at places equally far apart, so that what they have all had by then is even, too.
    place += permute(lane, lanes, derive_key(key, _GROUP)) * window_blocks // lanes
    place += derive_key(key, _GROUP, 1) % window_blocks
    group = place * _stride(window_blocks) % window_blocks
    lane += hash_below(of_round * window_blocks + group, lanes, derive_key(key, _STRATUM))
    return group * lanes + permute(lane % lanes, lanes, derive_key(key, _STRATUM, 1))


def _stride(window_blocks: int) -> int:
    """A step around the table such that any few steps in a row land far apart."""
    stride = round(window_blocks / _GOLDEN_RATIO)
    while math.gcd(stride, window_blocks) > 1:
        stride += 1
    return stride
