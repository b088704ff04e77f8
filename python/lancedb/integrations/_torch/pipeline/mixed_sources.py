# SPDX-License-Identifier: Apache-2.0
"""The rows of several tables as one source of record batches: one memory, one budget of reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrow.buffer_pool import WindowMemory, segment_size
from ..arrow.large_rows import Limits
from ..cache.tables import CachedTable
from ..common.counters import Stats
from ..order.batch_sequence import BatchSequence
from ..order.mixed_order import MixedEpochOrder, SourceOrder
from ..order.mixed_shards import MixedShardWindows
from ..order.read_schedule import WindowRows, rows_of
from ..order.window_slices import WindowSlices
from ..table.reader import PendingRead, Reader
from .completion import Backlog
from .groups import GroupSource, PlannedSource
from .sources import Reads, Source, WindowSource

_LEAST_SEGMENT = 64
# Of all windows' rows: segments that are not full are memory for nothing.
_MOST_IN_SEGMENTS = 9 / 8


class MixedInput:
    """The rows of several tables in the order of a mixture.

    Parameters
    ----------
    plan : MixedEpochOrder
        The epoch's order of rows.
    readers : sequence of Reader
        Of each source, with the same columns in the same sequence.
    schemas : sequence of pyarrow.Schema
        Of each source; the same where their rows are mixed.
    labelled : callable
        Adds to a batch of some pieces what is known of its rows.
    stats : Stats
        Where the seconds of reading are added up.
    ahead : int
        Reads under way beyond the one whose rows come next, over all sources.
    memories : sequence of WindowMemory
        Where the rows of open windows are kept: of all sources together, or of each.
    in_memory : mapping of int to CachedTable
        The sources whose rows are read once.
    sequence : BatchSequence, optional
        The batches that are made of its rows, where they are planned.
    read_rows : int
        Rows of one call to a reader, for these.
    """

    is_cached = False

    def __init__(
        self,
        plan: MixedEpochOrder,
        readers: Sequence[Reader],
        schemas: Sequence[pa.Schema],
        labelled: Callable[[pa.RecordBatch, WindowSlices], pa.RecordBatch],
        stats: Stats,
        ahead: int,
        memories: Sequence[WindowMemory],
        in_memory: Mapping[int, CachedTable],
        sequence: BatchSequence | None = None,
        read_rows: int = 1,
    ):
        self._plan = plan
        self._sequence = sequence
        self._read_rows = read_rows
        self._memories = memories
        self._labelled = labelled
        self._local = [reader.local for reader in readers if reader.local is not None]
        # One for all sources, so that as many reads are under way as for one table.
        reads = [Reads(plan, reader.open(), stats, ahead + 1, True) for reader in readers]
        semaphore = asyncio.Semaphore(ahead + 1)
        for each in reads:
            each.share_semaphore(semaphore)
        loading = {
            number: Reads(plan, everything.reader.open(), stats, ahead + 1, True)
            for number, everything in in_memory.items()
        }
        self._reads = _MixedReads(plan, reads, loading, in_memory, ahead, schemas)

    def open(self) -> Source:
        """Where the rows come from."""
        sources = [WindowSource(self._reads, memory) for memory in self._memories]
        if self._sequence is None:
            return sources[0] if len(sources) == 1 else _SourceBySource(sources)
        schedule = MixedShardWindows(self._plan)
        groups = GroupSource(self._sequence, sources[0], schedule, self._read_rows)
        return PlannedSource(self._sequence, groups)

    def backlog(self, limits: Limits) -> Backlog:
        """Batches in order, which lack nothing: rows of mixtures are read as a whole."""
        return self._reads.first.backlog(limits)

    def labelled(self, batch: pa.RecordBatch, pieces: WindowSlices) -> pa.RecordBatch:
        """A batch with what is known of its rows without reading."""
        return self._labelled(batch, pieces)

    def found_locally(self) -> int:
        """How many rows were read off caches on disk since this was asked for last."""
        return sum(each.count() for each in self._local)

    def cancel(self) -> None:
        """Give up every read."""
        self._reads.cancel()


class _SourceBySource:
    """As `Source`, each batch being of one of several, by which windows are numbered."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = sources

    def begin(self, windows: Sequence[WindowRows]) -> None:
        self._of(windows[0].window).begin(windows)

    def batch(self, pieces: WindowSlices) -> pa.RecordBatch:
        return self._of(int(pieces.windows[0])).batch(pieces)

    def drop(self, window: int) -> None:
        self._of(window).drop(window)

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def _of(self, window: int) -> Source:
        return self._sources[window % len(self._sources)]


def mixed_memory(sources: Sequence[SourceOrder], memory: WindowMemory | None) -> WindowMemory:
    """Memory for the windows of some sources: one that was used before, if it will do.

    Windows of all sources are cut into segments of one size, the largest part of a window by which
    they take little more than their rows.
    """
    windows = [
        (each.layout.lanes, min(each.layout.window_rows, each.rows))
        for each in sources
        if each.shuffle == "block" and not each.in_memory
    ]

    def segments_of(rows: int) -> int:
        return sum(lanes * -(-window // rows) for lanes, window in windows)

    most = _MOST_IN_SEGMENTS * sum(lanes * window for lanes, window in windows)
    sizes = {segment_size(window) for _, window in windows}
    fit = [size for size in sizes if size * segments_of(size) <= most]
    segment_rows = max([_LEAST_SEGMENT, *fit])
    if memory is not None and memory.segment_rows == segment_rows:
        return memory
    return WindowMemory(segment_rows, max(1, segments_of(segment_rows)))


class _MixedReads:
    """As `Reads`, each read being of one source."""

    def __init__(
        self,
        plan: MixedEpochOrder,
        reads: Sequence[Reads],
        loading: Mapping[int, Reads],
        in_memory: Mapping[int, CachedTable],
        ahead: int,
        schemas: Sequence[pa.Schema],
    ):
        self._plan = plan
        self._reads = reads
        self._loading = loading
        self._in_memory = in_memory
        self._ahead = ahead
        self._schemas = schemas

    @property
    def first(self) -> Reads:
        """Those of the first source."""
        return self._reads[0]

    def begin(self, windows: Sequence[WindowRows]) -> _Conformed:
        """One read for all of these windows of one source, or rows out of memory."""
        source = windows[0].source
        reads, everything = self._reads[source], self._in_memory.get(source)
        schema = self._schemas[source]
        if everything is None or not everything.load(self._loading[source], self._ahead):
            return _Conformed(reads, reads.begin(windows), schema)
        batch = everything.take(np.concatenate([rows_of(self._plan, window) for window in windows]))
        return _Conformed(reads, None, schema, batch)

    def finish(self, reading: _Conformed) -> None:
        """Add the time of a read that is done to the totals."""
        if reading.of is not None:
            reading.reads.finish(reading.of)

    def cancel(self) -> None:
        """Give up every read, and begin no other."""
        for reads in (*self._reads, *self._loading.values()):
            reads.cancel()


class _Conformed:
    """A read whose rows have the schema of the mixture, metadata and all."""

    def __init__(self, reads: Reads, of: PendingRead | None, schema: pa.Schema, batch: Any = None):
        self.reads = reads
        self.of = of
        self._schema = schema
        self._batch = batch

    @property
    def order(self) -> np.ndarray | None:
        """As `PendingRead.order`."""
        return None if self.of is None else self.of.order

    def rows(self) -> pa.RecordBatch:
        """Wait for the rows."""
        batch = self._batch if self.of is None else self.of.rows()
        if batch.schema.equals(self._schema, check_metadata=True):
            return batch
        columns = [
            column if column.type == field.type else column.cast(field.type)
            for column, field in zip(batch.columns, self._schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)
