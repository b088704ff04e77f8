# SPDX-License-Identifier: Apache-2.0
"""Runs of rows out of windows, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_NEAR = 1 << 14


class WindowSlice(NamedTuple):
    """`count` rows of a window from the one at place `begin` on, in the window's own order."""

    window: int
    begin: int
    count: int


@dataclass(frozen=True)
class WindowSlices:
    """Slices in sequence, as arrays: there may be one for every few rows.

    Parameters
    ----------
    windows, begins, counts : numpy.ndarray of int64
        Of each slice, as in `WindowSlice`.

    Examples
    --------
    >>> pieces = WindowSlices(np.array([7, 7, 8]), np.array([0, 2, 5]), np.array([2, 1, 1]))
    >>> list(pieces.joined())
    [WindowSlice(window=7, begin=0, count=3), WindowSlice(window=8, begin=5, count=1)]
    """

    windows: np.ndarray
    begins: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[WindowSlice]:
        columns = (self.windows, self.begins, self.counts)
        return map(WindowSlice, *(column.tolist() for column in columns))

    def cut(self, start: int, stop: int) -> WindowSlices:
        """The slices from the `start`-th to before the `stop`-th."""
        here = slice(start, stop)
        return WindowSlices(self.windows[here], self.begins[here], self.counts[here])

    def joined(self) -> WindowSlices:
        """The same rows in as few slices as may be."""
        same = self.windows[1:] == self.windows[:-1]
        same &= self.begins[1:] == self.begins[:-1] + self.counts[:-1]
        firsts = np.flatnonzero(np.concatenate([[True], ~same])[: len(self)])
        counts = np.add.reduceat(self.counts, firsts) if len(self) else self.counts
        return WindowSlices(self.windows[firsts], self.begins[firsts], counts)

    def indices(self) -> np.ndarray:
        """The place of each row in its window."""
        return runs(self.begins, self.counts)

    def windows_of_rows(self) -> np.ndarray:
        """The window of each row."""
        return self.windows.repeat(self.counts)


def together(pieces: Sequence[WindowSlices]) -> WindowSlices:
    """All of these in sequence."""
    if len(pieces) == 1:
        return pieces[0]
    return WindowSlices(
        np.concatenate([each.windows for each in pieces]),
        np.concatenate([each.begins for each in pieces]),
        np.concatenate([each.counts for each in pieces]),
    )


def distinct_windows(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ones, ascending, and which of them each is: those open have near numbers.

    Examples
    --------
    >>> [found.tolist() for found in distinct_windows(np.array([9, 7, 9]))]
    [[7, 9], [1, 0, 1]]
    """
    low, high = int(windows.min()), int(windows.max())
    if high - low > _NEAR:
        return np.unique(windows, return_inverse=True)
    places, is_there = windows - low, np.zeros(high - low + 1, np.bool_)
    is_there[places] = True
    return np.flatnonzero(is_there) + low, (np.cumsum(is_there) - 1)[places]


def runs(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """From each of `starts` on, as many consecutive numbers as `counts` says.

    Examples
    --------
    >>> runs(np.array([5, 1]), np.array([2, 3])).tolist()
    [5, 6, 1, 2, 3]
    """
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - ends + counts, counts) + np.arange(total)


def divided(starts: np.ndarray, stops: np.ndarray, unit: int) -> tuple[np.ndarray, ...]:
    """Spans divided where a multiple of `unit` lies inside them.

    Returns
    -------
    owners, starts, stops : numpy.ndarray of int64
        Of each part: the number of the span that it is of, and where it starts and stops.

    Examples
    --------
    >>> [part.tolist() for part in divided(np.array([3, 20]), np.array([11, 20]), 5)]
    [[0, 0, 0], [3, 5, 10], [5, 10, 11]]
    """
    firsts = starts // unit
    counts = np.where(stops > starts, -(-stops // unit) - firsts, 0)
    owners = np.repeat(np.arange(len(starts)), counts)
    edges = runs(firsts, counts) * unit
    return owners, np.maximum(edges, starts[owners]), np.minimum(edges + unit, stops[owners])
