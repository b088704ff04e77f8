# SPDX-License-Identifier: Apache-2.0
"""The windows in which the rows of a mixture's steps are read.

Each source has a plan of its own for each of its epochs; a window of it is here named by a number
of the whole mixture. Rows that are in no lane are read with their steps.

A source's windows do not end with the mixture's epoch: those that are open then go on in the next
one. Where they cannot, as on resume or where other ranks go on with them, only those of their rows
are read that the epoch needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .read_schedule import PlannedSteps, Span, Step, WindowRows, in_batches
from .shards import Shards
from .window_slices import WindowSlices, distinct_windows, runs


class Stretch(NamedTuple):
    """Rows of one source's epoch: their places among others, and the spans of its parts that they
    are in sequence, of which the part is the window."""

    source: int
    epoch: int
    here: np.ndarray
    spans: WindowSlices

    def parts_and_indices(self) -> tuple[np.ndarray, np.ndarray]:
        """The part of each row, and where it stands there."""
        return self.spans.windows_of_rows(), self.spans.indices()

    def divided(self, at: int) -> tuple[Stretch, Stretch]:
        """Those that stand before a row of their parts, and those that do not."""
        parts, begins, counts = self.spans.windows, self.spans.begins, self.spans.counts
        is_before, before = self.spans.indices() < at, np.clip(at - begins, 0, counts)
        after = WindowSlices(parts, begins + before, counts - before)
        return (
            self._replace(here=self.here[is_before], spans=WindowSlices(parts, begins, before)),
            self._replace(here=self.here[~is_before], spans=after),
        )


class OpenWindow(NamedTuple):
    """A window of a source's epoch, and the first of its rows that is read."""

    source: int
    epoch: int
    number: int
    first: int


class OpenWindows(Mapping[int, OpenWindow]):
    """The windows of all sources that are open, by numbers of the whole mixture.

    Parameters
    ----------
    sources : int
        How many there are; a window's number is its source's, modulo this.
    """

    def __init__(self, sources: int):
        self._sources = sources
        self._counter = itertools.count()
        self._numbers: dict[tuple[int, int, int], int] = {}
        self._windows: dict[int, OpenWindow] = {}
        self._in_lane: dict[tuple[int, int], int] = {}

    def __getitem__(self, number: int) -> OpenWindow:
        return self._windows[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._windows)

    def __len__(self) -> int:
        return len(self._windows)

    def new_number(self, source: int) -> int:
        """A number for a window of a source."""
        return next(self._counter) * self._sources + source

    def number(self, window: OpenWindow) -> tuple[int, bool]:
        """The number of a window, and whether it was not open before."""
        key = window[:3]
        found = self._numbers.get(key)
        if found is not None:
            return found, False
        self._numbers[key] = number = self.new_number(window.source)
        self._windows[number] = window
        return number, True

    def follow(self, number: int, lane: int) -> int | None:
        """Have a window follow the one that its source's lane had open, which is open no more."""
        place = (self._windows[number].source, lane)
        before = self._in_lane.get(place)
        self._in_lane[place] = number
        if before is not None:
            self._close(before)
        return before

    def keep(self, numbers: Container[int]) -> None:
        """Close all but some."""
        for place, number in list(self._in_lane.items()):
            if number not in numbers:
                del self._in_lane[place]
        for number in list(self._windows):
            if number not in numbers:
                self._close(number)

    def _close(self, number: int) -> None:
        del self._numbers[self._windows.pop(number)[:3]]


class DrawnRows(NamedTuple):
    """Some rows: parts of steps in sequence, what they are source by source, and their order.

    Of each part it is the step, and how many rows there are up to its end.
    """

    steps: np.ndarray
    ends: np.ndarray
    stretches: list[Stretch]
    order: np.ndarray

    def step_of(self, rows: np.ndarray) -> np.ndarray:
        """The step of some of the rows."""
        return self.steps[np.searchsorted(self.ends, rows, "right")]


class WindowPlanner:
    """Gives windows of all sources and epochs numbers of their own, while they are open.

    Parameters
    ----------
    drawn : callable of list of (int, int) to DrawnRows
        The rows of some shares of steps.
    shards : callable of (int, int) to Shards
        A source's rows in one of its epochs.
    until : callable of (int, int, int) to int or None
        The row of a source's part, in one of the source's epochs, at which windows end early.
    in_memory : sequence of bool
        Of each source, whether its rows are read once: then windows serve nothing.
    whole_steps : bool
        Whether each step is of one source.
    windows : OpenWindows, optional
        Those that the epoch before has left open.
    """

    def __init__(
        self,
        drawn: Callable[[list[Span]], DrawnRows],
        shards: Callable[[int, int], Shards],
        until: Callable[[int, int, int], int | None],
        in_memory: Sequence[bool],
        whole_steps: bool,
        windows: OpenWindows | None = None,
    ):
        self._drawn = drawn
        self._shards = shards
        self._until = until
        self._in_memory = in_memory
        self._whole_steps = whole_steps
        self.windows = OpenWindows(len(in_memory)) if windows is None else windows
        self.is_over = False

    def planned(self, spans: Iterable[Span], read_rows: int) -> Iterator[PlannedSteps]:
        """The pieces of some steps in a row, and of each step the windows it is first to need."""
        for some in in_batches(spans, read_rows):
            yield self.planned_at_once(some, self._drawn(some))
        self.windows.keep({each for each in self.windows if self._end_of(each) is None})
        self.is_over = True

    def planned_at_once(self, spans: list[Span], drawn: DrawnRows) -> PlannedSteps:
        """As `planned`, of the rows of some steps, those before which were planned before."""
        needed: list[tuple[int, int]] = []
        windows, begins, reads = self._located(drawn, needed)
        pieces = WindowSlices(windows, begins, np.ones(len(windows), np.int64))
        rows = np.diff(drawn.ends, prepend=0)
        counts = np.bincount(drawn.steps, rows, len(spans)).astype(np.int64)
        steps = self._steps(spans, counts, reads, needed)
        return pieces, self._with_sources(steps, drawn) if self._whole_steps else steps

    @staticmethod
    def _with_sources(
        steps: list[tuple[Step, list[WindowRows]]], drawn: DrawnRows
    ) -> list[tuple[Step, list[WindowRows]]]:
        sources = np.empty(len(steps), np.int64)
        for stretch in drawn.stretches:
            sources[drawn.step_of(stretch.here)] = stretch.source
        return [
            (step._replace(source=source), opened)
            for (step, opened), source in zip(steps, sources.tolist(), strict=True)
        ]

    def _steps(
        self,
        spans: list[Span],
        counts: np.ndarray,
        reads: dict[int, WindowRows],
        needed: list[tuple[int, int]],
    ) -> list[tuple[Step, list[WindowRows]]]:
        opened: dict[int, list[WindowRows]] = {}
        spent: dict[int, list[int]] = {}
        # Rows of a step are shuffled: a lane's windows come in the order of their epochs and ids.
        needed.sort(key=lambda each: (each[0], self.windows.get(each[1], ())))
        for step, window in needed:
            if window in reads:  # of these steps alone
                opened.setdefault(step, []).append(reads[window])
                spent.setdefault(len(spans) - 1, []).append(window)
                continue
            source, epoch, number, first = self.windows[window]
            shards = self._shards(source, epoch)
            rows = shards.window_rows_of(number)[first : self._end_of(window)]
            read = WindowRows(window, len(rows), source=source, rows=rows)
            opened.setdefault(step, []).append(read)
            before = self.windows.follow(window, shards.lane_of(number))
            if before is not None:
                spent.setdefault(step, []).append(before)
        return [
            (Step(stop - start, count, tuple(spent.get(number, ()))), opened.get(number, []))
            for number, ((start, stop), count) in enumerate(
                zip(spans, counts.tolist(), strict=True)
            )
        ]

    def _end_of(self, window: int) -> int | None:
        """Before which of its rows a window ends that does not go on in the next epoch."""
        source, epoch, number, _ = self.windows[window]
        shards = self._shards(source, epoch)
        until = self._until(source, epoch, shards.shard_of(number))
        return None if until is None else shards.in_window_before(number, until)

    def _located(
        self, drawn: DrawnRows, needed: list[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray, dict[int, WindowRows]]:
        """The window of each row and its place there; and the windows of these rows alone.

        `needed` is given the first step of each window that was not needed before.
        """
        windows, begins = np.empty((2, len(drawn.order)), np.int64)
        loose: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for stretch in drawn.stretches:
            source = stretch.source
            shards = self._shards(source, stretch.epoch)
            if shards.plan.has_windows and not self._in_memory[source]:
                in_lanes, rest = stretch, None
                if (stretch.spans.begins + stretch.spans.counts).max() > shards.body_rows:
                    in_lanes, rest = stretch.divided(shards.body_rows)
                self._place(in_lanes, shards, drawn, windows, begins, needed)
                if rest is None:
                    continue
                stretch = rest
            rows = shards.rows_at(*stretch.parts_and_indices())
            loose.setdefault(source, []).append((stretch.here, rows))
        reads = {}
        for source, found in loose.items():
            here, rows = map(np.concatenate, zip(*found, strict=True))
            steps = drawn.step_of(here)
            order = np.argsort(steps, kind="stable")  # in which windows are delivered
            here, rows = here[order], rows[order]
            window = self.windows.new_number(source)
            windows[here], begins[here] = window, np.arange(len(here))
            needed.append((int(steps[order[0]]), window))
            reads[window] = WindowRows(window, len(rows), source=source, rows=rows)
        return windows[drawn.order], begins[drawn.order], reads

    def _place(
        self,
        stretch: Stretch,
        shards: Shards,
        drawn: DrawnRows,
        windows: np.ndarray,
        begins: np.ndarray,
        needed: list[tuple[int, int]],
    ) -> None:
        """Say of some rows of lanes where they are."""
        source, epoch, here, spans = stretch
        if not len(here):
            return
        edges = np.stack([spans.begins, spans.begins + spans.counts], axis=1)
        pieces, _ = shards.pieces_of(spans.windows, edges)
        distinct, places = distinct_windows(pieces.windows)
        at = np.empty(len(distinct), np.int64)
        at[places[::-1]] = np.arange(len(places))[::-1]  # the first piece of each
        wanted = zip(distinct.tolist(), pieces.begins[at].tolist(), strict=True)
        found = [self.windows.number(OpenWindow(source, epoch, *each)) for each in wanted]
        names, is_new = (np.array(each) for each in zip(*found, strict=True))
        # A window has rows of one part alone, and so the first of its pieces has the first row.
        firsts = (np.cumsum(pieces.counts) - pieces.counts)[at[is_new]]
        needed += zip(drawn.step_of(here[firsts]).tolist(), names[is_new].tolist(), strict=True)
        windows[here] = np.repeat(names[places], pieces.counts)
        read = np.array([self.windows[name].first for name in names.tolist()])
        begins[here] = runs(pieces.begins - read[places], pieces.counts)
