# SPDX-License-Identifier: Apache-2.0
"""The sequence of an epoch's batches, planned round by round out of the lengths of documents.

Each shard's documents are taken in groups, and all shards' groups of one number are a *round*. A
group becomes *units*: whole batches, or rows that documents are packed into. Of these a shard's
batches are made in sequence, over the borders of groups, and the shards take turns::

    shard 0   | group 0: units 0 1 2 3 4 | group 1: 5 6 7 ...       two units a batch
    shard 1   | group 0: units 0 1 2 3   | group 1: 4 5 6 7 ...

    batch     0          1          2          3          4            5
    made of   shard 0    shard 1    shard 0    shard 1    shard 0      shard 1
              0 1        0 1        2 3        2 3        4 | 5        4 5

Once the first shard has no whole batch left, what is left of the others follows in order of
shards; of a budget it is planned together. All of it depends on the order of rows and on the
lengths alone. What rounds are made of is cached, for the last ones, and found anew for others: of
each round a few numbers stay.
"""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from .batch_units import DocumentShards, Units
from .index_shuffle import derive_key
from .packing import PackingPlanner
from .token_budget import BudgetPlanner
from .window_slices import WindowSlices, together

_BATCHES = 5  # beside the parts of a plan that are shuffled
# Whoever reads is ahead of whoever makes batches by far more documents than small rounds have.
_LEAST_CACHED = 3
_DOCUMENTS_CACHED = 1 << 17

T = TypeVar("T")


class _Part(NamedTuple):
    """Some batches in a row: from the first document of each on, and the pieces of all."""

    batches: np.ndarray
    starts: np.ndarray
    pieces: WindowSlices


@dataclass(frozen=True)
class End:
    """Where a sequence ends: whole batches, and the units of one that is not full."""

    batches: int
    units_left: int


class BatchSequence:
    """The batches of one epoch.

    Documents are counted in the order in which the sequence delivers them. A *window* is a group
    in the order in which it delivers its documents.

    Parameters
    ----------
    shards : DocumentShards
        Of the epoch's order of rows.
    lengths_of : callable
        The lengths of some rows, as the planner counts them.
    planner : BudgetPlanner or PackingPlanner
        What makes units of groups.
    group_rows : int
        Rows of a group; the last one has up to half as many more, or fewer.
    key : int, optional
        Decides the order of units; None for that of their documents.
    """

    # As of a plan of rows: what reads ahead takes either.
    has_windows = True
    lanes: int
    body_rows = 1
    tail_window = 1 << 62

    def __init__(
        self,
        shards: DocumentShards,
        lengths_of: Callable[[np.ndarray], np.ndarray],
        planner: BudgetPlanner | PackingPlanner,
        group_rows: int,
        key: int | None,
    ):
        self.shards = shards
        self.planner = planner
        self.lanes = shards.count
        self._lengths_of = lengths_of
        self._group_rows = group_rows
        self._key = key
        self._rows = int(shards.sizes.sum())
        least = int(shards.sizes.min())
        self._rounds = max(1, (2 * least + group_rows) // (2 * group_rows))
        self._lock = threading.RLock()
        self._units: _Recent[list[Units]] = _Recent()
        self._parts: _Recent[_Part] = _Recent()
        self._ends = [[0] for _ in range(self.lanes)]  # units of each shard before each round
        self._batches = [0]  # batches before each part: those that a round completes, or the rest
        self._documents = [0]  # and documents
        self._end: End | None = None

    # -- how far it goes -------------------------------------------------------------------

    def has(self, batches: int) -> bool:
        """Whether there are so many whole batches; plans until that is known."""
        with self._lock:
            while self._end is None and self._batches[-1] < batches:
                self._plan_next()
            return (self._batches[-1] if self._end is None else self._end.batches) >= batches

    def end(self) -> End:
        """Where it ends; plans all of it."""
        with self._lock:
            while self._end is None:
                self._plan_next()
            return self._end

    def rows_before(self, batches: int) -> int:
        """About how many rows the first so many batches have, as groups are delivered as one."""
        if batches == 0:
            return 0
        with self._lock:
            self.has(batches)
            part = min(max(bisect.bisect_left(self._batches, batches), 1), len(self._batches) - 1)
            rows = [min(at * self._group_rows * self.lanes, self._rows) for at in (part - 1, part)]
            if self._end is not None and part == len(self._batches) - 1:
                rows[1] = self._rows
            whole = self._batches[part] - self._batches[part - 1]
            done = min(batches, self._batches[part]) - self._batches[part - 1]
            return rows[0] + round((rows[1] - rows[0]) * done / max(1, whole))

    @property
    def is_planned(self) -> bool:
        """Whether it is known where it ends."""
        return self._end is not None

    def _plan_next(self) -> None:
        number = len(self._batches) - 1
        if number < self._rounds:
            for ends, units in zip(self._ends, self._units_of(number), strict=True):
                ends.append(ends[-1] + units.number)
        part = self._part(number)
        self._batches.append(self._batches[-1] + len(part.batches) - 1)
        self._documents.append(int(part.batches[-1]))
        if number == self._rounds:
            units = sum(ends[-1] for ends in self._ends)
            left = units % self.planner.units_in_batch
            self._end = End(self._batches[-1] - (left > 0), left)

    # -- what it is made of ----------------------------------------------------------------

    def documents(self, batches: int) -> int:
        """How many documents the first so many batches have; they must be known to be there."""
        with self._lock:
            part = bisect.bisect_left(self._batches, batches) - 1
            if part < 0:
                return 0
            return int(self._part(part).batches[batches - self._batches[part]])

    def units_among(self, first: int, last: int) -> np.ndarray:
        """Where units start among the documents from `first` to before `last`; and `last`."""
        pieces = self._pieces_between(first, last)
        ids = self.unit_ids(pieces)
        return np.concatenate([[first], first + np.flatnonzero(np.diff(ids)) + 1, [last]])

    def pieces_of(self, spans: np.ndarray) -> tuple[WindowSlices, np.ndarray]:
        """Spans of documents as runs of windows, in sequence; and how many are each span's."""
        made = [self._pieces_between(int(start), int(stop)) for start, stop in spans]
        return together(made), np.array([len(each) for each in made])

    def rows_at(self, documents: np.ndarray) -> np.ndarray:
        """The rows of some documents, by their number in the sequence."""
        return self._at(documents, self.window_rows_of)

    def rows_of(self, pieces: WindowSlices) -> np.ndarray:
        """The rows of the documents of some pieces."""
        return _cut(self.window_rows_of, pieces)

    def starts_at(self, documents: np.ndarray) -> np.ndarray | None:
        """Which token of its row each of some documents begins with; None where all are whole."""
        starts = self._at(documents, lambda window: self.window(window).starts)
        return starts if len(starts) else None

    def positions_at(self, documents: np.ndarray) -> np.ndarray:
        """Where in the epoch's order of rows some documents stand."""

        def positions(window: int) -> np.ndarray:
            return self.shards.positions(self.lane_of(window), self._indices_of(window))

        return self._at(documents, positions)

    def _at(self, documents: np.ndarray, of_window: Callable[[int], Any]) -> np.ndarray:
        """What windows have for each of their documents, for those of some numbers."""
        if not len(documents):
            return np.zeros(0, np.int64)
        first, last = int(documents.min()), int(documents.max())
        found = _cut(of_window, self._pieces_between(first, last + 1))
        return found[documents - first] if len(found) else found

    def unit_ids(self, pieces: WindowSlices) -> np.ndarray:
        """A number for each document of some pieces, the same for those of one unit."""
        ids, last = [np.zeros(0, np.int64)], 0
        for window, begin, count in pieces:
            edges = self.window(window).edges
            units = np.searchsorted(edges, np.arange(begin, begin + count), "right")
            ids.append(units - units[0] + last + 1)
            last = int(ids[-1][-1])
        return np.concatenate(ids)

    def planned(self, pieces: WindowSlices) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """The unit, start and length of each document of some pieces; None if none is packed."""
        units = [(self.window(each.window), each) for each in pieces]
        if any(of.starts is None for of, _ in units):
            return None
        cuts = [(of, slice(at.begin, at.begin + at.count)) for of, at in units]
        starts = np.concatenate([of.starts[here] for of, here in cuts])  # type: ignore[index]
        lengths = np.concatenate([of.lengths[here] for of, here in cuts])  # type: ignore[index]
        return self.unit_ids(pieces), starts, lengths

    # -- windows ---------------------------------------------------------------------------

    def lane_of(self, window: int) -> int:
        """The shard that a window is of."""
        return window % self.lanes

    def window_size(self, window: int) -> int:
        """How many documents a window delivers."""
        return len(self.window(window).places)

    def window_rows_of(self, window: int) -> np.ndarray:
        """The rows of a window's documents, in the order in which it delivers them."""
        return self.shards.rows_at(self.lane_of(window), self._indices_of(window))

    def _indices_of(self, window: int) -> np.ndarray:
        """Where in its shard each document of a window stands."""
        return self.group_span(window)[0] + self.window(window).places

    def group_span(self, window: int) -> tuple[int, int]:
        """Where in its shard a window's group starts and stops."""
        number, shard = divmod(window, self.lanes)
        return self._group_span(number, shard)

    def window(self, window: int) -> Units:
        """The documents of a window in the order in which it delivers them."""
        number, shard = divmod(window, self.lanes)
        with self._lock:
            return self._units_of(number)[shard]

    # -- rounds ----------------------------------------------------------------------------

    def _group_span(self, number: int, shard: int) -> tuple[int, int]:
        start = number * self._group_rows
        is_last = number == self._rounds - 1
        return start, int(self.shards.sizes[shard]) if is_last else start + self._group_rows

    def _units_of(self, number: int) -> list[Units]:
        """The units of a round's groups."""
        units = self._units.get(number)
        if units is None:
            groups = []
            for shard in range(self.lanes):
                rows = self.shards.rows_at(shard, np.arange(*self._group_span(number, shard)))
                groups.append(self._lengths_of(rows))
            key = None if self._key is None else derive_key(self._key, _BATCHES, number)
            units = self.planner.units_of(groups, key)
            self._units.put(number, units, sum(len(each.places) for each in units))
        return units

    def _part(self, number: int) -> _Part:
        part = self._parts.get(number)
        if part is None:
            begin = self._completed(number)
            if number < self._rounds:
                end = self._completed(number + 1)
                part = self._part_of([(begin, end)] * self.lanes, in_turn=True)
            else:
                part = self._last_part([(begin, ends[-1]) for ends in self._ends])
            first = self._documents[number]
            part = _Part(part.batches + first, part.starts + first, part.pieces)
            self._parts.put(number, part, len(part.batches) + len(part.starts))
        return part

    def _completed(self, rounds: int) -> int:
        """Units of each shard in the batches that so many rounds complete in all shards."""
        each = self.planner.units_in_batch
        return min(ends[rounds] for ends in self._ends) // each * each

    def _last_part(self, spans: list[tuple[int, int]]) -> _Part:
        """The batches of what is left of the shards, of which one budget is made for all."""
        part = self._part_of(spans, in_turn=False)
        if not self.planner.units_are_batches:
            return part
        pieces = part.pieces
        windows, begins = np.repeat(pieces.windows, pieces.counts), pieces.indices()
        lengths = self._lengths_of(self.rows_of(pieces))
        [units] = self.planner.units_of([lengths], None)
        places = units.places
        single = WindowSlices(windows[places], begins[places], np.ones(len(places), np.int64))
        return _Part(units.edges, np.arange(len(places)), single)

    def _part_of(self, spans: list[tuple[int, int]], in_turn: bool) -> _Part:
        """The batches of some units of each shard.

        Parameters
        ----------
        spans : list of (int, int)
            The first unit of each shard, and the one after its last.
        in_turn : bool
            Whether the shards take turns, batch by batch; else they follow each other.
        """
        each = self.planner.units_in_batch
        columns: list[tuple[np.ndarray, ...]] = []
        units_before = 0
        for shard, (begin, end) in enumerate(spans):
            windows, begins, ends = self._unit_places(shard, begin, end)
            numbers = np.arange(len(windows))
            if in_turn:
                batches = numbers // each * self.lanes + shard
            else:
                batches = (units_before + numbers) // each
                units_before += len(numbers)
            columns.append((batches, windows, begins, ends - begins))
        batches, windows, begins, counts = (
            np.concatenate(column) for column in zip(*columns, strict=True)
        )
        order = np.argsort(batches, kind="stable")
        batches, windows, begins, counts = (
            column[order] for column in (batches, windows, begins, counts)
        )
        ends = np.cumsum(counts)
        lasts = np.flatnonzero(np.diff(batches, append=-1))
        edges = np.concatenate([[0], ends[lasts]]).astype(np.int64)
        # Units that follow each other in one window, within a batch, are one piece.
        firsts = np.diff(batches, prepend=-1) != 0
        firsts[1:] |= windows[1:] != windows[:-1]
        firsts = np.flatnonzero(firsts)
        counts = np.add.reduceat(counts, firsts) if len(firsts) else counts
        starts = (np.cumsum(counts) - counts).astype(np.int64)
        return _Part(edges, starts, WindowSlices(windows[firsts], begins[firsts], counts))

    def _unit_places(self, shard: int, begin: int, end: int) -> tuple[np.ndarray, ...]:
        """The window of some of a shard's units, and where in it each starts and ends."""
        parts = []
        totals = self._ends[shard]
        number = bisect.bisect_right(totals, begin) - 1
        while begin < end:
            stop = min(end, totals[number + 1])
            if begin < stop:
                edges = self._units_of(number)[shard].edges[begin - totals[number] :]
                edges = edges[: stop - begin + 1]
                window = np.full(stop - begin, number * self.lanes + shard)
                parts.append((window, edges[:-1], edges[1:]))
            begin, number = stop, number + 1
        empty = (np.zeros(0, np.int64),) * 3
        return tuple(np.concatenate(column) for column in zip(empty, *parts, strict=True))

    def _pieces_between(self, first: int, last: int) -> WindowSlices:
        with self._lock:
            windows, begins, counts = [], [], []
            number = bisect.bisect_right(self._documents, first) - 1
            while first < last:
                _, starts, pieces = self._part(number)
                stop = min(last, self._documents[number + 1])
                low = int(np.searchsorted(starts, first, "right")) - 1
                high = int(np.searchsorted(starts, stop, "left"))
                if first < stop:
                    here = slice(low, high)
                    starts, ends = starts[here], starts[here] + pieces.counts[here]
                    cut = np.maximum(first - starts, 0)
                    windows.append(pieces.windows[here])
                    begins.append(pieces.begins[here] + cut)
                    counts.append(np.minimum(ends, stop) - starts - cut)
                first, number = stop, number + 1
            none = np.zeros(0, np.int64)
            return WindowSlices(
                *(np.concatenate([none, *each]) for each in (windows, begins, counts))
            )


def _cut(of_window: Callable[[int], Any], pieces: WindowSlices) -> np.ndarray:
    """What windows have for each of their documents, for those of some pieces."""
    found = [(of_window(at.window), slice(at.begin, at.begin + at.count)) for at in pieces]
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *(of[here] for of, here in found if of is not None)])


class _Recent(Generic[T]):
    """What was made last, by number: a few, or as many as have so many documents together."""

    def __init__(self) -> None:
        self._made: OrderedDict[int, tuple[T, int]] = OrderedDict()
        self._documents = 0

    def get(self, number: int) -> T | None:
        if number not in self._made:
            return None
        self._made.move_to_end(number)
        return self._made[number][0]

    def put(self, number: int, made: T, documents: int) -> None:
        self._made[number] = made, documents
        self._documents += documents
        while len(self._made) > _LEAST_CACHED and self._documents > _DOCUMENTS_CACHED:
            self._documents -= self._made.popitem(last=False)[1][1]
