# SPDX-License-Identifier: Apache-2.0
"""Rows far larger than the others: counted as they are read, left out, and read with their batch.

A layout is chosen by the average row, and what is read ahead is a number of rows. One row in a
thousand may be megabytes: then the large values of a read that brings more than its rows may have
are left out again, and a column of offsets says of which rows. They are read once more with the
batch that has them. Where such rows are expected, few rows are asked for at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from . import take
from .buffer_pool import release_freed
from .dictionaries import own_bytes
from .fixed_width import row_bytes
from .variable_width import value_bytes

LEFT_OUT = "\0left_out"
# In that column, for a row that was not left out.
NONE = -1
# The size to expect of rows not seen yet, where some are known to be large; and how many such rows
# a call may bring that comes upon a stretch of them, after many small ones.
_EXPECTED_BYTES = 16 << 20
_MOST_UNSEEN = 8
# Allowed beyond the rows' share, so that few rows need not be of average size.
_SLACK_BYTES = 1 << 20
# From so many bytes of a call on it pays to have the allocators look for what is free.
_MUCH_BYTES = 8 << 20
# What makes a row large by itself, and how much larger than half of those with it.
_LARGE_ROW = 1 << 20
_FAR_LARGER = 8


class Limits(NamedTuple):
    """Bytes that all processes of a loader together may use beyond what its layout says."""

    one_call: int = 32 << 20
    ahead: int = 32 << 20

    def for_one_of(self, workers: int) -> Limits:
        """The share of one worker."""
        return Limits(*(limit // max(1, workers) for limit in self))


class LargeRows:
    """What one stream knows of large rows.

    Parameters
    ----------
    average_bytes : int
        Arrow bytes of an average row, by which the layout was chosen.
    are_expected : bool
        Whether some rows are known to be far larger than that.
    limits : Limits
        How much is read at once, and ahead.
    one_call : asyncio.Lock, optional
        Shared by streams of which one at a time is to ask for rows that may be large.

    Attributes
    ----------
    rows_of_a_call : int or None
        How many rows to ask for at once; None for all that are wanted.
    """

    def __init__(
        self,
        average_bytes: int,
        are_expected: bool,
        limits: Limits,
        one_call: asyncio.Lock | None = None,
    ):
        self.limits = limits
        self._average = average_bytes
        self.rows_of_a_call = self.cautious if are_expected else None
        # Where large rows have raised the average, most rows need a small part of it.
        self._factor = 1 / 4 if are_expected else 2
        self._one_call = asyncio.Lock() if one_call is None else one_call

    def counted(self, spare: int = 0) -> CountedRead:
        """A read ahead, which leaves out what is more than its rows' share and `spare` bytes."""
        return CountedRead(self, spare + _SLACK_BYTES)

    def fetched(self) -> FetchedRead:
        """A read of all that is asked for."""
        return FetchedRead(self)

    @property
    def cautious(self) -> int:
        """How many rows to ask for at once of which nothing is known but that they are large."""
        return max(1, self.limits.one_call // _EXPECTED_BYTES)

    def permit(self) -> contextlib.AbstractAsyncContextManager:
        """Entered for a call: one at a time where rows may be large."""
        return contextlib.nullcontext() if self.rows_of_a_call is None else self._one_call

    def note(self, size: int, rows: int) -> None:
        """Note the bytes that a call brought for some rows.

        Where they are few, the next one may ask for twice as many rows, up to a bound: nobody knows
        where large ones stand.
        """
        known = self.rows_of_a_call
        if known is None:
            return
        if size > self.limits.one_call:
            self.rows_of_a_call = max(1, min(known, rows) // 2)
        elif rows >= known and size <= self.limits.one_call // 2:
            self.rows_of_a_call = min(2 * known, _MOST_UNSEEN * self.cautious)

    def expect(self, size: int, rows: int) -> None:
        """Expect rows of this size from now on, if as many as these would be too much."""
        if self.rows_of_a_call is None and size * rows > self.limits.one_call:
            self.rows_of_a_call = self.cautious

    def release(self, size: int) -> None:
        """Release to the system what a call has used, if it was much, and it is one of few rows.

        The buffers of each call are of other threads, and allocators reserve some for each thread.
        """
        if self.rows_of_a_call is not None and size >= _MUCH_BYTES:
            release_freed()

    def share(self, rows: int) -> int:
        """Bytes that so many rows may have."""
        return int(self._factor * self._average * rows)


class CountedRead:
    """One read in several calls.

    Parameters
    ----------
    large : LargeRows
        What is known of all reads.
    slack : int
        Bytes beyond the rows' share.
    """

    def __init__(self, large: LargeRows, slack: int):
        self.permit = large.permit
        self._large = large
        self._slack = slack
        self._rows = self._bytes = self._brought = 0
        self._parts: list[pa.RecordBatch] = []

    def cut(self, offsets: np.ndarray) -> Iterator[np.ndarray]:
        """What to ask for in one call after the other: the size of the next may depend on them."""
        start = 0
        while start == 0 or start < len(offsets):
            stop = start + (self._large.rows_of_a_call or len(offsets))
            yield offsets[start:stop]
            self._large.release(self._brought)
            start = max(stop, 1)

    def add(self, batch: pa.RecordBatch, offsets: np.ndarray) -> None:
        """Add what a call brought, or what of it does not have to be left out."""
        left_out = np.full(batch.num_rows, NONE, np.int64)
        self._rows += batch.num_rows
        self._brought = own_bytes(batch)
        self._large.note(self._brought, batch.num_rows)
        allowed = self._large.share(self._rows) + self._slack - self._bytes
        if own_bytes(batch) > allowed:
            sizes = sizes_of_rows(batch)
            self._large.expect(int(sizes.max(initial=0)), batch.num_rows)
            out = _too_many(sizes, allowed)
            left_out[out] = offsets[out]
            batch = _without(batch, out)
        self._bytes += own_bytes(batch)
        self._parts.append(with_offsets(batch, left_out))

    def batch(self) -> pa.RecordBatch:
        """All that was added, in one."""
        return take.concatenate(self._parts)


class FetchedRead:
    """One read in several calls, of which each brings some of the rows asked for, in order.

    Attributes
    ----------
    parts : deque of pyarrow.RecordBatch
        What they brought. In one it would be there twice.
    """

    def __init__(self, large: LargeRows):
        self.permit = large.permit
        self.parts: deque[pa.RecordBatch] = deque()
        self._large = large
        self._brought = 0
        self._at_once = large.cautious
        self._order = np.zeros(0, np.int64)

    def cut(self, offsets: np.ndarray) -> Iterator[np.ndarray]:
        """What to ask for in one call after the other, ascending."""
        start = 0
        while start < len(offsets):
            stop = start + self._at_once
            ascending, self._order = np.unique(offsets[start:stop], return_inverse=True)
            yield ascending
            self._large.release(self._brought)
            start = stop

    def add(self, batch: pa.RecordBatch, offsets: np.ndarray) -> None:
        """Add what a call brought, in the order in which it was asked for."""
        self._brought = own_bytes(batch)
        if self._brought > self._large.limits.one_call:
            self._at_once = max(1, self._at_once // 2)
        elif self._brought <= self._large.limits.one_call // 2:
            self._at_once *= 2
        if len(self._order) > len(offsets) or (np.diff(self._order) < 0).any():
            batch = take.take(batch, self._order)
        self.parts.append(batch)

    def batch(self) -> pa.RecordBatch:
        """Nothing but the schema: the parts are taken one by one."""
        schema = self.parts[0].schema
        return pa.RecordBatch.from_arrays([pa.nulls(0, of.type) for of in schema], schema=schema)


def vary_in_size(schema: pa.Schema) -> bool:
    """Whether rows of a schema may differ in size."""
    return any(_varies(field.type) for field in schema)


def sizes_of_rows(batch: pa.RecordBatch) -> np.ndarray:
    """Arrow bytes of each row, of the columns in which they differ."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        if _varies(column.type):
            known = value_bytes(column)
            if known is None:
                rows = (column.slice(row, 1).nbytes for row in range(len(column)))
                known = np.fromiter(rows, np.int64, len(column))
            sizes += known
    return sizes


def has_large_rows(batch: pa.RecordBatch) -> bool:
    """Whether a batch takes megabytes because of rows far larger than most of it."""
    if own_bytes(batch) < _MUCH_BYTES or not vary_in_size(batch.schema):
        return False
    sizes = sizes_of_rows(batch)
    return bool(sizes.max() >= max(_LARGE_ROW, _FAR_LARGER * np.median(sizes)))


def may_lack(batch: pa.RecordBatch) -> bool:
    """Whether a batch says of its rows if they were left out as they were read ahead."""
    return batch.schema.names[-1:] == [LEFT_OUT]


def left_out(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a batch were left out, and the offset of each of them in the table."""
    offsets = batch.column(batch.num_columns - 1).to_numpy()
    rows = np.flatnonzero(offsets != NONE)
    return rows, offsets[rows]


def with_offsets(batch: pa.RecordBatch, offsets: np.ndarray) -> pa.RecordBatch:
    """A batch that says of each row where in its table it is if it was left out, or `NONE`."""
    return batch.append_column(pa.field(LEFT_OUT, pa.int64()), pa.array(offsets))


def without_offsets(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The columns of the table alone."""
    return batch.select(range(batch.num_columns - 1))


def with_column(batch: pa.RecordBatch, name: str, values: np.ndarray) -> pa.RecordBatch:
    """A batch with a column more, behind those of the table."""
    return batch.add_column(batch.num_columns - may_lack(batch), name, pa.array(values))


def completed(
    batch: pa.RecordBatch, rows: np.ndarray, fetched: deque[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """A batch with the values that were left out of it, in parts.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Without the offsets.
    rows : numpy.ndarray of int64
        Which of its rows were left out, ascending.
    fetched : deque of pyarrow.RecordBatch
        These rows in sequence, and no others; each is dropped once it has been used.
    """
    start = used = 0
    while fetched:
        values = fetched.popleft()
        here = rows[used : used + values.num_rows]
        used += values.num_rows
        stop = batch.num_rows if not fetched else int(here[-1]) + 1
        part = _filled(batch.slice(start, stop - start), here - start, values)
        start = stop
        del values
        yield part


def _filled(batch: pa.RecordBatch, rows: np.ndarray, values: pa.RecordBatch) -> pa.RecordBatch:
    columns = [
        _spliced(column, rows, values.column(number)) if _varies(column.type) else column
        for number, column in enumerate(batch.columns)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _spliced(column: pa.Array, rows: np.ndarray, values: pa.Array) -> pa.Array:
    if len(rows) == len(column):
        return values
    parts, start = [], 0
    for place, row in enumerate(rows.tolist()):
        parts += [column.slice(start, row - start), values.slice(place, 1)]
        start = row + 1
    return pa.concat_arrays([*parts, column.slice(start)])


def _too_many(sizes: np.ndarray, allowed: int) -> np.ndarray:
    """The largest rows, ascending: without them the others have at most `allowed` bytes."""
    ascending = np.argsort(sizes, kind="stable")
    fit = int(np.searchsorted(np.cumsum(sizes[ascending]), allowed, "right"))
    return np.sort(ascending[fit:])


def _without(batch: pa.RecordBatch, rows: np.ndarray) -> pa.RecordBatch:
    """A batch with nulls in place of some rows' values, and no memory of the old one."""
    left = np.delete(np.arange(batch.num_rows), rows)
    where = np.full(batch.num_rows, len(left))
    where[left] = np.arange(len(left))
    columns = []
    for column in batch.columns:
        if _varies(column.type):
            some = take.take_column(column, left)
            some = pa.concat_arrays([some, pa.nulls(1, column.type)])
            columns.append(take.take_column(some, where))
        else:
            columns.append(take.take_column(column, np.arange(len(column))))
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _varies(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _varies(kind.storage_type)
    if row_bytes(kind) or pa.types.is_dictionary(kind) or pa.types.is_union(kind):
        return False
    return not (pa.types.is_boolean(kind) or pa.types.is_null(kind))
