# SPDX-License-Identifier: Apache-2.0
"""Reads of what the next batches still lack, a little ahead of them and within a limit of bytes.

Rows far larger than others were left out as they were read, and the bytes of blobs are not read
with their rows at all. Neither waits in windows, nor in a cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from ..arrow import large_rows, late, take
from ..arrow.buffer_pool import release_freed
from ..arrow.dictionaries import own_bytes
from ..arrow.large_rows import Limits
from ..table.reader import BlobReading

# Of one call, so that several are under way within the limit.
_CALLS_WITHIN_LIMIT = 4
# On average, so that a batch is mostly bytes of a few values.
_LARGE_ROW = 64 << 10

# Rows that lack nothing, and are taken out of memory when they are asked for: once, in any thread.
RowsInMemory = Callable[[], pa.RecordBatch]


class Timed(Protocol):
    """A read that is done."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        ...


class LeftOut(Timed, Protocol):
    """Rows that were left out, and are being read."""

    def parts(self) -> deque[pa.RecordBatch]:
        """Wait for them, in sequence, some in each part."""
        ...


class Fetches(Protocol):
    """What begins to read what rows lack."""

    def begin_left_out(self, offsets: np.ndarray) -> LeftOut:
        """Begin to read rows that were left out, by what their batch says of them."""
        ...

    def begin_blobs(self, batch: pa.RecordBatch) -> BlobReading:
        """Begin to fetch the bytes of the blobs of which a batch has row ids."""
        ...

    def finish(self, reading: Timed) -> None:
        """Add the time of a read that is done to the totals."""
        ...


class Complete(NamedTuple):
    """Some batches in a row, in one or more parts, that lack nothing.

    Parameters
    ----------
    parts : iterator of pyarrow.RecordBatch
        Their rows, to be gone through once; nothing else refers to a part that was taken.
    schema : pyarrow.Schema
        That of the parts.
    counts : list of int
        How many each of them has.
    size : int
        Arrow bytes of all.
    fetched : int
        Those of them that were fetched for these batches.
    """

    parts: Iterator[pa.RecordBatch]
    schema: pa.Schema
    counts: list[int]
    size: int
    fetched: int

    @property
    def is_of_large_rows(self) -> bool:
        """Whether it is one batch, and little but copying bytes to convert it."""
        return len(self.counts) == 1 and self.size >= _LARGE_ROW * self.counts[0]

    def batch(self) -> pa.RecordBatch:
        """All rows in one."""
        return take.concatenate(list(self.parts))


class Completion:
    """The rows of some batches, and what is being read for them.

    Parameters
    ----------
    batch : pyarrow.RecordBatch or RowsInMemory
        The rows, as they were read ahead.
    counts : list of int
        How many each of the batches has.
    size : float
        Bytes to fetch; infinite if rows of unknown size were left out.
    """

    def __init__(self, batch: pa.RecordBatch | RowsInMemory, counts: list[int], size: float = 0):
        self.counts = counts
        self.size = size
        self.is_begun = self.is_in_memory = not isinstance(batch, pa.RecordBatch)
        self._batch: Any = batch
        self._complete: Complete | None = None
        self._rows = np.zeros(0, np.int64)
        self._left_out: LeftOut | None = None
        self._blobs: BlobReading | None = None

    def begin(self, fetches: Fetches) -> None:
        """Start to read."""
        self.is_begun = True
        if large_rows.may_lack(self._batch):
            self._rows, offsets = large_rows.left_out(self._batch)
            self._batch = large_rows.without_offsets(self._batch)
            if len(self._rows):
                self._left_out = fetches.begin_left_out(offsets)
        if late.lacks_values(self._batch.schema):
            self._batch = late.without_sizes(self._batch)
            if self._batch.num_rows:
                self._blobs = fetches.begin_blobs(self._batch)

    def result(self) -> Complete:
        """All of it, which was waited for."""
        if self._complete is not None:
            return self._complete
        batch = self._batch()
        return Complete(iter([batch]), batch.schema, self.counts, own_bytes(batch), 0)

    def wait(self, fetches: Fetches) -> None:
        """Wait for all of it."""
        batch, left_out, blobs = self._batch, self._left_out, self._blobs
        parts, schema, size, fetched = iter([batch]), batch.schema, own_bytes(batch), 0
        if left_out is not None:
            brought = left_out.parts()
            size += sum(map(own_bytes, brought))
            parts = _completed(batch, self._rows, brought)
            fetches.finish(left_out)
        if blobs is not None:
            filled = blobs.filled()
            fetched = max(0, filled.nbytes - batch.nbytes)
            parts = iter([_with_blobs(take.concatenate(list(parts)), filled)])
            schema = filled.schema
            size += fetched
            fetches.finish(blobs)
        self._batch = self._blobs = self._left_out = None
        self._complete = Complete(parts, schema, self.counts, size, fetched)


def _completed(
    batch: pa.RecordBatch, rows: np.ndarray, brought: deque[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """As `large_rows.completed`; the memory of each part goes to the system once it is used."""
    for part in large_rows.completed(batch, rows, brought):
        yield part
        del part
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
    fetches : Fetches
        What reads it.
    limits : Limits
        How many bytes may be fetched in one call, and ahead.
    at_once : int
        How many calls may be under way.
    """

    def __init__(self, fetches: Fetches, limits: Limits, at_once: int):
        self._fetches = fetches
        self._limits = limits
        self._at_once = at_once
        self._waiting: deque[Completion] = deque()

    def add(self, batch: pa.RecordBatch | RowsInMemory, counts: Sequence[int]) -> None:
        """Add batches to come, `counts` rows each."""
        sizes = late.bytes_to_fetch(batch) if isinstance(batch, pa.RecordBatch) else None
        if sizes is None:
            self._waiting.append(Completion(batch, list(counts)))
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

    def take(self) -> Completion | None:
        """The next batches, as many as were read in one call; None if there are no more.

        Any thread may ask for their rows, all of which were waited for.
        """
        if not self._waiting:
            return None
        first = self._waiting.popleft()
        if first.is_in_memory:
            return first
        if not first.is_begun:
            first.begin(self._fetches)
        first.wait(self._fetches)
        if first.result().size <= self._limits.ahead:  # else it alone is more than may be ahead
            self._work_ahead()
        return first

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
                each.begin(self._fetches)
