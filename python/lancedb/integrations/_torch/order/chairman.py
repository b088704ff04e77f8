# SPDX-License-Identifier: Apache-2.0
"""Sequences of sources in which each is within one row of its share at every prefix.

The chairman assignment problem (Tijdeman, 1980): with weights w of sum W, job j of a source may
stand at places ``floor(j W / w)`` to before ``ceil((j + 1) W / w)``, and taking the earliest
deadline first meets all of them. In whole numbers, for one period of W places, which repeats.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

MOST_WEIGHT = 1 << 16
_MARKED = 256
_GOLDEN = 0x9E3779B97F4A7C15


class Period(NamedTuple):
    """One period of a sequence of sources.

    Parameters
    ----------
    weights : numpy.ndarray of int64
        How often each source comes in it.
    sources : numpy.ndarray of int64
        Which source stands at each place.
    earlier : numpy.ndarray of int64
        How often that source came before in the period.
    marks : numpy.ndarray of int64
        How often each source comes before every `_MARKED`-th place.
    """

    weights: np.ndarray
    sources: np.ndarray
    earlier: np.ndarray
    marks: np.ndarray

    @property
    def length(self) -> int:
        """How many places it has."""
        return len(self.sources)

    def counts(self, places: int) -> np.ndarray:
        """How often each source comes at the first so many places of the endless sequence."""
        whole, rest = divmod(places, self.length)
        mark = rest // _MARKED
        part = np.bincount(self.sources[mark * _MARKED : rest], minlength=len(self.weights))
        return whole * self.weights + self.marks[mark] + part

    def phase(self, shard: int) -> int:
        """Where a shard begins: phases are spread by the golden ratio of the period."""
        return (shard * _GOLDEN % 2**64) * self.length >> 64


@lru_cache(maxsize=64)
def period(weights: tuple[int, ...]) -> Period:
    """One period of the sequence for whole-number weights.

    Examples
    --------
    >>> period((3, 1)).sources.tolist()
    [0, 0, 0, 1]
    """
    total = sum(weights)
    to_come = [(0, -(-total // w), source, 0) for source, w in enumerate(weights) if w]
    heapq.heapify(to_come)
    ready: list[tuple[int, int, int]] = []
    sources, earlier = np.empty(total, np.int64), np.empty(total, np.int64)
    for place in range(total):
        while to_come and to_come[0][0] <= place:
            _, deadline, source, job = heapq.heappop(to_come)
            heapq.heappush(ready, (deadline, source, job))
        _, source, job = heapq.heappop(ready)
        sources[place], earlier[place] = source, job
        w, job = weights[source], job + 1
        if job < w:
            heapq.heappush(to_come, (job * total // w, -(-(job + 1) * total // w), source, job))
    # Nothing, then each of the stretches between two marks.
    parts = [sources[:0], *np.split(sources, range(_MARKED, total, _MARKED))]
    firsts = [np.bincount(part, minlength=len(weights)) for part in parts]
    return Period(np.array(weights, np.int64), sources, earlier, np.cumsum(firsts, axis=0))


def whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights as whole numbers of sum at most 65,536: exact where they can be, else rounded.

    Parameters
    ----------
    weights : sequence of float
        None negative, not all 0, none positive and below 1/65,536 of the sum.

    Examples
    --------
    >>> whole_weights([0.7, 0.3]), whole_weights([1, 0, 2]), whole_weights([1, 65_000])
    ((7, 3), (1, 0, 2), (1, 65000))
    """
    exact = [Fraction(float(w)) for w in weights]
    total = sum(exact)
    shares = [w / total for w in exact]
    near = [share.limit_denominator(MOST_WEIGHT) for share in shares]
    common = math.lcm(*(share.denominator for share in near))
    if sum(near) == 1 and common <= MOST_WEIGHT:
        off = max(abs(a - b) for a, b in zip(near, shares, strict=True))
        if off < Fraction(1, 10**12):
            return tuple(int(share * common) for share in near)
    rounded = [int(share * MOST_WEIGHT) for share in shares]
    largest = sorted(range(len(shares)), key=lambda n: rounded[n] - shares[n] * MOST_WEIGHT)
    for number in largest[: MOST_WEIGHT - sum(rounded)]:
        rounded[number] += 1
    common = math.gcd(*rounded)
    return tuple(w // common for w in rounded)
