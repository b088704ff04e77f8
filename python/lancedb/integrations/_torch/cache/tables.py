# SPDX-License-Identifier: Apache-2.0
"""Tables cached in memory, and the memory of windows, from epoch to epoch."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrow.buffer_pool import SEGMENTS, WindowMemory
from ..arrow.in_memory import InMemoryRows, TooLarge
from ..frameworks.torch_loader import in_worker
from ..order.epoch_order import EpochOrder
from ..table.reader import PendingRead, Reader
from ..table.selection import Selection, places_in

# What one process caches unasked: as much as its windows would have; less where there are several.
MOST_BYTES = 256 << 20
FEWER_BYTES = 64 << 20


def most_cached() -> int:
    """How many Arrow bytes of a table's rows this process may cache unasked."""
    return FEWER_BYTES if in_worker() else MOST_BYTES


class CachedTable:
    """All rows of a reader, once they are read, to take rows of another selection from.

    Parameters
    ----------
    reader : Reader
        Of the rows to cache: a stretch of the table, or the selection itself.
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
        self.rows = InMemoryRows(reader.selection.num_rows, row_bytes, most_bytes)
        self._selection = selection

    @property
    def is_loaded(self) -> bool:
        """Whether the rows are in memory."""
        return self.rows.is_loaded

    def load(
        self,
        begin: Callable[[np.ndarray], PendingRead],
        finish: Callable[[PendingRead], None],
        ahead: int,
    ) -> bool:
        """Read all rows, unless that was done; False if they are too large to be cached.

        Parameters
        ----------
        begin : callable
            Begins to read some rows.
        finish : callable
            Takes note of a read that is done.
        ahead : int
            How many more reads are under way meanwhile.
        """
        try:
            self.rows.load(_read(begin, finish, self.rows.parts(), ahead))
        except TooLarge:
            return False
        return True

    def take(self, rows: np.ndarray) -> pa.RecordBatch:
        """Some rows of the selection, in that order; they must be loaded."""
        return self.rows.take(places_in(self.reader.selection, self._selection, rows))


def _read(
    begin: Callable[[np.ndarray], PendingRead],
    finish: Callable[[PendingRead], None],
    parts: Iterator[np.ndarray],
    ahead: int,
) -> Iterator[pa.RecordBatch]:
    under_way: deque[PendingRead] = deque()

    def finished() -> pa.RecordBatch:
        reading = under_way.popleft()
        batch = reading.in_order()
        finish(reading)
        return batch

    for rows in parts:
        under_way.append(begin(rows))
        if len(under_way) > ahead:
            yield finished()
    while under_way:
        yield finished()


class EpochCache:
    """Memory of this process: a copy in another one begins with none."""

    def __init__(self) -> None:
        self._memory: WindowMemory | None = None
        self._cached: CachedTable | None = None

    def __reduce__(self) -> Any:
        return EpochCache, ()

    @contextlib.contextmanager
    def for_windows(self, plan: EpochOrder) -> Iterator[WindowMemory]:
        """Memory for one stream's windows; a stream beside it has its own."""
        memory, self._memory = self._memory, None
        if memory is None or memory.segment_rows != _segment_rows(plan):
            memory = window_memory(plan)
        try:
            yield memory
        finally:
            self._memory = memory

    @property
    def is_too_small(self) -> bool:
        """Whether it was found out that all rows are more than may be cached."""
        return self._cached is not None and self._cached.rows.is_too_large

    def cached_table(
        self, reader: Reader, cached: Selection, row_bytes: int, most_bytes: int | None
    ) -> CachedTable:
        """All rows that a reader reads, for any number of streams, read as those to cache."""
        if self._cached is None:
            over = reader.over(cached)
            self._cached = CachedTable(over, reader.selection, row_bytes, most_bytes)
        return self._cached


def window_memory(plan: EpochOrder) -> WindowMemory:
    """Memory for the windows of an order."""
    segment_rows = _segment_rows(plan)
    return WindowMemory(segment_rows, min(SEGMENTS * plan.lanes, plan.rows // segment_rows + 1))


def _segment_rows(plan: EpochOrder) -> int:
    return max(1, -(-min(plan.window_rows, plan.rows) // SEGMENTS))
