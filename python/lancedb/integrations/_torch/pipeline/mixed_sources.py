# SPDX-License-Identifier: Apache-2.0
"""The rows of several tables as one source of record batches: one memory, one budget of reads."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrow import large_rows
from ..arrow.large_rows import LargeRows, Limits
from ..cache.tables import CachedTable
from ..common.counters import Stats
from ..order.batch_sequence import BatchSequence
from ..order.mixed_order import MixedEpochOrder
from ..order.mixed_shards import MixedShardWindows
from ..order.mixed_windows import WindowPlanner
from ..order.read_schedule import WindowRows, rows_of
from ..order.window_slices import WindowSlices
from ..table.reader import BlobReading, PendingParts, PendingRead, Reader
from .completion import Backlog, RowsInMemory, Timed
from .groups import GroupSource, planned_source
from .mixture_windows import MixtureWindows
from .sources import LabelledSource, Reads, Source


@dataclass(frozen=True)
class SourceRows:
    """How the rows of one source are read.

    Parameters
    ----------
    reader : Reader
        Opened, with the same columns in the same sequence as those of other sources.
    schema : pyarrow.Schema
        That the rows are to have; that of other sources where their rows are mixed.
    large : LargeRows, optional
        What to do about rows that are far larger than others; None where all have one size.
    cached : CachedTable, optional
        All of its rows, where they are read once.
    """

    reader: Reader
    schema: pa.Schema
    large: LargeRows | None = None
    cached: CachedTable | None = None


class MixedInput:
    """The rows of several tables in the order of a mixture.

    Parameters
    ----------
    plan : MixedEpochOrder
        The epoch's order of rows.
    sources : sequence of SourceRows
        In the order of their numbers.
    label : callable
        Adds to a batch of some pieces what is known of its rows.
    stats : Stats
        Where the seconds of reading are added up.
    ahead : int
        Reads under way beyond the one whose rows come next, over all sources.
    windows : MixtureWindows
        Those that are open.
    sequence : BatchSequence, optional
        The batches that are made of its rows, where they are planned.
    read_rows : int
        Rows of one call to a reader, for these.
    """

    is_cached = is_in_memory = False

    def __init__(
        self,
        plan: MixedEpochOrder,
        sources: Sequence[SourceRows],
        label: Callable[..., pa.RecordBatch],
        stats: Stats,
        ahead: int,
        windows: MixtureWindows,
        sequence: BatchSequence | None = None,
        read_rows: int = 1,
    ):
        self._plan = plan
        self._sequence = sequence
        self._read_rows = read_rows
        self._windows = windows
        self._label = label
        self._local = [each.reader.local for each in sources if each.reader.local is not None]
        planner = windows.planner
        # One for all sources, so that as many reads are under way as for one table.
        semaphore = asyncio.Semaphore(ahead + 1)
        reads = [
            Reads(planner, each.reader, stats, ahead + 1, True, each.large, semaphore)
            for each in sources
        ]
        loading = {
            number: Reads(planner, each.cached.reader.open(), stats, ahead + 1, True)
            for number, each in enumerate(sources)
            if each.cached is not None
        }
        self._ahead = ahead
        self._reads = _MixedReads(planner, sources, reads, loading, ahead)

    def open(self) -> Source:
        """Where the rows come from."""
        label = self._label
        return LabelledSource(self._unlabelled(), lambda pieces: partial(label, pieces=pieces))

    def _unlabelled(self) -> Source:
        sources = self._windows.sources(self._reads)
        if self._sequence is None:
            return sources[0] if len(sources) == 1 else _SourceBySource(sources)
        schedule = MixedShardWindows(self._plan)
        groups = GroupSource(self._sequence, sources[0], schedule, self._read_rows)
        return planned_source(self._sequence, groups)

    def backlog(self, limits: Limits) -> Backlog:
        """Batches in order, of which what they lack is being read."""
        return Backlog(self._reads, limits, self._ahead + 1)

    def take_local_count(self) -> int:
        """How many rows were read off caches on disk since the last call."""
        return sum(each.take_count() for each in self._local)

    def cancel(self) -> None:
        """Give up every read."""
        self._reads.cancel()


class _SourceBySource:
    """As `Source`, each batch being of one of several, by which windows are numbered."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = sources

    def begin(self, windows: Sequence[WindowRows]) -> None:
        self._of(windows[0].window).begin(windows)

    def batch(self, pieces: WindowSlices) -> pa.RecordBatch | RowsInMemory:
        return self._of(int(pieces.windows[0])).batch(pieces)

    def drop(self, window: int) -> None:
        self._of(window).drop(window)

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def _of(self, window: int) -> Source:
        return self._sources[window % len(self._sources)]


class _MixedReads:
    """As `Reads`, each read being of one source."""

    def __init__(
        self,
        planner: WindowPlanner,
        sources: Sequence[SourceRows],
        reads: Sequence[Reads],
        loading: Mapping[int, Reads],
        ahead: int,
    ):
        self._planner = planner
        self._sources = sources
        self._reads = reads
        self._loading = loading
        self._ahead = ahead

    def begin(self, windows: Sequence[WindowRows]) -> _Conformed:
        """One read for all of these windows of one source, or rows out of memory."""
        source = windows[0].source
        reads, cached = self._reads[source], self._sources[source].cached
        conform = partial(self._conformed, source)
        if cached is not None:
            loading = self._loading[source]
            if cached.load(loading.begin_rows, loading.finish, self._ahead):
                rows = np.concatenate([rows_of(self._planner, window) for window in windows])
                return _Conformed(conform, None, cached.take(rows))
        return _Conformed(conform, reads.begin(windows))

    def begin_left_out(self, offsets: np.ndarray) -> _LeftOut:
        """Begin to read rows that were left out of reads, by numbers of `_conformed`."""
        offsets, sources = np.divmod(offsets, len(self._reads))
        readings = {
            source: self._reads[source].begin_left_out(offsets[sources == source])
            for source in np.unique(sources).tolist()
        }
        return _LeftOut(readings, sources, [each.schema for each in self._sources])

    def begin_blobs(self, batch: pa.RecordBatch) -> BlobReading:
        """Not asked for: blobs of mixtures are read with their rows."""
        raise NotImplementedError

    def finish(self, reading: Timed) -> None:
        """Add the time of a read that is done to the totals."""
        self._reads[0].finish(reading)

    def cancel(self) -> None:
        """Give up every read, and begin no other."""
        for reads in (*self._reads, *self._loading.values()):
            reads.cancel()

    def _conformed(self, source: int, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch with the mixture's schema, and one number for source and offset of each row that
        was left out of it."""
        schema = self._sources[source].schema
        if self._sources[source].large is None:
            return _with_schema(batch, schema)
        numbers = np.full(batch.num_rows, large_rows.NONE)
        if large_rows.may_lack(batch):
            rows, offsets = large_rows.left_out(batch)
            numbers[rows] = offsets * len(self._reads) + source
            batch = large_rows.without_offsets(batch)
        return large_rows.with_offsets(_with_schema(batch, schema), numbers)


class _Conformed:
    """A read whose rows become the mixture's."""

    def __init__(
        self,
        conform: Callable[[pa.RecordBatch], pa.RecordBatch],
        of: PendingRead | None,
        batch: Any = None,
    ):
        self._conform = conform
        self._of = of
        self._batch = batch

    @property
    def seconds(self) -> float:
        """As of the read; none of rows that were in memory."""
        return 0.0 if self._of is None else self._of.seconds

    @property
    def order(self) -> np.ndarray | None:
        """As `PendingRead.order`."""
        return None if self._of is None else self._of.order

    def rows(self) -> pa.RecordBatch:
        """Wait for the rows."""
        return self._conform(self._batch if self._of is None else self._of.rows())


class _LeftOut:
    """Rows of several sources that were left out, and are being read.

    Parameters
    ----------
    readings : mapping of int to PendingParts
        By source.
    sources : numpy.ndarray of int64
        That of each row, in the sequence in which they are wanted.
    schemas : sequence of pyarrow.Schema
        Of each source.
    """

    def __init__(
        self,
        readings: Mapping[int, PendingParts],
        sources: np.ndarray,
        schemas: Sequence[pa.Schema],
    ):
        self._readings = readings
        self._sources = sources
        self._schemas = schemas

    @property
    def seconds(self) -> float:
        """As of all reads."""
        return sum(each.seconds for each in self._readings.values())

    def parts(self) -> deque[pa.RecordBatch]:
        """Wait for the rows, in sequence, some in each part."""
        brought = {
            source: deque(_with_schema(part, self._schemas[source]) for part in reading.parts())
            for source, reading in self._readings.items()
        }
        return in_turn(brought, self._sources)


def in_turn(
    brought: Mapping[int, deque[pa.RecordBatch]], sources: np.ndarray
) -> deque[pa.RecordBatch]:
    """Rows of several sources, of each in parts, as parts in the sequence of `sources`.

    Examples
    --------
    >>> first, second = (pa.record_batch({"x": rows}) for rows in ([1, 2], [3]))
    >>> parts = in_turn({0: deque([first]), 1: deque([second])}, np.array([0, 1, 0]))
    >>> [part["x"].to_pylist() for part in parts]
    [[1], [3], [2]]
    """
    parts: deque[pa.RecordBatch] = deque()
    ends = np.flatnonzero(np.diff(sources, append=-1)) + 1
    for start, stop in itertools.pairwise([0, *ends.tolist()]):
        of_source, wanted = brought[int(sources[start])], stop - start
        while wanted:
            part = of_source.popleft()
            if part.num_rows > wanted:
                of_source.appendleft(part.slice(wanted))
            parts.append(part.slice(0, wanted))
            wanted -= parts[-1].num_rows
    return parts


def _with_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch with the schema of the mixture, metadata and all."""
    if batch.schema.equals(schema, check_metadata=True):
        return batch
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
