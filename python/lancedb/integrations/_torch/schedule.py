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

from .plan import Piece, Plan

Span = tuple[int, int]


class StepPieces(NamedTuple):
    """How one step's batch is put together, and which windows nobody needs after it."""

    pieces: tuple[Piece, ...]
    spent: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(piece.count for piece in self.pieces)


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


def joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same rows in as few pieces as may be."""
    last: Piece | None = None
    for piece in pieces:
        if last is not None and last.continues_in(piece):
            last = Piece(last.window, last.begin, last.count + piece.count)
            continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last


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
    taken: list[Span] = []
    target, number = 1, 0
    for span in spans:
        taken.append(span)
        if _count(taken) >= target:
            yield _run_group(number, taken)
            target = min(read_rows, 2 * max(target, _count(taken)))
            taken, number = [], number + 1
    if taken:
        yield _run_group(number, taken)


def _run_group(number: int, spans: list[Span]) -> Group:
    steps, begin = [], 0
    for start, stop in spans:
        spent = (number,) if begin + stop - start == _count(spans) else ()
        steps.append(StepPieces((Piece(number, begin, stop - start),), spent))
        begin += stop - start
    return Group(tuple(steps), ((WindowRows(number, begin, tuple(spans)),),))


def _window_groups(plan: Plan, spans: Iterable[Span], read_rows: int) -> Iterator[Group]:
    steps: list[StepPieces] = []
    fresh: list[WindowRows] = []
    open_in_lane: dict[int, int] = {}
    delivered, target = 0, 1
    for span in spans:
        pieces, spent = plan.pieces(*span), []
        for piece in pieces:
            lane = plan.lane_of(piece.window)
            before = open_in_lane.get(lane)
            if before != piece.window:
                open_in_lane[lane] = piece.window
                fresh.append(WindowRows(piece.window, plan.window_size(piece.window)))
                spent += [] if before is None else [before]
        steps.append(StepPieces(pieces, tuple(spent)))
        delivered += span[1] - span[0]
        if sum(window.size for window in fresh) >= target or delivered >= target:
            yield Group(tuple(steps), _reads(fresh, read_rows))
            target = min(read_rows, 2 * max(target, delivered))
            steps, fresh, delivered = [], [], 0
    if steps:
        yield Group(tuple(steps), _reads(fresh, read_rows))


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


def _count(spans: Iterable[Span]) -> int:
    return sum(stop - start for start, stop in spans)
