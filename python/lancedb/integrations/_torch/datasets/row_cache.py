# SPDX-License-Identifier: Apache-2.0
"""The rows of an iterable dataset, cached from one epoch to the next in memory or on disk."""

from __future__ import annotations

import contextlib

from ..arrow.buffer_pool import WindowMemory
from ..cache.columns import Cache
from ..cache.disk import MappedTable
from ..cache.tables import CachedTable, EpochCache, most_cached
from ..common.machine import memory_bytes
from ..order.read_schedule import RowOrder
from ..pipeline.groups import rows_plan_of
from ..table.sample import RowSizes
from ..table.selection import Selection
from .pinned_rows import PinnedRows

# What ``cache=True`` may take, of all memory, to be advised.
_MOST_OF_MEMORY = 0.25


class RowCache:
    """What this process caches of a dataset's rows, and where those of an epoch come from.

    Parameters
    ----------
    cache : bool or "auto"
        Whether to cache all rows, or none; ``"auto"`` caches those of a small table that is
        shuffled and read by one process alone.
    rows : PinnedRows
        Of the dataset.
    sizes : RowSizes
        What they take.
    is_automatic : bool
        Whether they are shuffled, and nothing was said of how.
    """

    def __init__(self, cache: Cache, rows: PinnedRows, sizes: RowSizes, is_automatic: bool):
        self.cache: Cache = cache
        self._may_cache = cache == "auto" and is_automatic and not sizes.are_skewed
        self._rows = rows
        self._sizes = sizes
        self._epoch_cache = EpochCache()

    def of_epoch(
        self, plan: RowOrder, is_alone: bool
    ) -> contextlib.AbstractContextManager[WindowMemory | CachedTable | MappedTable]:
        """Where the rows of one stream are: all of them, or those of open windows.

        Parameters
        ----------
        plan : EpochOrder or BatchSequence
            The order of the stream's rows.
        is_alone : bool
            Whether no other process reads the table for the same batches.
        """
        cached, disk, reader = self._cached(is_alone), self._rows.disk, self._rows.reader()
        if disk is not None and (cached is None or self.cache is True):
            disk.fill(again=True)
            if cached is None and disk.is_complete and not self._sizes.are_skewed:
                return contextlib.nullcontext(MappedTable(disk, reader))
        if cached is None:
            return self._epoch_cache.for_windows(rows_plan_of(plan))
        sizes = (
            (self._whole_row_bytes, None)
            if self.cache is True
            else (self._sizes.average, most_cached())
        )
        return contextlib.nullcontext(self._epoch_cache.cached_table(reader, cached, *sizes))

    def bytes_to_cache(self, is_alone: bool) -> int | None:
        """What ``cache=True`` would take; None if all is cached, would not fit, or is unknown."""
        if self.cache is True or self._sizes.are_skewed or self._cached(is_alone) is not None:
            return None
        selection = self._rows.view.selection
        size = (selection.stretch() or selection).num_rows * self._whole_row_bytes
        return size if size <= memory_bytes() * _MOST_OF_MEMORY else None

    @property
    def _whole_row_bytes(self) -> int:
        return self._sizes.average + self._sizes.late

    def _cached(self, is_alone: bool) -> Selection | None:
        """The rows that this process reads once, and has in memory from then on."""
        selection = self._rows.view.selection
        if self.cache is True:
            return selection.stretch() or selection
        most = most_cached() // self._sizes.average
        if not (self._may_cache and is_alone) or self._epoch_cache.is_too_small:
            return None
        if selection.num_rows > most:
            return None
        stretch = selection.stretch()
        if stretch is None or stretch.num_rows > most:
            return None
        return stretch if self._rows.reader().handle().scans else None
