# SPDX-License-Identifier: Apache-2.0
"""Rows of a column that is in several pieces of memory, taken as if it were one."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from .fixed_width import buffer_for, copy_rows, from_raw, row_bytes
from .take import FixedRows, Rows, take_column
from .variable_width import ViewRows, copied, views_of_several

# The most units of a row, as numpy copies them one by one.
_MOST_UNITS = 8
_MOST_STRAYS = 2


class Wanted:
    """Places of rows, and the piece that each is in; the same for all columns.

    Parameters
    ----------
    starts : numpy.ndarray of int64
        The place of each piece's first row, ascending.
    places : numpy.ndarray of int64
        The rows that are wanted.
    """

    def __init__(self, starts: np.ndarray, places: np.ndarray):
        self.places = places
        self.owners = np.searchsorted(starts, places, side="right") - 1
        self._starts = starts

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def groups(self) -> list[tuple[int, np.ndarray]]:
        """Of each piece that has some of the rows, its number and their places in it."""
        counts = np.bincount(self.owners, minlength=len(self._starts))
        ends = np.cumsum(counts)
        ordered = self.places[self._order]
        return [
            (number, ordered[ends[number] - counts[number] : ends[number]] - self._starts[number])
            for number in np.flatnonzero(counts).tolist()
        ]

    @cached_property
    def back(self) -> np.ndarray:
        """Where each wanted row stands among those of all groups."""
        back = np.empty(len(self.places), np.int64)
        back[self._order] = np.arange(len(self.places))
        return back

    @cached_property
    def _order(self) -> np.ndarray:
        owners = self.owners
        if len(self._starts) < 1 << 16:
            owners = owners.astype(np.uint16)  # which numpy sorts fastest
        return np.argsort(owners, kind="stable")


class SlicesOfRows:
    """Pieces of a column, which need not follow each other without a gap.

    Parameters
    ----------
    kind : pyarrow.DataType
        Of the column.
    pieces : sequence of Rows
        In sequence.
    starts : numpy.ndarray of int64
        The place of each one's first row, ascending.
    """

    def __init__(self, kind: pa.DataType, pieces: Sequence[Rows], starts: np.ndarray):
        self._kind = kind
        self._pieces = pieces
        self._starts = starts
        fixed = [piece.bytes for piece in pieces if isinstance(piece, FixedRows)]
        self._fixed = fixed if len(fixed) == len(pieces) else None
        views = [piece for piece in pieces if isinstance(piece, ViewRows)]
        self._views = views if len(views) == len(pieces) else None
        self._grid = None if self._fixed is None else grid_of(fixed, starts)

    def take(self, indices: np.ndarray) -> pa.Array:
        """The values at some places, each of which is in one of the pieces."""
        return self.take_wanted(Wanted(self._starts, indices))

    def take_wanted(self, wanted: Wanted) -> pa.Array:
        """As `take`, of places that were looked up by the same starts."""
        if self._fixed is not None:
            data, out = buffer_for(len(wanted), row_bytes(self._kind))
            if self._grid is not None:
                self._grid.copy(wanted, out)
            else:
                _copy_in_groups(self._fixed, wanted, out)
            return from_raw(self._kind, len(wanted), data)
        if self._views is not None and len(wanted):
            taken = [(self._views[number], rows) for number, rows in wanted.groups]
            return copied(self._kind, views_of_several(taken, wanted.back))
        parts = [pa.nulls(0, self._kind)]
        parts += [self._pieces[number].take(rows) for number, rows in wanted.groups]
        return take_column(pa.concat_arrays(parts), wanted.back)


def _copy_in_groups(pieces: Sequence[np.ndarray], wanted: Wanted, out: np.ndarray) -> None:
    """Copy the wanted rows, piece by piece."""
    # Twice, as numpy puts rows fastest into consecutive places.
    grouped, start = np.empty_like(out), 0
    for number, rows in wanted.groups:
        copy_rows(pieces[number], rows, grouped[start : start + len(rows)])
        start += len(rows)
    copy_rows(grouped, wanted.back, out)


class Grid(NamedTuple):
    """Pieces of fixed width, as one array over all of the memory that they are in.

    What is between the pieces is nobody's: no place leads there.

    Parameters
    ----------
    rows : numpy.ndarray
        From the first byte of the lowest piece to the last one of the highest, in units of which
        a row has one or some.
    units : int
        Of a row.
    firsts : numpy.ndarray of int64
        Of each piece, which unit the row at place 0 would begin at if it were in it.
    strays : dict of int to (int, numpy.ndarray)
        By number, the pieces that are not on the grid: their starts and rows.
    """

    rows: np.ndarray
    units: int
    firsts: np.ndarray
    strays: dict[int, tuple[int, np.ndarray]]

    def copy(self, wanted: Wanted, out: np.ndarray) -> None:
        """Copy the wanted rows, in their order."""
        units = wanted.places * self.units + self.firsts[wanted.owners]
        stray = {number: np.flatnonzero(wanted.owners == number) for number in self.strays}
        for here in stray.values():
            units[here] = 0
        if self.units > 1:
            units = (units[:, None] + np.arange(self.units)).ravel()
        copy_rows(self.rows, units, out.view(self.rows.dtype))
        for number, here in stray.items():
            start, rows = self.strays[number]
            out[here] = rows[wanted.places[here] - start]


def grid_of(pieces: Sequence[np.ndarray], starts: np.ndarray) -> Grid | None:
    """The grid that pieces lie on, if few do not and its units are large.

    Files of one schema and of as many rows have a column at the same place of a page. So all but
    the last one are on one grid, if the width of a row and the size of a page have much in common.

    Parameters
    ----------
    pieces : sequence of numpy.ndarray
        Rows of one width.
    starts : numpy.ndarray of int64
        The place of each piece's first row.
    """
    width = pieces[0].dtype.itemsize
    unit = math.gcd(width, mmap.PAGESIZE)
    addresses = np.array([each.__array_interface__["data"][0] for each in pieces])
    found, counts = np.unique(addresses % unit, return_counts=True)
    is_stray = addresses % unit != found[np.argmax(counts)]
    if width > _MOST_UNITS * unit or np.count_nonzero(is_stray) > _MOST_STRAYS:
        return None
    low = int(addresses[~is_stray].min())
    ends = addresses + width * np.array([len(each) for each in pieces])
    memory = pa.foreign_buffer(low, int(ends[~is_stray].max()) - low, base=pieces)
    return Grid(
        np.frombuffer(memory, f"V{unit}"),
        width // unit,
        (addresses - low) // unit - starts * (width // unit),
        {at: (int(starts[at]), pieces[at]) for at in np.flatnonzero(is_stray).tolist()},
    )
