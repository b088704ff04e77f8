# SPDX-License-Identifier: Apache-2.0
"""Knows windows of rows that are all in memory: what is open is which rows they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from .pieces import Pieces
from .plan import Plan
from .reader import Reader, Reading
from .reads import Reads
from .resident import Resident, TooLarge
from .schedule import WindowRows, rows_of
from .selection import Selection, places_in


class Everything:
    """All rows of a selection, once they were read.

    Parameters
    ----------
    reader : Reader
        Of the rows to hold: a stretch of the table, or the selection itself.
    selection : Selection
        Whose rows are asked for, by their place in its base order.
    row_bytes : int
        Arrow bytes of an average row.
    most_bytes : int, optional
        How many of them there may be; the average is that of a sample.
    """

    def __init__(
        self, reader: Reader, selection: Selection, row_bytes: int, most_bytes: int | None
    ):
        self.reader = reader
        self.rows = Resident(reader.selection.num_rows, row_bytes, most_bytes)
        self._selection = selection

    def load(self, reads: Reads, ahead: int) -> bool:
        """Read all rows, unless that was done; False if they are too large to be kept.

        Parameters
        ----------
        reads : Reads
            What reads them.
        ahead : int
            How many more reads are under way meanwhile.
        """
        try:
            self.rows.load(self._read(reads, ahead))
        except TooLarge:
            return False
        return True

    def _read(self, reads: Reads, ahead: int) -> Iterator[pa.RecordBatch]:
        under_way: deque[Reading] = deque()
        for rows in self.rows.parts():
            under_way.append(reads.begin_rows(rows))
            if len(under_way) > ahead:
                yield _finished(reads, under_way.popleft())
        while under_way:
            yield _finished(reads, under_way.popleft())

    def take(self, rows: np.ndarray) -> pa.RecordBatch:
        """Some rows of the selection, in that order; they must be loaded."""
        return self.rows.take(places_in(self.reader.selection, self._selection, rows))


def _finished(reads: Reads, reading: Reading) -> pa.RecordBatch:
    batch = reading.in_order()
    reads.finish(reading)
    return batch


class ResidentSource:
    """As `reads.Source`, over rows that are all in memory.

    Parameters
    ----------
    plan : Plan
        The epoch's order of rows.
    everything : Everything
        Loaded.
    """

    def __init__(self, plan: Plan, everything: Everything):
        self._plan = plan
        self._everything = everything
        self._open: dict[int, np.ndarray] = {}

    def begin(self, windows: Sequence[WindowRows]) -> None:
        self._open.update((window.window, rows_of(self._plan, window)) for window in windows)

    def batch(self, pieces: Pieces) -> pa.RecordBatch:
        rows = [self._open[at.window][at.begin : at.begin + at.count] for at in pieces.joined()]
        return self._everything.take(np.concatenate(rows))

    def drop(self, window: int) -> None:
        del self._open[window]

    def close(self) -> None:
        self._open.clear()
