# SPDX-License-Identifier: Apache-2.0
"""Rows that are asked for one by one, read as the batch that they are for.

A read of one row takes lancedb a millisecond, and one of 64 not much longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrow.dictionaries import own_bytes

# Of rows that are read ahead of being asked for; they stay in memory until others are.
_MOST_BYTES = 16 << 20
_FIRST_ROWS = 16
# So many rows for nothing, and so many times as many as were used, show that others are asked for.
_FOR_NOTHING = 256
_TIMES = 4

Read = Callable[[np.ndarray], pa.RecordBatch]


class Ahead:
    """Rows that were read together.

    Attributes
    ----------
    batch : pyarrow.RecordBatch
        The rows.
    rows : sequence, optional
        The same in the format of the dataset, None until somebody has made them.
    """

    def __init__(self, numbers: list[int], batch: pa.RecordBatch):
        self.batch = batch
        self.rows: Sequence[Any] | None = None
        self._places: dict[int, list[int]] = {}
        for place, number in enumerate(numbers):
            self._places.setdefault(number, []).append(place)

    def take(self, number: int) -> int | None:
        """Where a row stands that was not taken yet, None if there is none."""
        places = self._places.get(number)
        return places.pop(0) if places else None


class RowsAhead:
    """The rows that were read last, of those that a batch consists of.

    In another process it begins with none.
    """

    def __init__(self) -> None:
        self._last: Ahead | None = None
        self._row_bytes: float | None = None
        self._read = self._used = 0

    def __reduce__(self) -> tuple:
        return RowsAhead, ()

    def find(
        self, row: int, length: int, to_come: Callable[[], Any], read: Read
    ) -> tuple[Ahead, int]:
        """The rows that were read together with one, and its place among them.

        Parameters
        ----------
        row : int
            In ``[0, length)``.
        length : int
            How many rows there are.
        to_come : callable
            Returns the rows that will be asked for, as far as is known, or None.
        read : callable of numpy.ndarray to RecordBatch
            Reads rows.
        """
        ahead = self._last
        place = None if ahead is None else ahead.take(row)
        if ahead is not None and place is not None:
            self._used += 1
            return ahead, place
        wanted = self._wanted(row, length, to_come())
        ahead = Ahead(wanted, read(np.array(wanted)))
        self._row_bytes = own_bytes(ahead.batch) / len(wanted)
        self._last = ahead if len(wanted) > 1 else None
        self._read += len(wanted) - 1
        return ahead, ahead.take(row) or 0

    def _wanted(self, row: int, length: int, to_come: Sequence[int] | None) -> list[int]:
        """The row asked for, and those after it in the batch that fit."""
        if self._read - self._used * _TIMES > _FOR_NOTHING or not to_come:
            return [row]
        rows = [each + length if each < 0 else each for each in to_come]
        if row not in rows:
            return [row]
        most = _FIRST_ROWS
        if self._row_bytes is not None:
            most = max(1, int(_MOST_BYTES / max(self._row_bytes, 1.0)))
        later = rows[rows.index(row) :][:most]
        return [each for each in later if 0 <= each < length]
