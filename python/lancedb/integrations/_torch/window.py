# SPDX-License-Identifier: Apache-2.0
"""Knows rows that wait to be handed out, and puts record batches together out of them.

Columns of fixed width are kept as bytes in memory of our own; Arrow keeps the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from . import gather
from .memory import WindowMemory
from .raw import from_raw, raw_rows, room_for

_GIVEN_BACK = np.empty(0, "V1")


class Cut(NamedTuple):
    """Rows `start` to `stop` of a segment, which go to rows `at` to `end` of a batch."""

    segment: int
    start: int
    stop: int
    at: int
    end: int


class FixedColumn:
    """A column of fixed width, without nulls, in segments of a `WindowMemory`."""

    def __init__(
        self, kind: pa.DataType, rows: np.ndarray, order: np.ndarray, memory: WindowMemory
    ):
        self._kind = kind
        self._memory = memory
        self._segments: list[np.ndarray] = []
        self._given_back = 0
        for start in range(0, len(order), memory.segment_rows):
            picked = order[start : start + memory.segment_rows]
            segment = memory.take(rows.dtype.itemsize)
            rows.take(picked, 0, segment[: len(picked)], "clip")
            self._segments.append(segment)
        self.row_bytes = rows.dtype.itemsize

    def copy_to(self, out: np.ndarray, cuts: Sequence[Cut]) -> None:
        """Copy rows to where each cut says."""
        segments = self._segments
        for number, start, stop, at, end in cuts:
            out[at:end] = segments[number][start:stop]

    def slice(self, begin: int, count: int) -> pa.Array:
        data, out = room_for(count, self.row_bytes)
        self.copy_to(out, list(_cuts(begin, count, self._memory.segment_rows, 0)))
        return from_raw(self._kind, count, data)

    def give_back(self, segments: int) -> None:
        """Let the memory of the first few segments be used again."""
        for number in range(self._given_back, min(segments, len(self._segments))):
            self._memory.give_back(self._segments[number])
            self._segments[number] = _GIVEN_BACK
            self._given_back = number + 1


class ArrowColumn:
    """Any other column, in the order in which it is handed out."""

    def __init__(self, array: pa.Array):
        self._array = array

    def slice(self, begin: int, count: int) -> pa.Array:
        return self._array.slice(begin, count)

    def give_back(self, segments: int) -> None:
        """Arrow frees the whole column once nobody uses it."""


class Window:
    """Rows of one window in the order in which it hands them out, from first to last.

    Nothing of the batch that was read is kept, so that the reader's memory is soon used again.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Rows as they were read.
    order : numpy.ndarray of int64
        Which row of `batch` is handed out when.
    memory : WindowMemory
        Where columns of fixed width are kept.
    """

    def __init__(self, batch: pa.RecordBatch, order: np.ndarray, memory: WindowMemory):
        self.schema = batch.schema
        self.columns = [_kept(column, order, memory) for column in batch.columns]
        self.segment_rows = memory.segment_rows
        self._rows = len(order)

    def hand_out(self, end: int) -> None:
        """Let the memory of the rows before `end` be used again, segment by segment."""
        for column in self.columns:
            column.give_back(end // self.segment_rows)

    def close(self) -> None:
        """Let all of the memory be used again."""
        for column in self.columns:
            column.give_back(self._rows)


class Part(NamedTuple):
    """`count` rows of a window from `begin` on."""

    window: Window
    begin: int
    count: int

    def cuts(self, at: int) -> list[Cut]:
        """Where the rows are in their segments, if they go to a batch from row `at` on."""
        return list(_cuts(self.begin, self.count, self.window.segment_rows, at))


def assemble(parts: Sequence[Part]) -> pa.RecordBatch:
    """One record batch with the rows of all parts, copied."""
    schema = parts[0].window.schema
    total = sum(part.count for part in parts)
    ends = itertools.accumulate(part.count for part in parts)
    cuts = [part.cuts(end - part.count) for part, end in zip(parts, ends, strict=True)]
    columns = [_assembled(parts, cuts, total, number) for number in range(len(schema))]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _assembled(
    parts: Sequence[Part], cuts: Sequence[list[Cut]], total: int, number: int
) -> pa.Array:
    columns = [part.window.columns[number] for part in parts]
    fixed = [column for column in columns if isinstance(column, FixedColumn)]
    if len(fixed) < len(columns):
        slices = [
            column.slice(part.begin, part.count)
            for column, part in zip(columns, parts, strict=True)
        ]
        return pa.concat_arrays(slices) if len(slices) > 1 else slices[0]
    data, out = room_for(total, fixed[0].row_bytes)
    for column, where in zip(fixed, cuts, strict=True):
        column.copy_to(out, where)
    return from_raw(parts[0].window.schema.field(number).type, total, data)


def _kept(column: pa.Array, order: np.ndarray, memory: WindowMemory) -> FixedColumn | ArrowColumn:
    rows = raw_rows(column)
    if rows is None:
        return ArrowColumn(gather.take_column(column, order))
    return FixedColumn(column.type, rows, order, memory)


def _cuts(begin: int, count: int, segment_rows: int, at: int) -> Iterator[Cut]:
    while count:
        number, start = divmod(begin, segment_rows)
        size = min(count, segment_rows - start)
        yield Cut(number, start, start + size, at, at + size)
        begin, count, at = begin + size, count - size, at + size
