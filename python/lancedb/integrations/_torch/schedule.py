# SPDX-License-Identifier: Apache-2.0
"""Knows what one worker reads, in which order, to make its steps; pure arithmetic.

A *window* here is any set of rows that is read together and handed out in pieces: a lane's
window of a block shuffle, or, for the orders that need none, the rows of a few steps in a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .pieces import Pieces
from .plan import Plan

Span = tuple[int, int]


class StepPieces(NamedTuple):
    """How one step's batch is put together, and which windows nobody needs after it."""

    pieces: Pieces
    spent: tuple[int, ...]
    rows: int


class WindowRows(NamedTuple):
    """A window to read: its rows are those of a block window, or of spans of positions."""

    window: int
    size: int
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Group:
    """Some steps in a row, and the reads to have under way before they can be made."""

    steps: tuple[StepPieces, ...]
    reads: tuple[tuple[WindowRows, ...], ...]


def rows_of(plan: Plan, window: WindowRows) -> np.ndarray:
    """The rows of a window in the order in which it hands them out."""
    if window.spans:
        return plan.rows_at(np.concatenate([np.arange(*span) for span in window.spans]))
    return plan.window_rows_of(window.window)


def schedule(plan: Plan, spans: Iterable[Span], read_rows: int) -> Iterator[Group]:
    """Group the steps of one worker so that each group's reads have about `read_rows` rows.

    The first groups are smaller, so that the first batch does not wait for a full read.

    Parameters
    ----------
    plan : Plan
        The epoch's order of rows.
    spans : iterable of (int, int)
        The positions of each of the worker's steps, ascending.
    read_rows : int
        Rows of one call to the reader.
    """
    if plan.has_windows:
        return _window_groups(plan, spans, read_rows)
    return _run_groups(spans, read_rows)


def _run_groups(spans: Iterable[Span], read_rows: int) -> Iterator[Group]:
    for number, taken in enumerate(_in_batches(spans, read_rows)):
        yield _run_group(number, taken)


def _run_group(number: int, spans: list[Span]) -> Group:
    steps, begin = [], 0
    for at, (start, stop) in enumerate(spans, 1):
        spent = (number,) if at == len(spans) else ()
        steps.append(StepPieces(_one_piece(number, begin, stop - start), spent, stop - start))
        begin += stop - start
    return Group(tuple(steps), ((WindowRows(number, begin, tuple(spans)),),))


def _window_groups(plan: Plan, spans: Iterable[Span], read_rows: int) -> Iterator[Group]:
    steps: list[StepPieces] = []
    fresh: list[WindowRows] = []
    delivered, target = 0, 1
    for step, opened in _window_steps(plan, spans, read_rows):
        steps.append(step)
        fresh += opened
        delivered += step.rows
        if sum(window.size for window in fresh) >= target or delivered >= target:
            yield Group(tuple(steps), _reads(fresh, read_rows))
            target = min(read_rows, 2 * max(target, delivered))
            steps, fresh, delivered = [], [], 0
    if steps:
        yield Group(tuple(steps), _reads(fresh, read_rows))


def _window_steps(
    plan: Plan, spans: Iterable[Span], read_rows: int
) -> Iterator[tuple[StepPieces, list[WindowRows]]]:
    """Every step, and the windows that it is the first to need."""
    open_in_lane: dict[int, int] = {}
    for some in _in_batches(spans, read_rows):
        pieces, counts = plan.pieces_of(np.array(some))
        ends = np.cumsum(counts)
        opened: list[list[WindowRows]] = [[] for _ in some]
        spent: list[list[int]] = [[] for _ in some]
        firsts = np.unique(pieces.windows, return_index=True)[1]
        for first in np.sort(firsts).tolist():
            window, step = int(pieces.windows[first]), int(np.searchsorted(ends, first, "right"))
            lane = plan.lane_of(window)
            before = open_in_lane.get(lane)
            if before != window:
                open_in_lane[lane] = window
                opened[step].append(WindowRows(window, plan.window_size(window)))
                spent[step] += [] if before is None else [before]
        start = 0
        for number, (stop, (begin, end)) in enumerate(zip(ends.tolist(), some, strict=True)):
            made = StepPieces(pieces.cut(start, stop), tuple(spent[number]), end - begin)
            yield made, opened[number]
            start = stop


def _in_batches(spans: Iterable[Span], most_rows: int) -> Iterator[list[Span]]:
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


def _one_piece(window: int, begin: int, count: int) -> Pieces:
    return Pieces(np.array([window]), np.array([begin]), np.array([count]))


def _reads(windows: list[WindowRows], read_rows: int) -> tuple[tuple[WindowRows, ...], ...]:
    """Windows packed into reads of about `read_rows` rows; a large window has its own."""
    reads: list[list[WindowRows]] = []
    rows = 0
    for window in windows:
        if not reads or rows + window.size > read_rows:
            reads.append([])
            rows = 0
        reads[-1].append(window)
        rows += window.size
    return tuple(map(tuple, reads))
