# SPDX-License-Identifier: Apache-2.0
"""Rows in memory: who loads them, how many there may be, and what is kept from epoch to epoch."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ..arrow.buffer_pool import SEGMENTS, WindowMemory, segment_size
from ..arrow.in_memory import InMemoryRows, TooLarge
from ..frameworks.torch_loader import in_worker
from ..order.epoch_order import EpochOrder
from ..table.reader import PendingRead, Reader
from ..table.selection import Selection, places_in

# What one process keeps unasked: as much as its windows would have; less where there are several.
MOST_BYTES = 256 << 20
FEWER_BYTES = 64 << 20


def most_kept() -> int:
    """How many Arrow bytes of a table's rows this process may keep unasked."""
    return FEWER_BYTES if in_worker() else MOST_BYTES


class CachedTable:
    """All that a reader reads, once it was read, for who asks for rows of another selection.

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
        self.rows = InMemoryRows(reader.selection.num_rows, row_bytes, most_bytes)
        self._selection = selection

    @property
    def is_loaded(self) -> bool:
        """Whether the rows are in memory."""
        return self.rows.is_loaded

    def load(self, reads: Loading, ahead: int) -> bool:
        """Read all rows, unless that was done; False if they are too large to be kept.

        Parameters
        ----------
        reads : Loading
            What reads them.
        ahead : int
            How many more reads are under way meanwhile.
        """
        try:
            self.rows.load(_read(reads, self.rows.parts(), ahead))
        except TooLarge:
            return False
        return True

    def take(self, rows: np.ndarray) -> pa.RecordBatch:
        """Some rows of the selection, in that order; they must be loaded."""
        return self.rows.take(places_in(self.reader.selection, self._selection, rows))


class Loading(Protocol):
    """What reads rows that are to be kept."""

    def begin_rows(self, rows: np.ndarray) -> PendingRead:
        """Begin to read some rows."""
        ...

    def finish(self, reading: PendingRead) -> None:
        """Take note of a read that is done."""
        ...


def _read(reads: Loading, parts: Iterator[np.ndarray], ahead: int) -> Iterator[pa.RecordBatch]:
    under_way: deque[PendingRead] = deque()
    for rows in parts:
        under_way.append(reads.begin_rows(rows))
        if len(under_way) > ahead:
            yield _finished(reads, under_way.popleft())
    while under_way:
        yield _finished(reads, under_way.popleft())


def _finished(reads: Loading, reading: PendingRead) -> pa.RecordBatch:
    batch = reading.in_order()
    reads.finish(reading)
    return batch


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
        """Whether it was found out that all rows are more than may be held."""
        return self._cached is not None and self._cached.rows.is_too_large

    def cached_table(
        self, reader: Reader, held: Selection, row_bytes: int, most_bytes: int | None
    ) -> CachedTable:
        """All rows that a reader reads, for any number of streams, read as those to hold."""
        if self._cached is None:
            over = reader.over(held)
            self._cached = CachedTable(over, reader.selection, row_bytes, most_bytes)
        return self._cached


def window_memory(plan: EpochOrder) -> WindowMemory:
    """Memory for the windows of an order."""
    segment_rows = _segment_rows(plan)
    return WindowMemory(segment_rows, min(SEGMENTS * plan.lanes, plan.rows // segment_rows + 1))


def _segment_rows(plan: EpochOrder) -> int:
    return segment_size(min(plan.window_rows, plan.rows))
