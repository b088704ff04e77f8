# SPDX-License-Identifier: Apache-2.0
"""The rows of one table in one order, as what batches are made of."""

from __future__ import annotations

import pyarrow as pa

from ..arrow.buffer_pool import WindowMemory
from ..arrow.large_rows import LargeRows, Limits
from ..cache.disk import MappedTable
from ..cache.tables import Everything, window_memory
from ..common.counters import Stats
from ..order.batch_sequence import BatchSequence
from ..order.read_schedule import RowOrder
from ..order.window_slices import Pieces
from ..table.reader import Reader
from .completion import Backlog
from .groups import PlannedSource, plan_to_read, rows_plan_of, source_of
from .sources import Reads, ResidentSource, RunSource, Source, WindowSource


class TableInput:
    """The rows of one table in one order.

    Parameters
    ----------
    plan : Plan or BatchSequence
        The epoch's order of rows, or its planned batches.
    reader : Reader
        Opened here.
    stats : Stats
        Where the seconds of reading are added up.
    ahead : int
        Reads under way beyond the one whose rows come next.
    read_rows : int
        Rows of one call to the reader.
    room : WindowMemory, Everything or MappedTable
        Where the rows of open windows are kept, or all rows are; used again by the next stream.
    large : LargeRows, optional
        What to do about rows that are far larger than others; None where all have one size.
    """

    def __init__(
        self,
        plan: RowOrder,
        reader: Reader,
        stats: Stats,
        ahead: int,
        read_rows: int,
        room: WindowMemory | Everything | MappedTable,
        large: LargeRows | None = None,
    ):
        self._plan = plan
        self._ahead = ahead
        self._read_rows = read_rows
        self._room = room
        read, windows = plan_to_read(plan), plan.has_windows
        self._reads = Reads(read, reader.open(), stats, ahead + 1, windows, large)
        self._loading = self._reads
        if isinstance(room, Everything):
            self._loading = Reads(read, room.reader.open(), stats, ahead + 1, windows)
        self._local = reader.local
        # By an earlier stream.
        self.is_cached = not isinstance(room, WindowMemory) and room.is_loaded

    def open(self) -> Source:
        """Where the rows are to come from: memory, once they are there, or reads."""
        plan, source = self._plan, self._unplanned()
        return PlannedSource(plan, source) if isinstance(plan, BatchSequence) else source

    def _unplanned(self) -> Source:
        room, plan = self._room, self._plan
        if not isinstance(room, WindowMemory):
            if room.load(self._loading, self._ahead):
                return ResidentSource(plan, room)
            room = window_memory(rows_plan_of(plan))
        if isinstance(plan, BatchSequence):
            return source_of(plan, self._reads, room, self._read_rows)
        return WindowSource(self._reads, room) if plan.has_windows else RunSource(self._reads)

    def labelled(self, batch: pa.RecordBatch, pieces: Pieces) -> pa.RecordBatch:
        """The batch: there is nothing to say of its rows."""
        return batch

    def backlog(self, limits: Limits) -> Backlog:
        """Batches in order, of which what they lack is being read."""
        return self._reads.backlog(limits)

    def found_locally(self) -> int:
        """How many rows were read off the disk's cache since this was asked for last."""
        return 0 if self._local is None else self._local.count()

    def cancel(self) -> None:
        """Give up every read."""
        self._loading.cancel()
        self._reads.cancel()
