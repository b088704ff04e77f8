# SPDX-License-Identifier: Apache-2.0
"""What rows of the next batches still lack: begun a little ahead of them, within a limit of bytes.

Rows far larger than others were left out as they were read, and the bytes of blobs are not read
with their rows at all. Neither waits in windows, nor in a cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..arrow import large_rows, late, take
from ..arrow.buffer_pool import release_freed
from ..arrow.large_rows import LargeRows, Limits
from ..table.reader import BlobReading, PendingRead, Reader, Waiting

# Of one call, so that several are under way within the limit.
_CALLS_WITHIN_LIMIT = 4


class Complete(NamedTuple):
    """Some batches in a row, in one, that lack nothing.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Their rows.
    counts : list of int
        How many each of them has.
    fetched : int
        Bytes that were fetched for them.
    """

    batch: pa.RecordBatch
    counts: list[int]
    fetched: int


class Completion:
    """The rows of some batches, and what is being read for them.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        The rows, as they were read ahead.
    counts : list of int
        How many each of the batches has.
    size : float
        Bytes to fetch; infinite if rows of unknown size were left out.
    """

    def __init__(self, batch: pa.RecordBatch, counts: list[int], size: float):
        self.size = size
        self.is_begun = False
        self._batch = batch
        self._counts = counts
        self._rows = np.zeros(0, np.int64)
        self._left_out: PendingRead | None = None
        self._blobs: BlobReading | None = None

    def begin(
        self, reader: Reader, large: LargeRows | None, begun: Callable[[Waiting], None]
    ) -> None:
        """Start to read; `begun` is called with every read."""
        self.is_begun = True
        if large is not None and large_rows.may_lack(self._batch):
            self._rows, offsets = large_rows.left_out(self._batch)
            self._batch = large_rows.without_offsets(self._batch)
            if len(self._rows):
                self._left_out = reader.begin_offsets(offsets, None, large.fetched())
                begun(self._left_out)
        if late.lacks_values(self._batch):
            self._batch = late.without_sizes(self._batch)
            if self._batch.num_rows:
                self._blobs = reader.begin_blobs(self._batch)
                begun(self._blobs)

    def result(self, finish: Callable[[Waiting], None]) -> Complete:
        """Wait for all of it; `finish` is called with every read that is done."""
        batch, fetched = self._batch, 0
        if self._left_out is not None:
            batch = self._with_left_out(batch, self._left_out)
            finish(self._left_out)
        if self._blobs is not None:
            filled = self._blobs.filled()
            fetched += max(0, filled.nbytes - self._batch.nbytes)
            batch = _with_blobs(batch, filled)
            finish(self._blobs)
        self._blobs = self._left_out = None
        return Complete(batch, self._counts, fetched)

    def _with_left_out(self, batch: pa.RecordBatch, reading: PendingRead) -> pa.RecordBatch:
        try:
            return large_rows.completed(batch, self._rows, reading.rows(), reading.order)
        finally:
            release_freed()


def _with_blobs(batch: pa.RecordBatch, filled: pa.RecordBatch) -> pa.RecordBatch:
    """A batch with another one's columns where its own are row ids, which are of another type."""
    columns = [
        column if column.type == blobs.type else blobs
        for column, blobs in zip(batch.columns, filled.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=filled.schema)


class Backlog:
    """Batches in order, of which what they lack is being read.

    Parameters
    ----------
    reader : Reader
        What reads it.
    large : LargeRows, optional
        What is known of rows that are far larger than others.
    limits : Limits
        How many bytes may be fetched in one call, and ahead.
    at_once : int
        How many calls may be under way.
    begun, finish : callable
        Told of every read that is begun, and done.
    """

    def __init__(
        self,
        reader: Reader,
        large: LargeRows | None,
        limits: Limits,
        at_once: int,
        begun: Callable[[Waiting], None],
        finish: Callable[[Waiting], None],
    ):
        self._reader = reader
        self._large = large
        self._limits = limits
        self._at_once = at_once
        self._begun = begun
        self._finish = finish
        self._waiting: deque[Completion] = deque()

    def add(self, batch: pa.RecordBatch, counts: Sequence[int]) -> None:
        """Add batches to come, `counts` rows each."""
        sizes = late.bytes_to_fetch(batch)
        if sizes is None:
            self._waiting.append(Completion(batch, list(counts), 0))
        else:
            groups = late.grouped(counts, sizes, self._limits.one_call / _CALLS_WITHIN_LIMIT)
            rows = [sum(group) for group in groups]
            ends = np.cumsum([0, *rows])
            for part, group, start, end in zip(
                take.slices(batch, rows), groups, ends, ends[1:], strict=False
            ):
                size = float(sizes[start:end].sum())
                self._waiting.append(Completion(part, group, size))
        self._work_ahead()

    @property
    def wants_more(self) -> bool:
        """Whether more batches could be begun: all that are there have been, and lack something."""
        if len(self._waiting) >= self._at_once:
            return False
        return all(each.is_begun and each.size for each in self._waiting)

    def take(self) -> Complete | None:
        """The next batches, as many as were read in one call; None if there are no more."""
        if not self._waiting:
            return None
        first = self._waiting.popleft()
        if not first.is_begun:
            first.begin(self._reader, self._large, self._begun)
        done = first.result(self._finish)
        self._work_ahead()
        return done

    def clear(self) -> None:
        """Drop all of them."""
        self._waiting.clear()

    def _work_ahead(self) -> None:
        size = 0.0
        for number, each in enumerate(self._waiting):
            size += each.size
            if number and (number >= self._at_once or size > self._limits.ahead):
                return
            if not each.is_begun:
                each.begin(self._reader, self._large, self._begun)
