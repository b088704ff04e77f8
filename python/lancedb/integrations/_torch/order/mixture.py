# SPDX-License-Identifier: Apache-2.0
"""The order of a mixture: which source, and which row of it, comes at each place of an epoch.

Position p of an epoch is row ``p div D`` of shard ``p mod D`` of D canonical shards. In a shard,
sources follow each other as `chairman` says, from a phase of its own on; the n-th time that a
source comes in a shard is the next row of one of the D parts into which its rows are cut
(`shards`), which go on from epoch to epoch. In epoch e of the mixture shard s has part
``(s + e) mod D``, so that parts keep in step though shards do not draw quite alike.

Weights may change at given rows of the mixture, counted through all of its epochs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .chairman import Period, period
from .window_slices import WindowSlices

FIRST, ALL = "first_exhausted", "all_exhausted"


class Change(NamedTuple):
    """Weights from a row of the mixture on, counted through its epochs."""

    row: int
    weights: tuple[int, ...]


class Drawn(NamedTuple):
    """Of each of some rows of a mixture: its source, the part of it, and which row of that part.

    Rows of a part are counted through all epochs of the source.
    """

    sources: np.ndarray
    parts: np.ndarray
    numbers: np.ndarray


class _Run(NamedTuple):
    """Epochs in a row that are alike: from one on, how many, their rows, and what they draw."""

    epoch: int
    epochs: int | None
    start: int
    rows: int
    before: np.ndarray  # of each part and source, in the epochs before
    drawn: np.ndarray  # of each shard and source, in one of these epochs


@dataclass(frozen=True)
class Mixture:
    """Sources in sequence, through all epochs.

    Parameters
    ----------
    sizes : tuple of int
        Rows of each source.
    changes : tuple of Change
        The weights, the first ones from row 0 on; ascending.
    shards : int
        How many canonical shards there are.
    stop : {"first_exhausted", "all_exhausted"} or int
        When an epoch ends: before a source would deliver more rows than it has, once each has
        delivered all of its rows, or after so many rows.

    Raises
    ------
    ValueError
        If an epoch would have no row.

    Examples
    --------
    >>> mixture = Mixture((60, 40), (Change(0, (3, 1)),), shards=2)
    >>> mixture.rows_of(0)
    80
    >>> mixture.delivered(0, 80).tolist()
    [60, 20]
    """

    sizes: tuple[int, ...]
    changes: tuple[Change, ...]
    shards: int = 1
    stop: Any = FIRST
    _runs: list[_Run] = field(default_factory=list, init=False, repr=False, compare=False)
    _latest: dict[int, list[_Segment]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        self._runs.extend(self._planned_runs())

    # -- epochs ----------------------------------------------------------------------------

    def rows_of(self, epoch: int) -> int:
        """How many rows an epoch has."""
        return self._run(epoch).rows

    def start_of(self, epoch: int) -> int:
        """How many rows the epochs before have together."""
        run = self._run(epoch)
        return run.start + (epoch - run.epoch) * run.rows

    def weights_at(self, row: int) -> tuple[int, ...]:
        """The weights in force at a row, counted through all epochs."""
        return [change for change in self.changes if change.row <= row][-1].weights

    # -- rows ------------------------------------------------------------------------------

    def draws(self, epoch: int, shards: np.ndarray, rows: np.ndarray) -> Drawn:
        """What stands at some rows of shards in an epoch: the definition of the order.

        Parameters
        ----------
        epoch : int
            Of the mixture.
        shards, rows : numpy.ndarray of int64
            The shard of each row, and its number in the shard's epoch.
        """
        sources, numbers = np.empty_like(rows), np.empty_like(rows)
        part_of = self.parts_of(epoch)
        offsets = self.before(epoch)[part_of]
        segments = self._segments(self.start_of(epoch))
        for segment in segments:
            here: Any = slice(None)
            if len(segments) > 1:
                here = (segment.begins[shards] <= rows) & (rows < segment.ends[shards])
            some, period = shards[here], segment.period
            times, place = np.divmod(
                rows[here] + (segment.phases - segment.begins)[some], period.length
            )
            source = period.sources[place]
            before = (segment.earlier + offsets).ravel()[some * len(self.sizes) + source]
            sources[here] = source
            numbers[here] = times * period.weights[source] + period.earlier[place] + before
        return Drawn(sources, part_of[shards], numbers)

    def parts_of(self, epoch: int) -> np.ndarray:
        """The part of every source that each shard plays in an epoch."""
        return (np.arange(self.shards) + epoch % self.shards) % self.shards

    def sources_of(self, epoch: int, rows: WindowSlices) -> np.ndarray:
        """The source of each of some rows, as `draws` says; in runs, of which the shard is the
        window."""
        index, segments = rows.indices(), self._segments(self.start_of(epoch))
        if len(segments) > 1:
            return self.draws(epoch, rows.windows_of_rows(), index).sources
        (segment,) = segments
        places = index + (segment.phases - segment.begins)[rows.windows_of_rows()]
        return segment.period.sources[places % segment.period.length]

    def before(self, epoch: int) -> np.ndarray:
        """How many rows each part has given of each source before an epoch, (parts, sources)."""
        run = self._run(epoch)
        return run.before + self._rotated(run.drawn, run.epoch, epoch - run.epoch)

    def delivered(self, epoch: int, position: int) -> np.ndarray:
        """How often each source comes in the first positions of an epoch, over all shards."""
        return self._delivered(self._segments(self.start_of(epoch)), position)

    # -- how epochs follow each other --------------------------------------------------------

    def _run(self, epoch: int) -> _Run:
        return [run for run in self._runs if run.epoch <= epoch][-1]

    def _planned_runs(self) -> Iterator[_Run]:
        epoch = start = 0
        before = np.zeros((self.shards, len(self.sizes)), np.int64)
        while True:
            segments = self._segments(start)
            rows = self._epoch_rows(segments, start)
            if rows < 1:
                raise ValueError(
                    "an epoch of this mixture would have no rows: it is divided into "
                    f"{self.shards} shards, too many for stop={self.stop!r} with sources of "
                    f"{', '.join(map(str, self.sizes))} rows; give it more rows, or another stop"
                )
            next_change = min((c.row for c in self.changes if c.row > start), default=None)
            if next_change is None:
                epochs = None
            elif start + rows > next_change:
                epochs = 1  # the weights change within it
            else:
                epochs = (next_change - start) // rows
            drawn = np.array(
                [
                    self._counts(segments, shard, -(-(rows - shard) // self.shards))
                    for shard in range(self.shards)
                ]
            )
            yield _Run(epoch, epochs, start, rows, before, drawn)
            if epochs is None:
                return
            before = before + self._rotated(drawn, epoch, epochs)
            epoch, start = epoch + epochs, start + epochs * rows

    def _rotated(self, drawn: np.ndarray, first: int, epochs: int) -> np.ndarray:
        """What each part has given in some epochs in a row, in which shards draw alike."""
        whole, rest = divmod(epochs, self.shards)
        given = whole * np.broadcast_to(drawn.sum(axis=0), drawn.shape)
        for epoch in range(first, first + rest):
            given = given + np.roll(drawn, epoch % self.shards, axis=0)
        return given

    def _epoch_rows(self, segments: list[_Segment], start: int) -> int:
        if self.stop == FIRST:
            most = self._last(lambda p: (self._delivered(segments, p) <= self.sizes).all())
            return most // self.shards * self.shards
        if self.stop == ALL:
            return self._all_exhausted(segments, start)
        return int(self.stop)

    def _all_exhausted(self, segments: list[_Segment], start: int) -> int:
        """The fewest rows at which each source that is still drawn has delivered all it has."""
        for segment in segments:
            sizes = np.where(segment.period.weights > 0, self.sizes, 0)
            end = None if segment.until is None else segment.until - start
            if end is not None and self._lacks(segments, end, sizes):
                continue
            rows = 1 + self._last(lambda p, sizes=sizes: self._lacks(segments, p, sizes))
            rows = max(rows, segment.row - start)
            return -(-rows // self.shards) * self.shards
        raise AssertionError("the last weights hold for ever")

    def _lacks(self, segments: list[_Segment], position: int, sizes: np.ndarray) -> bool:
        return bool((self._delivered(segments, position) < sizes).any())

    @staticmethod
    def _last(holds: Any) -> int:
        """The last number from 0 on for which something holds that fails from there on; or -1."""
        if not holds(0):
            return -1
        low, high = 0, 1
        while holds(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        return low

    # -- weights in one epoch ----------------------------------------------------------------

    def _segments(self, start: int) -> list[_Segment]:
        """The weights of an epoch that begins at a row, and where in each shard they hold."""
        found = self._latest.get(start)
        if found is None:  # threads of two epochs may ask in turn
            found = self._new_segments(start)
            self._latest.clear()
            self._latest[start] = found
        return found

    def _new_segments(self, start: int) -> list[_Segment]:
        ends = [change.row for change in self.changes[1:]]
        shards = np.arange(self.shards)
        segments: list[_Segment] = []
        earlier = np.zeros((self.shards, len(self.sizes)), np.int64)
        for change, until in itertools.zip_longest(self.changes, ends):
            if until is not None and until <= start:
                continue
            row = max(change.row, start)
            begins = -(-(row - start - shards) // self.shards)
            ends_at = np.full(self.shards, 2**62)
            if until is not None:
                ends_at = -(-(until - start - shards) // self.shards)
            made = _Segment.of(row, until, begins, ends_at, period(change.weights), earlier)
            segments.append(made)
            if until is not None:
                earlier = earlier + np.array(
                    [made.counts(shard, int(ends_at[shard])) for shard in range(self.shards)]
                )
        return segments

    def _counts(self, segments: list[_Segment], shard: int, rows: int) -> np.ndarray:
        total = np.zeros(len(self.sizes), np.int64)
        for segment in segments:
            total += segment.counts(shard, min(rows, int(segment.ends[shard])))
        return total

    def _delivered(self, segments: list[_Segment], position: int) -> np.ndarray:
        total = np.zeros(len(self.sizes), np.int64)
        for shard in range(self.shards):
            total += self._counts(segments, shard, -(-max(0, position - shard) // self.shards))
        return total


@dataclass(frozen=True)
class _Segment:
    """Rows of an epoch with the same weights."""

    row: int  # counted through all epochs
    until: int | None
    begins: np.ndarray  # in each shard's rows
    ends: np.ndarray
    period: Period
    phases: np.ndarray
    at_phases: np.ndarray  # how often each source comes before a shard's phase
    earlier: np.ndarray  # drawn in the epoch before this, less `at_phases`; (shards, sources)

    @classmethod
    def of(
        cls,
        row: int,
        until: int | None,
        begins: np.ndarray,
        ends: np.ndarray,
        of: Period,
        drawn: np.ndarray,
    ) -> _Segment:
        phases = np.array([of.phase(shard) for shard in range(len(begins))])
        at_phases = np.array([of.counts(phase) for phase in phases.tolist()])
        return cls(row, until, begins, ends, of, phases, at_phases, drawn - at_phases)

    def counts(self, shard: int, end: int) -> np.ndarray:
        """How often each source comes here, up to a row of a shard."""
        rows = max(0, end - int(self.begins[shard]))
        return self.period.counts(int(self.phases[shard]) + rows) - self.at_phases[shard]
