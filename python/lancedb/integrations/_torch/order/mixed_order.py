# SPDX-License-Identifier: Apache-2.0
"""The steps of one epoch of a mixture as rows of its sources, and the windows to read them in.

A step is its rows in order of shards, and a shard's part of it is shuffled, so that sources stand
in no pattern. Which rows these are is `mixture`'s to say; each source has a plan of its own for
each of its epochs (`epoch_order`, in `shards`), and a window of it is here named by a number of
the whole mixture.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from .epoch_order import EpochOrder
from .index_shuffle import derive_key, hashed
from .layout import Layout
from .mixture import Mixture
from .read_schedule import PlannedSteps, Span, Step, WindowRows, in_batches
from .shards import Shards, epoch_at, rows_before
from .steps import Steps
from .window_slices import WindowSlices, divided, runs

_SOURCE, _STEP = 1, 2
_SHARD_BITS = 7
_HASH_BITS = 40
_KNOWN = 1024


@dataclass(frozen=True)
class SourceOrder:
    """The order of one source's rows through its epochs.

    Parameters
    ----------
    name : str
        By which its orders differ from those of other sources.
    rows : int
        How many rows it has.
    shuffle : {"none", "block", "global"}
        As in `EpochOrder`.
    layout : Layout
        Blocks, windows and lanes; its chunk is also that in which an unshuffled source is sharded.
    in_memory : bool
        Whether its rows are read once: then windows serve nothing.
    """

    name: str
    rows: int
    shuffle: str
    layout: Layout
    in_memory: bool = False

    def shards(self, seed: int, epoch: int, count: int) -> Shards:
        """Its rows in one of its epochs, in shards."""
        return _shards(self, seed, epoch, count)


@lru_cache(maxsize=256)
def _shards(order: SourceOrder, seed: int, epoch: int, count: int) -> Shards:
    key = derive_key(seed, _SOURCE, int.from_bytes(order.name.encode(), "big"))
    layout = vars(order.layout)
    return Shards(
        EpochOrder(order.rows, seed=key, epoch=epoch, shuffle=order.shuffle, **layout), count
    )


@dataclass(frozen=True)
class MixedRows:
    """Rows of several sources, in sequence.

    Parameters
    ----------
    sources, rows : numpy.ndarray of int64
        The number of each row's source, and its place in the source's base order.
    epochs : numpy.ndarray of int64
        The epoch of the source in which it comes.
    """

    sources: np.ndarray
    rows: np.ndarray
    epochs: np.ndarray


@dataclass(frozen=True)
class MixedEpochOrder:
    """The order of one epoch of a mixture, from the position on at which its steps begin.

    Parameters
    ----------
    mixture : Mixture
        Which source comes when.
    sources : tuple of SourceOrder
        Their own orders.
    seed, epoch : int
        What the order depends on.
    steps : Steps
        The global steps of the epoch. Rows are shuffled within them.
    """

    mixture: Mixture
    sources: tuple[SourceOrder, ...]
    seed: int
    epoch: int
    steps: Steps
    has_windows: bool = field(default=True, init=False)
    _known: dict[tuple[int, int], Shards] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def rows_of(self, shares: list[Span]) -> MixedRows:
        """The rows that a rank takes at some steps, in sequence."""
        drawn = self._drawn(shares)
        rows = np.empty(len(drawn.sources), np.int64)
        for source, epoch, here in self._by_source_epoch(drawn):
            shards = self._shards(source, epoch)
            rows[here] = shards.rows_at(drawn.parts[here], drawn.indices[here])
        order = drawn.order
        return MixedRows(drawn.sources[order], rows[order], drawn.epochs[order])

    def planned(self, spans: Iterable[Span], read_rows: int) -> Iterator[PlannedSteps]:
        """The pieces of some steps in a row, and of each step the windows it is first to need."""
        return _Planner(self).planned(spans, read_rows)

    # -- which rows ------------------------------------------------------------------------

    def _shards(self, source: int, epoch: int) -> Shards:
        found = self._known.get((source, epoch))
        if found is None:
            found = self.sources[source].shards(self.seed, epoch, self.mixture.shards)
            if len(self._known) > _KNOWN:
                self._known.clear()
            self._known[source, epoch] = found
        return found

    def _drawn(self, spans: list[Span]) -> _Drawn:
        """The rows of some shares of steps, as their shards have them, and their order."""
        steps, shards, rows, order = self._places(np.array(spans, np.int64))
        draws = self.mixture.draws(self.epoch, shards, rows)
        epochs, indices = np.empty_like(rows), np.empty_like(rows)
        for source in _numbers_in(draws.sources):
            here = np.flatnonzero(draws.sources == source)
            size, count = self.sources[source].rows, self.mixture.shards
            parts, numbers = draws.parts[here], draws.numbers[here]
            epochs[here] = epoch = epoch_at(size, count, parts, numbers)
            indices[here] = numbers - rows_before(size, count, parts, epoch)
        return _Drawn(steps, draws.sources, draws.parts, epochs, indices, order)

    def _places(self, spans: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of each row of some shares: which of them it is of, its shard and its row there.

        They are in order of steps, shards and rows; the fourth is the order in which they come.
        """
        count = self.mixture.shards
        size, origin = self.steps.global_batch, self.steps.start
        # What is left over joins the last step of some numbers of ranks, and is mixed by itself.
        share, starts, stops = divided(spans[:, 0] - origin, spans[:, 1] - origin, size)
        begins = starts // size * size + origin
        ends = np.minimum(begins + size, self.steps.rows)
        starts, stops = starts + origin, stops + origin
        shards = np.arange(count)
        firsts = -(-(begins[:, None] - shards) // count)
        sizes = -(-(ends[:, None] - shards) // count) - firsts
        places = begins[:, None] + np.cumsum(sizes, axis=1) - sizes
        low = np.clip(starts[:, None] - places, 0, sizes)
        high = np.clip(stops[:, None] - places, 0, sizes)
        step, shard = np.nonzero(high > low)
        size, first = sizes[step, shard], firsts[step, shard]
        part = np.repeat(np.arange(len(step)), size)
        rows = runs(first, size)
        order = self._shuffled(part, begins[step][part], shard[part], rows)
        if (low[step, shard] > 0).any() or (high[step, shard] < size).any():
            index = runs(np.zeros(len(size), np.int64), size)
            order = order[(index >= low[step, shard][part]) & (index < high[step, shard][part])]
            taken = np.sort(order)
            part, rows, order = part[taken], rows[taken], np.searchsorted(taken, order)
        return share[step][part], shard[part], rows, order

    def _shuffled(
        self, part: np.ndarray, begins: np.ndarray, shards: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """The order of rows within the parts of steps: by (seed, epoch, step, shard)."""
        key = derive_key(self.seed, self.epoch, _STEP)
        parts = hashed(begins << _SHARD_BITS | shards, key).view(np.int64)
        drawn = hashed(parts ^ rows, key)
        keys = part.astype(np.uint64) << np.uint64(_HASH_BITS) | drawn >> np.uint64(64 - _HASH_BITS)
        return np.argsort(keys, kind="stable")

    def _by_source_epoch(self, drawn: _Drawn) -> Iterator[tuple[int, int, np.ndarray]]:
        """Each source and epoch of it that there are rows of, and which rows these are."""
        for source in _numbers_in(drawn.sources):
            of_source = np.flatnonzero(drawn.sources == source)
            epochs = drawn.epochs[of_source]
            first = int(epochs.min())
            if int(epochs.max()) == first:
                yield source, first, of_source
                continue
            for epoch in np.unique(epochs).tolist():
                yield source, epoch, of_source[epochs == epoch]


def _numbers_in(small: np.ndarray) -> list[int]:
    """The distinct ones of many small numbers, ascending."""
    return np.flatnonzero(np.bincount(small)).tolist()


@dataclass(frozen=True)
class _Drawn:
    """Of each of some rows: its step, its source, and where it stands in it; and their order."""

    steps: np.ndarray
    sources: np.ndarray
    parts: np.ndarray
    epochs: np.ndarray
    indices: np.ndarray
    order: np.ndarray


class _Planner:
    """Gives windows of all sources and epochs numbers of their own, while they are open."""

    def __init__(self, plan: MixedEpochOrder):
        self._plan = plan
        self._count = len(plan.sources)
        self._numbers = itertools.count()
        self._open: dict[tuple[int, int], int] = {}  # of a source's lane
        self._named: dict[tuple[int, int, int], int] = {}  # of a source, its epoch, its window
        self._keys: dict[int, tuple[int, int, int]] = {}

    def planned(self, spans: Iterable[Span], read_rows: int) -> Iterator[PlannedSteps]:
        for some in in_batches(spans, read_rows):
            drawn = self._plan._drawn(some)
            needed: dict[int, int] = {}
            windows, begins, reads = self._located(drawn, needed)
            pieces = WindowSlices(windows, begins, np.ones(len(windows), np.int64))
            counts = np.bincount(drawn.steps, minlength=len(some))
            yield pieces, self._steps(some, counts, reads, needed)

    def _steps(
        self,
        spans: list[Span],
        counts: np.ndarray,
        reads: dict[int, WindowRows],
        first_needed: dict[int, int],
    ) -> list[tuple[Step, list[WindowRows]]]:
        opened: dict[int, list[WindowRows]] = {}
        spent: dict[int, list[int]] = {}
        # Rows of a step are shuffled: a lane's windows come in the order of their epochs and ids.
        needed = sorted(
            first_needed.items(), key=lambda each: (each[1], self._keys.get(each[0], (0, 0, 0)))
        )
        for window, step in needed:
            if window in reads:  # of these steps alone
                opened.setdefault(step, []).append(reads[window])
                spent.setdefault(len(spans) - 1, []).append(window)
                continue
            source, epoch, number = self._keys[window]
            shards = self._plan._shards(source, epoch)
            lane = (source, shards.lane_of(number))
            before = self._open.get(lane)
            if before != window:
                self._open[lane] = window
                rows = shards.window_rows_of(number)
                read = WindowRows(window, len(rows), source=source, rows=rows)
                opened.setdefault(step, []).append(read)
                if before is not None:
                    spent.setdefault(step, []).append(before)
                    del self._named[self._keys.pop(before)]
        return [
            (Step(stop - start, count, tuple(spent.get(number, ()))), opened.get(number, []))
            for number, ((start, stop), count) in enumerate(
                zip(spans, counts.tolist(), strict=True)
            )
        ]

    def _located(
        self, drawn: _Drawn, needed: dict[int, int]
    ) -> tuple[np.ndarray, np.ndarray, dict[int, WindowRows]]:
        """The window of each row and its index there; and the windows of these rows alone.

        `needed` is given the first step of each window.
        """
        windows, begins = np.empty_like(drawn.indices), np.empty_like(drawn.indices)
        loose: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for source, epoch, here in self._plan._by_source_epoch(drawn):
            shards = self._plan._shards(source, epoch)
            if shards.plan.has_windows and not self._plan.sources[source].in_memory:
                in_lanes = drawn.indices[here] < shards.body_rows
                rows = here[in_lanes]
                self._place(source, epoch, shards, drawn, rows, windows, begins, needed)
                here = here[~in_lanes]
            if len(here):
                rows = shards.rows_at(drawn.parts[here], drawn.indices[here])
                loose.setdefault(source, []).append((here, rows))
        reads = {}
        for source, found in loose.items():
            here, rows = map(np.concatenate, zip(*found, strict=True))
            if len(found) > 1:
                order = np.argsort(here)  # windows are delivered from first to last
                here, rows = here[order], rows[order]
            window = next(self._numbers) * self._count + source
            windows[here], begins[here] = window, np.arange(len(here))
            needed[window] = int(drawn.steps[here[0]])
            reads[window] = WindowRows(window, len(rows), source=source, rows=rows)
        return windows[drawn.order], begins[drawn.order], reads

    def _place(
        self,
        source: int,
        epoch: int,
        shards: Shards,
        drawn: _Drawn,
        here: np.ndarray,
        windows: np.ndarray,
        begins: np.ndarray,
        needed: dict[int, int],
    ) -> None:
        """Say of some rows of lanes where they are: by as few spans of their shards as may be."""
        if not len(here):
            return
        # Rows of a part ascend already, and small numbers are sorted by their digits.
        here = here[np.argsort(drawn.parts[here].astype(np.uint8), kind="stable")]
        parts, indices = drawn.parts[here], drawn.indices[here]
        first = (np.diff(indices, prepend=-2) != 1) | (np.diff(parts, prepend=-1) != 0)
        firsts = np.flatnonzero(first)
        lasts = np.append(firsts[1:], len(here)) - 1
        spans = np.stack([indices[firsts], indices[lasts] + 1], axis=1)
        pieces, _ = shards.pieces_of(parts[firsts], spans)
        distinct, at, places = np.unique(pieces.windows, return_index=True, return_inverse=True)
        # A window has rows of one part alone, and so the first of its pieces has the first row.
        steps = drawn.steps[here[(np.cumsum(pieces.counts) - pieces.counts)[at]]]
        names = np.array([self._name(source, epoch, number) for number in distinct.tolist()])
        needed.update(zip(names.tolist(), steps.tolist(), strict=True))
        windows[here] = np.repeat(names[places], pieces.counts)
        begins[here] = pieces.indices()

    def _name(self, source: int, epoch: int, window: int) -> int:
        """The mixture's own number of a window of a source's epoch."""
        key = (source, epoch, window)
        if key not in self._named:
            self._named[key] = next(self._numbers) * self._count + source
            self._keys[self._named[key]] = key
        return self._named[key]
