# SPDX-License-Identifier: Apache-2.0
"""Batches of at most so many padded tokens, cut out of rows that are sorted by length.

Every shard has a group of rows in each round, and all groups of a round are cut into as many
batches as the group that needs most: then every shard has its j-th batch of a round at the same
time as all others, of rows about as long, and ranks that read shards of their own do as much work
at each step.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .batch_units import Units
from .index_shuffle import shuffled

# A smaller budget that does as well is looked for until the next one would differ by less.
_CLOSE_ENOUGH = 256


@dataclass(frozen=True)
class BudgetPlanner:
    """How the groups of a round are cut.

    Parameters
    ----------
    tokens : int
        What the rows of a batch times the longest of them may be.
    max_rows : int
        How many rows a batch may have.
    """

    tokens: int
    max_rows: int

    units_in_batch = 1
    units_are_batches = True  # so that what is left of all shards may be cut anew

    def units_of(self, groups: Sequence[np.ndarray], key: int | None) -> list[Units]:
        """The batches of each group of a round.

        Parameters
        ----------
        groups : sequence of numpy.ndarray of int64
            The lengths of each group's rows, padded; none is above `tokens`.
        key : int, optional
            Decides the order of the batches, the same in all groups; None for the shortest first.
        """
        orders = [np.argsort(lengths, kind="stable") for lengths in groups]
        ascending = [lengths[order].tolist() for lengths, order in zip(groups, orders, strict=True)]
        needed = max(
            (_count(lengths, self.tokens, self.max_rows) for lengths in ascending), default=0
        )
        return [
            _in_order(order, self.cut(lengths, min(needed, len(lengths))), key)
            for lengths, order in zip(ascending, orders, strict=True)
        ]

    def cut(self, ascending: list[int], batches: int) -> list[int]:
        """Where rows are cut into so many batches, at least as many as they need, all about alike.

        Examples
        --------
        >>> BudgetPlanner(tokens=12, max_rows=100).cut([1, 2, 3, 3, 6, 12], 3)
        [0, 3, 5, 6]
        """
        if not ascending:
            return [0]
        low, high = max(ascending[-1], sum(ascending) // batches), self.tokens
        while high - low > low // _CLOSE_ENOUGH:
            middle = (low + high) // 2
            if _count(ascending, middle, self.max_rows, batches) <= batches:
                high = middle
            else:
                low = middle + 1
        return split(_edges(ascending, high, self.max_rows), batches)


def _count(ascending: list[int], tokens: int, max_rows: int, most: int | None = None) -> int:
    """How many batches rows need at least; counted no further than beyond `most`."""
    count, end = 0, len(ascending)
    most = end if most is None else most
    while end > 0 and count <= most:
        end -= min(tokens // ascending[end - 1], max_rows)
        count += 1
    return count


def _edges(ascending: list[int], tokens: int, max_rows: int) -> list[int]:
    edges = [len(ascending)]
    while edges[-1] > 0:
        rows = min(tokens // ascending[edges[-1] - 1], max_rows)
        edges.append(max(0, edges[-1] - rows))
    return edges[::-1]


def split(edges: list[int], batches: int) -> list[int]:
    """The same cuts and more: the batches of most rows are halved until there are enough."""
    missing = batches - (len(edges) - 1)
    if missing <= 0:
        return edges
    largest = [(first - last, first) for first, last in itertools.pairwise(edges)]
    heapq.heapify(largest)
    for _ in range(missing):
        rows, first = heapq.heappop(largest)
        half = -rows // 2
        heapq.heappush(largest, (-half, first))
        heapq.heappush(largest, (rows + half, first + half))
    return sorted([first for _, first in largest]) + edges[-1:]


def _in_order(order: np.ndarray, cuts: list[int], key: int | None) -> Units:
    """The rows batch by batch, the batches in a keyed order."""
    edges = np.array(cuts, np.int64)
    counts = np.diff(edges)
    if key is None:
        return Units(order, edges)
    batches = shuffled(len(counts), key)
    ends = np.cumsum(counts[batches])
    places = np.repeat(edges[:-1][batches] - ends + counts[batches], counts[batches])
    return Units(order[places + np.arange(len(order))], np.concatenate([[0], ends]))
