# SPDX-License-Identifier: Apache-2.0
"""Reads under way and rows that wait, as a source of record batches.

There are two such sources. A block shuffle has many windows open at once, and a batch takes a few
rows of each. The other orders read the rows of some steps in a row, and a batch is a cut of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from ..arrow import late, take
from ..arrow.buffer_pool import WindowMemory
from ..arrow.large_rows import LargeRows
from ..cache.disk import MappedTable
from ..cache.tables import CachedTable
from ..common.counters import Stats
from ..order.mixed_windows import WindowPlanner
from ..order.read_schedule import RowOrder, WindowRows, rows_of
from ..order.shards import Shards
from ..order.window_slices import WindowSlice, WindowSlices, distinct_windows, runs
from ..table.reader import BlobReading, PendingParts, PendingRead, Reader, Waiting
from .completion import RowsInMemory, Timed
from .shuffle_buffer import ReadRows, Window, assemble

_Begun = TypeVar("_Begun", bound=Waiting)


class Source(Protocol):
    """Windows by id, from the start of their read until they are dropped."""

    def begin(self, windows: Sequence[WindowRows]) -> None:
        """Start one read for all of these windows."""
        ...

    def batch(self, pieces: WindowSlices) -> pa.RecordBatch | RowsInMemory:
        """The rows of some pieces, waiting until they were read."""
        ...

    def drop(self, window: int) -> None:
        """Free a window that nobody needs any more."""
        ...

    def close(self) -> None:
        """Free every window; nobody may ask for a batch any more."""
        ...


class Reads:
    """Starts the reads of windows, and counts what they bring.

    Of `at_once` reads that are under way, others share a `semaphore` if one is given.
    """

    def __init__(
        self,
        plan: RowOrder | Shards | WindowPlanner,
        reader: Reader,
        stats: Stats,
        at_once: int,
        in_windows: bool,
        large: LargeRows | None = None,
        semaphore: asyncio.Semaphore | None = None,
    ):
        self._semaphore = semaphore or asyncio.Semaphore(at_once)
        self._large = large
        # Windows stay open for long, and there are many of them.
        self._spare_bytes = 0 if large is None or in_windows else large.limits.ahead // at_once
        self._plan = plan
        self._reader = reader
        self._stats = stats
        self._under_way: list[Waiting] = []
        self._cancelled = False

    @property
    def rows(self) -> int:
        """How many rows there are to read."""
        return self._reader.selection.num_rows

    def begin(self, windows: Sequence[WindowRows]) -> PendingRead:
        """One read for all of these windows, one after the other."""
        rows = [rows_of(self._plan, window) for window in windows]
        return self.begin_rows(rows[0] if len(rows) == 1 else np.concatenate(rows))

    def begin_rows(self, rows: np.ndarray) -> PendingRead:
        """One read of rows by their place in the base order."""
        counted = None if self._large is None else self._large.counted(self._spare_bytes)
        return self._begun(self._reader.begin(rows, self._semaphore, counted))

    def begin_left_out(self, offsets: np.ndarray) -> PendingParts:
        """Begin to read rows that were left out of reads, by their offset in the table."""
        assert self._large is not None
        return self._begun(self._reader.begin_parts(offsets, self._large.fetched()))

    def begin_blobs(self, batch: pa.RecordBatch) -> BlobReading:
        """Begin to fetch the bytes of the blobs of which a batch has row ids."""
        return self._begun(self._reader.begin_blobs(batch))

    def _begun(self, reading: _Begun) -> _Begun:
        self._under_way = [*(each for each in self._under_way if not each.done()), reading]
        if self._cancelled:
            reading.cancel()
        return reading

    def finish(self, reading: Timed) -> None:
        """Add the time of a read that is done to the totals."""
        self._stats.add(reading=reading.seconds)

    def cancel(self) -> None:
        """Give up every read, and begin no other."""
        self._cancelled = True
        for reading in self._under_way:
            reading.cancel()


class RunSource:
    """For orders without windows: each read has the rows of some steps, in sequence."""

    def __init__(self, reads: Reads):
        self._reads = reads
        self._open: dict[int, PendingRead] = {}

    def begin(self, windows: Sequence[WindowRows]) -> None:
        for window in windows:
            self._open[window.window] = self._reads.begin([window])

    def batch(self, pieces: WindowSlices) -> pa.RecordBatch:
        parts = [self._cut(piece) for piece in pieces.joined()]
        return take.concatenate(parts)

    def _cut(self, piece: WindowSlice) -> pa.RecordBatch:
        reading = self._open[piece.window]
        batch, order = reading.rows(), reading.order
        if order is None:
            return batch.slice(piece.begin, piece.count)
        return take.take(batch, order[piece.begin : piece.begin + piece.count])

    def drop(self, window: int) -> None:
        self._reads.finish(self._open.pop(window))

    def close(self) -> None:
        self._open.clear()


class WindowReads(Protocol):
    """What begins the reads of windows."""

    def begin(self, windows: Sequence[WindowRows]) -> Any:
        """One read for all of these windows, one after the other."""
        ...

    def finish(self, reading: Any) -> None:
        """Add the time of a read that is done to the totals."""
        ...


class WindowSource:
    """For block shuffles: windows of many lanes, each delivered bit by bit.

    Parameters
    ----------
    reads : WindowReads
        What begins their reads.
    memory : WindowMemory
        For their rows.
    windows : dict of int to ReadWindows, optional
        Those that are open already, of the same memory; the caller closes what is left there.
    """

    def __init__(
        self,
        reads: WindowReads,
        memory: WindowMemory,
        windows: dict[int, ReadWindows] | None = None,
    ):
        self._reads = reads
        self._memory = memory
        self._open = {} if windows is None else windows
        self._closes = windows is None

    def begin(self, windows: Sequence[WindowRows]) -> None:
        read = ReadWindows(self._reads, windows, self._memory)
        self._open.update((window.window, read) for window in windows)

    def batch(self, pieces: WindowSlices) -> pa.RecordBatch:
        numbers, owners = distinct_windows(pieces.windows)
        windows = [self._open[number].window(number) for number in numbers.tolist()]
        batch = assemble(windows, owners, pieces)
        # A window is delivered from first to last, over any steps in a row; within a step the
        # last of its pieces may not be the one that ends it, and frees a little less.
        ends = np.zeros(len(windows), np.int64)
        ends[owners] = pieces.begins + pieces.counts
        for window, end in zip(windows, ends.tolist(), strict=True):
            window.deliver(end)
        return batch

    def drop(self, window: int) -> None:
        self._open.pop(window).close(window)

    def close(self) -> None:
        for window in list(self._open) if self._closes else ():
            self.drop(window)


class ReadWindows:
    """One read, which becomes several windows as soon as one of them is wanted."""

    def __init__(self, reads: WindowReads, windows: Sequence[WindowRows], memory: WindowMemory):
        self._finish = reads.finish
        self._reading: Any = reads.begin(windows)
        self._wanted = windows
        self._memory = memory
        self._windows: dict[int, Window] = {}

    @property
    def is_done(self) -> bool:
        """Whether the windows are in memory."""
        return self._reading is None

    def window(self, number: int) -> Window:
        """One of the windows, waiting until it was read."""
        if self._reading is not None:
            self._make_windows(self._reading)
            self._finish(self._reading)
            self._reading = None
        return self._windows[number]

    def _make_windows(self, reading: Any) -> None:
        batch, order = reading.rows(), reading.order
        order = np.arange(batch.num_rows) if order is None else order
        rows, start = ReadRows(batch), 0
        for wanted in self._wanted:
            picked = order[start : start + wanted.size]
            self._windows[wanted.window] = Window(rows, picked, self._memory)
            start += wanted.size

    def close(self, number: int) -> None:
        """Free one of the windows."""
        if number in self._windows:
            self._windows.pop(number).close()


class InMemorySource:
    """As `Source`, over rows that are all in memory, or mapped to it.

    Parameters
    ----------
    plan : EpochOrder or BatchSequence
        The epoch's order of rows, or its planned batches.
    cached : CachedTable or MappedTable
        Loaded.
    """

    def __init__(self, plan: RowOrder, cached: CachedTable | MappedTable):
        self._plan = plan
        self._cached = cached
        self._lacks_values = late.lacks_values(cached.reader.schema)
        self._open = _OpenRows()

    def begin(self, windows: Sequence[WindowRows]) -> None:
        for window in windows:
            self._open.add(window.window, rows_of(self._plan, window))

    def batch(self, pieces: WindowSlices) -> pa.RecordBatch | RowsInMemory:
        rows = partial(self._cached.take, self._open.rows(pieces))
        return rows() if self._lacks_values else rows

    def drop(self, window: int) -> None:
        self._open.drop(window)

    def close(self) -> None:
        self._open = _OpenRows()


Label = Callable[[pa.RecordBatch], pa.RecordBatch]


class LabelledSource:
    """A source whose batches say more of their rows than was read.

    Parameters
    ----------
    source : Source
        Where the rows come from.
    label : callable of WindowSlices
        What adds it to the rows of some pieces, if there is anything to say of them.
    """

    def __init__(self, source: Source, label: Callable[[WindowSlices], Label | None]):
        self._source = source
        self._label = label

    def begin(self, windows: Sequence[WindowRows]) -> None:
        self._source.begin(windows)

    def batch(self, pieces: WindowSlices) -> pa.RecordBatch | RowsInMemory:
        batch, label = self._source.batch(pieces), self._label(pieces)
        if label is None:
            return batch
        return label(batch) if isinstance(batch, pa.RecordBatch) else lambda: label(batch())

    def drop(self, window: int) -> None:
        self._source.drop(window)

    def close(self) -> None:
        self._source.close()


class _OpenRows:
    """The rows of open windows by number, one window after the other in one array."""

    def __init__(self) -> None:
        self._rows = np.empty(0, np.int64)
        self._end = 0
        self._spans: dict[int, tuple[int, int]] = {}

    def add(self, window: int, rows: np.ndarray) -> None:
        end = self._end + len(rows)
        if end > len(self._rows):
            self._move(len(rows))
            end = self._end + len(rows)
        self._rows[self._end : end] = rows
        self._spans[window] = (self._end, end)
        self._end = end

    def rows(self, pieces: WindowSlices) -> np.ndarray:
        numbers, owners = distinct_windows(pieces.windows)
        firsts = np.array([self._spans[number][0] for number in numbers.tolist()])
        return self._rows[runs(firsts[owners] + pieces.begins, pieces.counts)]

    def drop(self, window: int) -> None:
        del self._spans[window]

    def _move(self, more: int) -> None:
        """Put those that are open into a new array, with as much space again."""
        still_open = {window: self._rows[slice(*span)] for window, span in self._spans.items()}
        size = sum(map(len, still_open.values())) + more
        self._rows, self._end, self._spans = np.empty(2 * size, np.int64), 0, {}
        for window, rows in still_open.items():
            self.add(window, rows)
