# SPDX-License-Identifier: Apache-2.0
"""The order of rows in an epoch, as arithmetic on integers.

One small epoch, with 26 rows in blocks of 4, two lanes, windows of 8 rows and chunks of 2; seed 0,
epoch 0::

    blocks    A 15-18   B 19-22   C 23-25,0   D 1-4   E 5-8   F 9-12     left over: 13 14
    order     D C A F B E     and assigned in turn to

    lane 0    D A | B         window [16 15 3 1 18 17 4 2]      window [21 19 20 22]
    lane 1    C F | E         window [9 10 25 24 23 11 12 0]    window [6 5 7 8]
                              a window is read at once, its rows shuffled

    lane      0     1     0     1     0     1     0     1     0     1     0     1     tail
    sequence  16 15 9 10  3 1   25 24 18 17 23 11 4 2   12 0  21 19 6 5   20 22 7 8   14 13
    steps     |------- step 0 ------| |------- step 1 ------| |------- step 2 ------| |-->
    ranks     |- rank 0-| |- rank 1-| |- rank 0-| |- rank 1-| |- rank 0-| |- rank 1-|

Everything that looks random depends on (seed, epoch), and a window's order on its lane and number
too. Blocks are assigned so that each window has some from all over the table: here
one of A, B, C and one of D, E, F. They are cut from the rotated base order, here by 15 rows, so
that it is not the same rows in every epoch that fill no block. What fills no block, no lane or no
chunk is the tail, shuffled as a whole. The lanes' windows end at different times, so that reads are
spread evenly over the epoch, and the first ones are smaller, so that the first batches come soon;
here they are too small for that.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from ..common.checks import one_of, whole_number
from .index_shuffle import derive_key, high_half, permute, shuffled
from .stratified import spread
from .window_slices import WindowSlices, divided

SHUFFLES = ("none", "block", "global")
_LEAST = {
    "rows": 0,
    "seed": None,
    "epoch": 0,
    "block_rows": 1,
    "window_rows": 1,
    "lanes": 1,
    "chunk": 1,
}
_ROTATION, _BLOCKS, _WINDOW, _TAIL = 1, 2, 3, 4
# The golden ratio's multiples are spread evenly, whichever lanes are looked at.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LEAST_BLOCKS_TO_STAGGER = 4
# What a lane's first window has at least, to mix; it has an eighth of what a full one has if that
# is more, and a quarter or half of it if that is needed.
_FIRST_BLOCKS = 16
_MOST_HALVINGS = 3
_MOST_BLOCKS_LISTED = _MOST_LANES_LISTED = 1 << 16


class Draws(Protocol):
    """Rows in place of what is ordered, which then are points; see `weighted.py`."""

    def rows(self, points: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """The row that each of some points draws."""
        ...


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch's rows.

    Parameters
    ----------
    rows : int
        How many rows there are.
    seed, epoch : int
        What the order depends on.
    shuffle : {"none", "block", "global"}
        ``"none"`` keeps the base order, ``"global"`` permutes single rows, ``"block"`` is the
        picture above.
    block_rows, window_rows, lanes, chunk : int
        Rows of a block and of one lane's window from a while on, number of lanes, rows taken of a
        lane in turn.
    draws : Draws, optional
        Which rows stand at the places that are ordered; None for each one once.

    Examples
    --------
    >>> plan = EpochOrder(10, seed=0, epoch=0, shuffle="global")
    >>> sorted(plan.rows_at(np.arange(10)).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    rows: int
    seed: int = 0
    epoch: int = 0
    shuffle: str = "block"
    block_rows: int = 1
    window_rows: int = 1
    lanes: int = 1
    chunk: int = 1
    draws: Draws | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        one_of("shuffle", self.shuffle, SHUFFLES)
        for name, low in _LEAST.items():
            # A numpy integer would overflow where an int does not.
            object.__setattr__(self, name, whole_number(name, getattr(self, name), low))
        if self.window_rows % self.block_rows:
            raise ValueError(
                f"window_rows={self.window_rows} must be a multiple of "
                f"block_rows={self.block_rows}: a window holds whole blocks"
            )

    @cached_property
    def has_windows(self) -> bool:
        """Whether rows are read in windows and mixed there.

        A block of one row needs no window: permuting the blocks has shuffled the rows.
        """
        return self.shuffle == "block" and (self.block_rows > 1 or self.window_rows > 1)

    # -- sizes -----------------------------------------------------------------------------

    @cached_property
    def lane_blocks(self) -> int:
        """Blocks of each lane; 0 if one window holds everything."""
        if self.lanes == 1 and self.window_rows >= self.rows:
            return 0
        return self.rows // self.block_rows // self.lanes

    @cached_property
    def lane_rows(self) -> int:
        """Rows that each lane delivers in whole chunks."""
        return self.lane_blocks * self.block_rows // self.chunk * self.chunk

    @cached_property
    def body_rows(self) -> int:
        """Rows of the sequence before the tail."""
        return self.lanes * self.lane_rows

    @cached_property
    def windows_in_lane(self) -> int:
        """An upper bound for the windows of a lane."""
        return self.lane_blocks // max(1, self._window_blocks) + self._early_windows + 1

    @cached_property
    def tail_window(self) -> int:
        """The id of the tail, the last window, which has what is left over."""
        return self.lanes * self.windows_in_lane

    @cached_property
    def _window_blocks(self) -> int:
        return self.window_rows // self.block_rows

    # -- windows ---------------------------------------------------------------------------

    def lane_of(self, window: int) -> int:
        """The lane a window belongs to; the tail, in whatever windows, is a lane of its own."""
        return self.lanes if window >= self.tail_window else window % self.lanes

    def window_size(self, window: int) -> int:
        """How many rows a window delivers."""
        _, start, stop = self.window_span(window)
        return stop - start

    def window_rows_of(self, window: int) -> np.ndarray:
        """The rows of a window, in the order in which it delivers them.

        Returns
        -------
        numpy.ndarray of int64
            Their places in the base order.
        """
        return self.drawn(self._window_places(window))

    def drawn(self, places: np.ndarray) -> np.ndarray:
        """The rows that stand at some of the places that are ordered."""
        if self.draws is None:
            return places
        return self.draws.rows(places, self.seed, self.epoch)

    def _window_places(self, window: int) -> np.ndarray:
        lane, start, stop = self.window_span(window)
        if lane == self.lanes:
            return self._tail_rows_at(np.arange(start, stop))
        key = self._key(_WINDOW, lane, window // self.lanes)
        return self._lane_rows_in(lane, start, stop)[shuffled(stop - start, key)]

    def window_span(self, window: int) -> tuple[int, int, int]:
        """A window's lane, and where in the lane's rows it starts and stops."""
        if window == self.tail_window:
            return self.lanes, 0, self.rows - self.body_rows
        number, lane = divmod(window, self.lanes)
        starts = self._early_starts(np.array([lane]))[:, 0].tolist()
        full = number - self._early_windows
        start = starts[number] if full < 0 else starts[-1] + full * self._window_blocks
        end = starts[number + 1] if full < 0 else start + self._window_blocks
        if end > self._latest_start:
            end = self.lane_blocks
        return lane, start * self.block_rows, min(end * self.block_rows, self.lane_rows)

    def _windows_at(
        self, lanes: np.ndarray, blocks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The windows in which some lanes' blocks stand: their numbers, first blocks and ends."""
        size, latest = self._window_blocks, self._latest_start
        *early, first_full = self._early_starts(lanes)
        blocks = np.minimum(blocks, latest)
        full = (blocks - first_full) // size
        numbers, starts = full + self._early_windows, first_full + full * size
        ends = starts + size
        if (full < 0).any():
            for number, (start, end) in enumerate(itertools.pairwise([*early, first_full])):
                here = (start <= blocks) & (blocks < end)
                numbers[here], starts[here], ends[here] = number, start[here], end[here]
        return numbers, starts, np.where(ends > latest, self.lane_blocks, ends)

    @cached_property
    def _latest_start(self) -> int:
        """The last block at which a window may start.

        A last window of less than half a size would mix badly: the one before takes it in.
        """
        return max(0, self.lane_blocks - (self._window_blocks + 1) // 2)

    def _early_starts(self, lanes: np.ndarray) -> np.ndarray:
        """Where some lanes' first windows start, in blocks, up to the first one of full size.

        Each window is about twice as large as the one before, so that the first batches come
        soon. Where the full ones start decides how far apart in time lanes come to new windows.
        """
        if self.lanes <= _MOST_LANES_LISTED:
            return self._all_early_starts[:, lanes]
        return self._early_starts_of(lanes)

    @cached_property
    def _all_early_starts(self) -> np.ndarray:
        return self._early_starts_of(np.arange(self.lanes))

    def _early_starts_of(self, lanes: np.ndarray) -> np.ndarray:
        size, early = self._window_blocks, self._early_windows
        starts = np.zeros((1, len(lanes)), np.int64)
        if not early:
            return starts
        shares = high_half(lanes.astype(np.uint64) * _GOLDEN, np.uint64(size))
        first_full = size + shares.astype(np.int64)
        halvings = np.arange(early - 1, -1, -1)[:, None]
        return np.concatenate([starts, first_full >> halvings])

    @cached_property
    def _early_windows(self) -> int:
        """How many windows of a lane are smaller, to begin with; the first two are alike."""
        size = self._window_blocks
        if size < _LEAST_BLOCKS_TO_STAGGER:
            return 0
        halvings = (size // _FIRST_BLOCKS).bit_length() - 1
        return 1 + min(max(halvings, 1), _MOST_HALVINGS)

    # -- rows ------------------------------------------------------------------------------

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """The rows at some positions of the epoch's sequence: the definition of the order.

        Parameters
        ----------
        positions : numpy.ndarray of int64
            In ``[0, rows)``.

        Returns
        -------
        numpy.ndarray of int64
            Their places in the base order.
        """
        return self.drawn(self.points_at(np.asarray(positions, np.int64)))

    def points_at(self, positions: np.ndarray) -> np.ndarray:
        """What `rows_at` draws rows by; the rows themselves where none are drawn."""
        if self.shuffle == "none":
            return positions
        if not self.has_windows:
            return permute(positions, self.rows, self._key(_BLOCKS))
        rows = np.empty(len(positions), np.int64)
        windows, indices = self.locate(positions)
        tail = windows == self.tail_window
        rows[tail] = self._tail_rows_at(indices[tail])
        by_window = np.argsort(windows, kind="stable")[: len(windows) - np.count_nonzero(tail)]
        starts = np.flatnonzero(np.diff(windows[by_window], prepend=-1))
        for here in np.split(by_window, starts[1:]) if len(by_window) else ():
            rows[here] = self._window_places(int(windows[here[0]]))[indices[here]]
        return rows

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The window of each position, and its place among the rows that the window delivers."""
        positions = np.asarray(positions, np.int64)
        firsts = np.flatnonzero(np.diff(positions, prepend=-2) != 1)
        lasts = np.append(firsts[1:], len(positions))[: len(firsts)] - 1
        pieces, _ = self.pieces_of(np.stack([positions[firsts], positions[lasts] + 1], axis=1))
        return pieces.windows_of_rows(), pieces.indices()

    def pieces_of(self, spans: np.ndarray) -> tuple[WindowSlices, np.ndarray]:
        """Spans of positions as runs of windows, in sequence, of an order that has windows.

        Parameters
        ----------
        spans : numpy.ndarray of int64, shape (spans, 2)
            Where each starts and stops.

        Returns
        -------
        pieces : WindowSlices
            Of all spans, one after the other.
        counts : numpy.ndarray of int64
            How many of the pieces are each span's.
        """
        starts, stops = np.asarray(spans, np.int64).T
        end = self.body_rows
        owners, *body = self.body_pieces(np.minimum(starts, end), np.minimum(stops, end))
        if len(stops) and int(stops.max()) > end:
            parts = self._tail_pieces(np.maximum(starts - end, 0), np.maximum(stops - end, 0))
            owners = np.concatenate([owners, parts[0]])
            order = np.argsort(owners, kind="stable")
            body = [np.concatenate(columns)[order] for columns in zip(body, parts[1:], strict=True)]
        return WindowSlices(*body), np.bincount(owners, minlength=len(starts))

    def body_pieces(
        self,
        starts: np.ndarray,
        stops: np.ndarray,
        shard: np.ndarray | None = None,
        shards: int = 1,
    ) -> tuple[np.ndarray, ...]:
        """What stands before the tail: each piece's span, window, begin and count.

        Each span is one of the sequence that takes a chunk from each of every `shards`-th lane in
        turn, from its `shard` on; by default from each lane, which is the epoch's own.
        """
        # A lane of its own is one chunk, so to speak.
        unit = self.chunk if self.lanes > shards else max(1, self.lane_rows)
        owners, starts, stops = divided(starts, stops, unit)
        # A chunk may go on in the lane's next window, and from there in the one after that.
        parts = []
        while len(starts):
            first = None if shard is None else shard[owners]
            windows, begins, counts = self._pieces_at(starts, stops, unit, first, shards)
            parts.append((owners, starts, windows, begins, counts))
            more = starts + counts < stops
            owners, starts, stops = owners[more], (starts + counts)[more], stops[more]
        if len(parts) == 1:
            owners, _, *pieces = parts[0]
            return owners, *pieces
        if not parts:
            return (np.zeros(0, np.int64),) * 4
        owners, starts, *pieces = map(np.concatenate, zip(*parts, strict=True))
        order = np.lexsort((starts, owners))
        return owners[order], *(column[order] for column in pieces)

    def _pieces_at(
        self,
        starts: np.ndarray,
        stops: np.ndarray,
        chunk: int,
        shard: np.ndarray | None,
        shards: int,
    ) -> tuple[np.ndarray, ...]:
        """What follows some positions within a chunk out of one window."""
        chunks = starts // chunk
        cycles, lanes = np.divmod(chunks, self.lanes // shards)
        if shard is not None:
            lanes = lanes * shards + shard
        index, size = cycles * chunk + starts - chunks * chunk, self.block_rows
        numbers, firsts, ends = self._windows_at(lanes, index // size)
        counts = np.minimum(stops - starts, ends * size - index)
        return numbers * self.lanes + lanes, index - firsts * size, counts

    def _tail_pieces(self, starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, ...]:
        """As `body_pieces` of the tail, by positions from its start on."""
        owners = np.flatnonzero(stops > starts)
        starts, stops = starts[owners], stops[owners]
        return owners, np.full(len(owners), self.tail_window), starts, stops - starts

    def _lane_rows_in(self, lane: int, start: int, stop: int) -> np.ndarray:
        """The `start`-th to `stop`-th row of a lane, where `start` begins a block."""
        size = self.block_rows
        assigned = np.arange(start // size, -(-stop // size)) * self.lanes + lane
        rows = (self._permuted_blocks(assigned) * size)[:, None] + np.arange(size)
        return self._rotated(rows.ravel()[: stop - start])

    def _tail_rows_at(self, indices: np.ndarray) -> np.ndarray:
        """What filled no lane, then no block, then no chunk of its lane; shuffled."""
        size, body_blocks = self.block_rows, self.lanes * self.lane_blocks
        end = self.rows // size * size
        indices = permute(indices, self.rows - self.body_rows, self._key(_TAIL))
        assigned = indices + body_blocks * size
        rows = assigned.copy()
        whole, cut = assigned < end, assigned >= self.rows
        rows[whole] = self._permuted_blocks(assigned[whole] // size) * size + assigned[whole] % size
        lane, index = np.divmod(assigned[cut] - self.rows, self._cut_rows or 1)
        block, within = np.divmod(self.lane_rows + index, size)
        rows[cut] = self._permuted_blocks(block * self.lanes + lane) * size + within
        return self._rotated(rows)

    @property
    def _cut_rows(self) -> int:
        """Rows at each lane's end that fill no chunk."""
        return self.lane_blocks * self.block_rows - self.lane_rows

    def _permuted_blocks(self, assigned: np.ndarray) -> np.ndarray:
        if self.rows // self.block_rows <= _MOST_BLOCKS_LISTED:
            return self._all_permuted[assigned]
        return self._spread(assigned)

    @cached_property
    def _all_permuted(self) -> np.ndarray:
        """The blocks as assigned: one by one, a few at a time cost nearly as much as all."""
        return self._spread(np.arange(self.rows // self.block_rows))

    def _spread(self, assigned: np.ndarray) -> np.ndarray:
        blocks = self.rows // self.block_rows
        return spread(assigned, blocks, self.lanes, self._window_blocks, self._key(_BLOCKS))

    def _rotated(self, rows: np.ndarray) -> np.ndarray:
        rotated = rows + self._rotation
        return np.where(rotated >= self.rows, rotated - self.rows, rotated)

    @cached_property
    def _rotation(self) -> int:
        return self._key(_ROTATION) % max(self.rows, 1)

    def _key(self, *parts: int) -> int:
        return derive_key(self.seed, self.epoch, *parts)
