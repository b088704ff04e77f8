# SPDX-License-Identifier: Apache-2.0
"""Rows of a column that is in several pieces of memory, taken as if it were one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from .fixed_width import buffer_for, from_raw, row_bytes
from .take import FixedRows, Rows, take_column


class Grouped:
    """Places of rows, grouped by the piece that each is in; the same for all columns.

    Parameters
    ----------
    starts : numpy.ndarray of int64
        The place of each piece's first row, ascending.
    places : numpy.ndarray of int64
        The rows that are wanted.
    """

    def __init__(self, starts: np.ndarray, places: np.ndarray):
        owners = np.searchsorted(starts, places, side="right") - 1
        if len(starts) < 1 << 16:
            owners = owners.astype(np.uint16)  # which numpy sorts fastest
        order = np.argsort(owners, kind="stable")
        counts = np.bincount(owners, minlength=len(starts))
        ends = np.cumsum(counts)
        sorted_places = places[order]
        self.pieces = [
            (number, sorted_places[ends[number] - counts[number] : ends[number]] - starts[number])
            for number in np.flatnonzero(counts).tolist()
        ]
        self.back = np.empty(len(places), np.int64)
        self.back[order] = np.arange(len(places))
        """Where each wanted row stands among those grouped."""

    def __len__(self) -> int:
        return len(self.back)


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
        self._fixed = [piece for piece in pieces if isinstance(piece, FixedRows)]

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def take(self, indices: np.ndarray) -> pa.Array:
        """The values at some places, each of which is in one of the pieces."""
        return self.take_grouped(Grouped(self._starts, indices))

    def take_grouped(self, wanted: Grouped) -> pa.Array:
        """As `take`, of places that were grouped by the same starts."""
        if len(self._fixed) == len(self._pieces):
            return self._copied(wanted)
        parts = [pa.nulls(0, self._kind)]
        parts += [self._pieces[number].take(rows) for number, rows in wanted.pieces]
        return take_column(pa.concat_arrays(parts), wanted.back)

    def _copied(self, wanted: Grouped) -> pa.Array:
        width = row_bytes(self._kind)
        # Twice, as numpy puts rows fastest into consecutive places.
        grouped, start = np.empty(len(wanted), f"V{width}"), 0
        for number, rows in wanted.pieces:
            self._fixed[number].bytes.take(rows, 0, grouped[start : start + len(rows)], "clip")
            start += len(rows)
        data, out = buffer_for(len(wanted), width)
        grouped.take(wanted.back, 0, out, "clip")
        return from_raw(self._kind, len(wanted), data)
