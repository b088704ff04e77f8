# SPDX-License-Identifier: Apache-2.0
"""Canonical shards: an epoch cut into D parts that never share a lane, whatever the ranks are.

What is defined over shards, and not over one sequence, can be read by any number of ranks that
divides D without reading a block twice: each rank has shards of its own. Shard s of D has the
lanes l with ``l mod D == s``, and takes a chunk of each in turn; an order without lanes is divided
in chunks. What fills no lane, the tail, is divided row by row, going on where the epoch before
ended, so that the shards of all epochs together differ by one row at most, for ever::

    lanes     0     1     2     3     0     1     2     3     tail
    sequence  a b   c d   e f   g h   i j   k l   m n   o p   q r s
    shard 0   a b         e f         i j         m n         q   s
    shard 1         c d         g h         k l         o p     r

Over all epochs, row n of shard s is so to speak row ``n * D + s`` of a sequence without end: its
epoch is that number divided by the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .epoch_order import EpochOrder
from .window_slices import WindowSlices, together

_MOST = 8
# As `layout.auto_chunk`: steps of so many rows are cut well for so many ranks.
_MOST_OF_LARGE_STEPS, _LARGE_STEP = 64, 1024


def canonical_shards(global_batch: int) -> int:
    """How many shards steps of so many rows have: the largest power of two that divides them.

    At most 8, and from steps of 1,024 rows on at most 64.

    Examples
    --------
    >>> [canonical_shards(rows) for rows in (256, 100, 7, 1024, 1000)]
    [8, 4, 1, 64, 8]
    """
    return math.gcd(global_batch, _MOST_OF_LARGE_STEPS if global_batch >= _LARGE_STEP else _MOST)


@dataclass(frozen=True)
class Shards:
    """The rows of one epoch of one table, in shards.

    Parameters
    ----------
    plan : EpochOrder
        The epoch's order; its lanes are a multiple of `count`, unless it is a single window. One
        without windows is divided in chunks of ``plan.chunk`` rows.
    count : int
        How many shards there are.
    rotation : int, optional
        The epoch by which the tail is rotated; by default the plan's own.

    Raises
    ------
    ValueError
        If the lanes cannot be divided evenly.

    Examples
    --------
    >>> shards = Shards(EpochOrder(11, shuffle="none", chunk=2), 2)
    >>> shards.sizes.tolist()
    [6, 5]
    >>> [shards.rows_at(shard, np.arange(shards.sizes[shard])).tolist() for shard in (0, 1)]
    [[0, 1, 4, 5, 8, 10], [2, 3, 6, 7, 9]]
    """

    plan: EpochOrder
    count: int
    rotation: int | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"there must be a shard, not {self.count}")
        if self.plan.has_windows and self.plan.body_rows and self.plan.lanes % self.count:
            raise ValueError(
                f"lanes={self.plan.lanes} must be a multiple of {self.count}: each of so many "
                "shards has lanes of its own"
            )

    @property
    def sizes(self) -> np.ndarray:
        """How many rows each shard has in this epoch; they differ by one at most."""
        return self._sizes

    @cached_property
    def _sizes(self) -> np.ndarray:
        shards, epoch = np.arange(self.count), self._rotation
        before, after = (
            rows_before(self.plan.rows, self.count, shards, number) for number in (epoch, epoch + 1)
        )
        return after - before

    @cached_property
    def body_rows(self) -> int:
        """Rows of each shard before its share of the tail."""
        return self._lanes_of_one * self._lane_rows

    # -- rows ------------------------------------------------------------------------------

    def rows_at(self, shard: int | np.ndarray, indices: np.ndarray) -> np.ndarray:
        """The rows of a shard at some places of its own numbering.

        Parameters
        ----------
        shard : int, or numpy.ndarray of int64
            In ``[0, count)``; one for all, or one for each of the places.
        indices : numpy.ndarray of int64
            In ``[0, sizes[shard])``.

        Returns
        -------
        numpy.ndarray of int64
            Their places in the base order.
        """
        return self.plan.rows_at(self.positions(shard, indices))

    def positions(self, shard: int | np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Where some rows of a shard stand in the plan's own sequence."""
        indices = np.asarray(indices, np.int64)
        chunks, within = np.divmod(indices, self.plan.chunk)
        cycles, numbers = np.divmod(chunks, max(1, self._lanes_of_one))
        lanes = shard + numbers * self.count
        body = (cycles * self._lanes + lanes) * self.plan.chunk + within
        tail = self._whole_rows + self._tail_at(shard, indices - self.body_rows)
        return np.where(indices < self.body_rows, body, tail)

    def by_source(self, rows: np.ndarray) -> Iterator[tuple[str, Any, np.ndarray]]:
        """As of a mixture's shards: all rows are of the one source, which needs no name."""
        yield "", slice(None), rows

    # -- windows ---------------------------------------------------------------------------

    def pieces_of(
        self, shard: int | np.ndarray, spans: np.ndarray
    ) -> tuple[WindowSlices, np.ndarray]:
        """Spans of a shard's own numbering as runs of windows, in sequence; the plan has windows.

        Parameters
        ----------
        shard : int, or numpy.ndarray of int64
            In ``[0, count)``; one for all, or one for each of the spans.
        spans : numpy.ndarray of int64, shape (spans, 2)
            Where each starts and stops, in ``[0, sizes[shard]]``.

        Returns
        -------
        pieces : WindowSlices
            Of all spans, one after the other. Each shard's share of the tail is a window of its
            own, in the shard's order: they are numbered from the plan's ``tail_window`` on.
        counts : numpy.ndarray of int64
            How many of the pieces are each span's.
        """
        starts, stops = np.asarray(spans, np.int64).reshape(-1, 2).T
        end, shards = self.body_rows, np.broadcast_to(np.asarray(shard, np.int64), starts.shape)
        owners, *body = self.plan.body_pieces(
            np.minimum(starts, end), np.minimum(stops, end), shards, self.count
        )
        counts = np.bincount(owners, minlength=len(starts))
        pieces = WindowSlices(*body)
        of_tail = np.flatnonzero(stops > np.maximum(starts, end))
        if len(of_tail):
            begins = np.maximum(starts[of_tail] - end, 0)
            windows = self.plan.tail_window + shards[of_tail]
            tail = WindowSlices(windows, begins, stops[of_tail] - end - begins)
            order = np.argsort(np.concatenate([owners, of_tail]), kind="stable")
            both = together([pieces, tail])
            pieces = WindowSlices(both.windows[order], both.begins[order], both.counts[order])
            counts[of_tail] += 1
        return pieces, counts

    def lane_of(self, window: int) -> int:
        """The lane a window belongs to; each shard's share of the tail is a lane of its own."""
        tail = window - self.plan.tail_window
        return self.plan.lanes + tail if tail >= 0 else self.plan.lane_of(window)

    def shard_of(self, window: int) -> int:
        """The shard a window belongs to."""
        tail = window - self.plan.tail_window
        return tail if tail >= 0 else self.plan.lane_of(window) % self.count

    def window_size(self, window: int) -> int:
        """How many rows a window delivers."""
        tail = window - self.plan.tail_window
        return (
            int(self.sizes[tail]) - self.body_rows if tail >= 0 else self.plan.window_size(window)
        )

    def window_rows_of(self, window: int) -> np.ndarray:
        """The rows of a window, in the order in which it delivers them."""
        tail = window - self.plan.tail_window
        if tail < 0:
            return self.plan.window_rows_of(window)
        return self.rows_at(tail, np.arange(self.body_rows, int(self.sizes[tail])))

    def in_window_before(self, window: int, index: int) -> int:
        """How many rows of a window stand before a place of its shard's own numbering.

        Examples
        --------
        >>> shards = Shards(EpochOrder(64, block_rows=2, window_rows=8, lanes=4, chunk=2), 2)
        >>> [shards.in_window_before(0, index) for index in (0, 1, 4, 5, 16)]
        [0, 1, 2, 3, 4]
        """
        size = self.window_size(window)
        if window >= self.plan.tail_window:
            return min(max(index - self.body_rows, 0), size)
        lane, start, _ = self.plan.window_span(window)
        cycles, within = divmod(min(index, self.body_rows), self._lanes_of_one * self.plan.chunk)
        in_chunk = min(max(within - lane // self.count * self.plan.chunk, 0), self.plan.chunk)
        return min(max(cycles * self.plan.chunk + in_chunk - start, 0), size)

    # -- how lanes are assigned ----------------------------------------------------------------

    @property
    def _rotation(self) -> int:
        return (self.plan.epoch if self.rotation is None else self.rotation) % self.count

    @cached_property
    def _lanes(self) -> int:
        """Those of the plan; one for each shard where it has none."""
        return self.plan.lanes if self.plan.has_windows else self.count

    @cached_property
    def _lanes_of_one(self) -> int:
        return self._lanes // self.count

    @cached_property
    def _lane_rows(self) -> int:
        if self.plan.has_windows:
            return self.plan.lane_rows
        chunk = self.plan.chunk
        return self.plan.rows // (self.count * chunk) * chunk

    @cached_property
    def _whole_rows(self) -> int:
        """Rows of all shards before the tail."""
        return self._lanes * self._lane_rows

    def _tail_at(self, shard: int | np.ndarray, indices: np.ndarray) -> np.ndarray:
        """The places in the tail of some rows of a shard's share of it."""
        before = self._rotation * (self.plan.rows - self._whole_rows)
        return (shard - before) % self.count + indices * self.count


def rows_before(rows: int, count: int, shard: Any, epoch: Any) -> Any:
    """How many rows a shard has in all epochs before one, of a table of so many rows.

    Examples
    --------
    >>> [rows_before(5, 2, 0, epoch) for epoch in range(4)]  # shard 0 of 2 has 3, 2, 3, ... rows
    [0, 3, 5, 8]
    """
    return (epoch * rows - shard + count - 1) // count


def epoch_at(rows: int, count: int, shard: int | np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The epoch of each of a shard's rows, counted through all epochs.

    Examples
    --------
    >>> epoch_at(5, 2, 0, np.arange(8)).tolist()
    [0, 0, 0, 1, 1, 2, 2, 2]
    """
    return (np.asarray(numbers, np.int64) * count + shard) // rows
