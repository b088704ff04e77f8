# SPDX-License-Identifier: Apache-2.0
"""The read schedule of one worker: which windows it reads to make its steps, and when.

A *window* here is any set of rows that is read together and delivered in slices: a lane's
window of a block shuffle, or, for the orders that need none, the rows of a few steps in a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .batch_sequence import BatchSequence
from .epoch_order import EpochOrder
from .shards import Shards
from .window_slices import WindowSlices, together

if TYPE_CHECKING:
    from .mixed_windows import WindowPlanner

Span = tuple[int, int]
RowOrder = EpochOrder | BatchSequence


class Step(NamedTuple):
    """One step of a group: its rows, of how many pieces, which windows nobody needs then, and,
    where batches are of one source, of which."""

    rows: int
    pieces: int
    spent: tuple[int, ...] = ()
    source: int = 0


class WindowRows(NamedTuple):
    """A window to read: its rows are those of a block window, or of spans, or listed here."""

    window: int
    size: int
    spans: tuple[Span, ...] = ()
    source: int = 0
    rows: np.ndarray | None = None


PlannedSteps = tuple[WindowSlices, list[tuple[Step, list[WindowRows]]]]


@dataclass(frozen=True)
class Group:
    """Some steps in a row, and the reads to have under way before they can be made.

    Parameters
    ----------
    pieces : WindowSlices
        What the steps are made of, in sequence.
    steps : tuple of Step
        How many of the pieces are each step's.
    reads : tuple of tuple of WindowRows
        The windows of each read that no group before this one needs.
    """

    pieces: WindowSlices
    steps: tuple[Step, ...]
    reads: tuple[tuple[WindowRows, ...], ...]


def rows_of(plan: RowOrder | Shards | WindowPlanner, window: WindowRows) -> np.ndarray:
    """The rows of a window in the order in which it delivers them."""
    if window.rows is not None:
        return window.rows
    assert isinstance(plan, (EpochOrder, BatchSequence, Shards))
    if window.spans and not isinstance(plan, Shards):
        return plan.rows_at(np.concatenate([np.arange(*span) for span in window.spans]))
    return plan.window_rows_of(window.window)


def schedule(
    plan: RowOrder | WindowPlanner, spans: Iterable[Span], read_rows: int, reads: int = 1
) -> Iterator[Group]:
    """Group the steps of one worker so that each group has about `reads` reads of `read_rows` rows.

    The first groups are smaller, so that the first batch does not wait for a full read.

    Parameters
    ----------
    plan : EpochOrder, BatchSequence or WindowPlanner
        The epoch's order of rows, of documents, or of rows out of several sources.
    spans : iterable of (int, int)
        The positions of each of the worker's steps, ascending.
    read_rows : int
        Rows of one call to the reader.
    reads : int, optional
        Of windows; more than one where they are of several sources, and a read is of one.
    """
    if not isinstance(plan, (EpochOrder, BatchSequence)):
        return _window_groups(plan.planned(spans, reads * read_rows), read_rows, reads)
    if plan.has_windows:
        return _window_groups(_planned(plan, spans, read_rows), read_rows, reads)
    return _run_groups(spans, read_rows)


def _run_groups(spans: Iterable[Span], read_rows: int) -> Iterator[Group]:
    for number, taken in enumerate(in_batches(spans, read_rows)):
        counts = np.diff(np.array(taken), axis=1)[:, 0]
        begins = np.cumsum(counts) - counts
        pieces = WindowSlices(np.full(len(taken), number), begins, counts)
        *steps, last = (Step(rows, 1) for rows in counts.tolist())
        steps.append(last._replace(spent=(number,)))
        read = WindowRows(number, int(counts.sum()), tuple(taken))
        yield Group(pieces, tuple(steps), ((read,),))


def _window_groups(steps: Iterator[PlannedSteps], read_rows: int, reads: int) -> Iterator[Group]:
    growing, target = _Growing(), 1
    for pieces, planned in steps:
        begin = end = 0
        for step, opened in planned:
            growing.add(step, opened)
            end += step.pieces
            if growing.rows >= target:
                growing.parts.append(pieces.cut(begin, end))
                yield growing.group(read_rows)
                target = min(reads * read_rows, 2 * max(target, growing.delivered))
                growing, begin = _Growing(), end
        growing.parts.append(pieces.cut(begin, end))
    if growing.steps:
        yield growing.group(read_rows)


class _Growing:
    """A group that more steps are added to."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.parts: list[WindowSlices] = []
        self.delivered = 0
        self._opened: list[WindowRows] = []
        self._opened_rows = 0

    def add(self, step: Step, opened: list[WindowRows]) -> None:
        """One more step, and the windows that it is the first to need; its pieces go to `parts`."""
        self.steps.append(step)
        self.delivered += step.rows
        self._opened += opened
        self._opened_rows += sum(window.size for window in opened)

    @property
    def rows(self) -> int:
        """Rows that are delivered or read, whichever are more."""
        return max(self._opened_rows, self.delivered)

    def group(self, read_rows: int) -> Group:
        return Group(together(self.parts), tuple(self.steps), in_reads(self._opened, read_rows))


def _planned(plan: RowOrder, spans: Iterable[Span], read_rows: int) -> Iterator[PlannedSteps]:
    """The pieces of some steps in a row, and of each step the windows it is the first to need."""
    open_in_lane: dict[int, int] = {}
    for number, some in enumerate(in_batches(spans, read_rows)):
        pieces, counts = plan.pieces_of(np.array(some))
        pieces, tail = _tail_of_its_own(plan, pieces, plan.tail_window + number)
        opened: dict[int, list[WindowRows]] = {}
        spent: dict[int, list[int]] = {}
        for window, step in steps_that_need_first(pieces, counts):
            lane = plan.lane_of(window)
            before = open_in_lane.get(lane)
            if before != window:
                open_in_lane[lane] = window
                in_lane = lane < plan.lanes
                read = WindowRows(window, plan.window_size(window)) if in_lane else tail
                opened.setdefault(step, []).append(read)
                spent.setdefault(step, []).extend([] if before is None else [before])
        yield (
            pieces,
            [
                (Step(stop - start, count, tuple(spent.get(number, ()))), opened.get(number, []))
                for number, ((start, stop), count) in enumerate(
                    zip(some, counts.tolist(), strict=True)
                )
            ],
        )


def _tail_of_its_own(
    plan: RowOrder, pieces: WindowSlices, number: int
) -> tuple[WindowSlices, WindowRows]:
    """The pieces with those of the tail in a window that has no other rows.

    The lanes' leftovers belong to every step alike, and each rank and worker reads its own of
    them. Where nothing but them is, they are the one window that all read as a whole.
    """
    if plan.body_rows == 0:
        return pieces, WindowRows(plan.tail_window, plan.window_size(plan.tail_window))
    here = pieces.windows == plan.tail_window
    begins, counts = pieces.begins[here], pieces.counts[here]
    starts = plan.body_rows + begins
    spans = zip(starts.tolist(), (starts + counts).tolist(), strict=True)
    own = WindowSlices(pieces.windows.copy(), pieces.begins.copy(), pieces.counts)
    own.windows[here], own.begins[here] = number, np.cumsum(counts) - counts
    return own, WindowRows(number, int(counts.sum()), tuple(spans))


def steps_that_need_first(pieces: WindowSlices, counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """The windows of some steps' pieces, and the step that needs each of them first."""
    firsts = np.sort(np.unique(pieces.windows, return_index=True)[1])
    steps = np.searchsorted(np.cumsum(counts), firsts, "right")
    return zip(pieces.windows[firsts].tolist(), steps.tolist(), strict=True)


def in_batches(spans: Iterable[Span], most_rows: int) -> Iterator[list[Span]]:
    """Spans to plan at once: few at first, as the first batch waits for them."""
    batch: list[Span] = []
    rows, target = 0, 1
    for start, stop in spans:
        batch.append((start, stop))
        rows += stop - start
        if rows >= target:
            yield batch
            target = min(most_rows, 2 * max(target, rows))
            batch, rows = [], 0
    if batch:
        yield batch


def in_reads(windows: list[WindowRows], read_rows: int) -> tuple[tuple[WindowRows, ...], ...]:
    """Windows packed into reads of about `read_rows` rows of a source; a large one has its own."""
    reads: list[list[WindowRows]] = []
    rows = 0
    for window in sorted(windows, key=lambda window: window.source):
        if not reads or rows + window.size > read_rows or reads[-1][0].source != window.source:
            reads.append([])
            rows = 0
        reads[-1].append(window)
        rows += window.size
    return tuple(map(tuple, reads))
