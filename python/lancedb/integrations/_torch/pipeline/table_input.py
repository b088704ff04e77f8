# SPDX-License-Identifier: Apache-2.0
"""The rows of one table in one order, as what batches are made of."""

from __future__ import annotations

from ..arrow.buffer_pool import WindowMemory
from ..arrow.large_rows import LargeRows, Limits
from ..cache.disk import MappedTable
from ..cache.tables import CachedTable, window_memory
from ..common.counters import Stats
from ..order.batch_sequence import BatchSequence
from ..order.read_schedule import RowOrder
from ..table.reader import Reader
from .completion import Backlog
from .groups import plan_to_read, planned_source, rows_plan_of, source_of
from .sources import InMemorySource, Reads, RunSource, Source, WindowSource


class TableInput:
    """The rows of one table in one order.

    Parameters
    ----------
    plan : EpochOrder or BatchSequence
        The epoch's order of rows, or its planned batches.
    reader : Reader
        Opened here.
    stats : Stats
        Where the seconds of reading are added up.
    ahead : int
        Reads under way beyond the one whose rows come next.
    read_rows : int
        Rows of one call to the reader.
    epoch_cache : WindowMemory, CachedTable or MappedTable
        Memory for the rows of open windows, or for all rows; used again by the next stream.
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
        epoch_cache: WindowMemory | CachedTable | MappedTable,
        large: LargeRows | None = None,
    ):
        self._plan = plan
        self._ahead = ahead
        self._read_rows = read_rows
        self._epoch_cache = epoch_cache
        read, windows = plan_to_read(plan), plan.has_windows
        self._reads = Reads(read, reader.open(), stats, ahead + 1, windows, large)
        self._loading = self._reads
        if isinstance(epoch_cache, CachedTable):
            self._loading = Reads(read, epoch_cache.reader.open(), stats, ahead + 1, windows)
        self._local = reader.local
        # They may turn out to be too large.
        self.is_in_memory = not isinstance(epoch_cache, WindowMemory)
        # By an earlier stream.
        self.is_cached = not isinstance(epoch_cache, WindowMemory) and epoch_cache.is_loaded

    def open(self) -> Source:
        """Where the rows come from: memory, once they are there, or reads.

        Called in the thread that makes batches, as rows that are to be in memory are loaded here.
        """
        plan, source = self._plan, self._unplanned()
        return planned_source(plan, source) if isinstance(plan, BatchSequence) else source

    def _unplanned(self) -> Source:
        epoch_cache, plan = self._epoch_cache, self._plan
        if not isinstance(epoch_cache, WindowMemory):
            if epoch_cache.load(self._loading.begin_rows, self._loading.finish, self._ahead):
                return InMemorySource(plan, epoch_cache)
            epoch_cache = window_memory(rows_plan_of(plan))
        if isinstance(plan, BatchSequence):
            return source_of(plan, self._reads, epoch_cache, self._read_rows)
        return (
            WindowSource(self._reads, epoch_cache) if plan.has_windows else RunSource(self._reads)
        )

    def backlog(self, limits: Limits) -> Backlog:
        """Batches in order, of which what they lack is being read."""
        return Backlog(self._reads, limits, self._ahead + 1)

    def take_local_count(self) -> int:
        """How many rows were read off the disk's cache since the last call."""
        return 0 if self._local is None else self._local.take_count()

    def cancel(self) -> None:
        """Give up every read; whoever waits for one waits no longer."""
        self._loading.cancel()
        self._reads.cancel()
