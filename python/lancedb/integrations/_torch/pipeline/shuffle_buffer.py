# SPDX-License-Identifier: Apache-2.0
"""Windows of rows that wait to be delivered, and record batches made out of them.

Columns of fixed width are copied as bytes to memory of our own. Strings and lists stay where they
were read if they are most of it, and Arrow copies all else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..arrow import take
from ..arrow.buffer_pool import WindowMemory
from ..arrow.dictionaries import with_codes
from ..arrow.fixed_width import buffer_for, from_raw, row_bytes
from ..arrow.variable_width import ViewRows, concatenated
from ..order.window_slices import WindowSlices, divided, runs

_FREED = pa.nulls(0)
# Fewer slices of single rows are joined as soon as they are sorted.
_SINGLE = 16


class ReadRows:
    """Rows as they were read, ready to be put into one or more windows.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        What a read brought.
    """

    def __init__(self, batch: pa.RecordBatch):
        self.schema = batch.schema
        self.columns = [take.rows_of(column) for column in batch.columns]
        views = sum(each.nbytes for each in self.columns if isinstance(each, ViewRows))
        # All of a batch that lancedb has returned lives as long as any column of it.
        self._holds_batch = 2 * views >= batch.nbytes

    def taken(self, column: take.LooseRows, order: np.ndarray) -> pa.Array:
        """The values of one of the columns at `order`, or views of them."""
        return column.take_views(order) if self._holds_batch else column.take(order)


class Window:
    """Rows of one window in the order in which it delivers them, from first to last.

    Nothing of the batch that was read stays in memory, so that the reader's is soon used again;
    unless strings and lists are most of it.

    Parameters
    ----------
    rows : ReadRows
        What was read.
    order : numpy.ndarray of int64
        Which of `rows` is delivered when.
    memory : WindowMemory
        Where columns of fixed width are copied to; the same for all windows put together.

    Attributes
    ----------
    starts : numpy.ndarray of int64
        Where in the memory each segment starts; none if no column is there.
    dictionaries : dict of int to pyarrow.Array
        The dictionary of each column that has one.
    """

    def __init__(self, rows: ReadRows, order: np.ndarray, memory: WindowMemory):
        self.schema = rows.schema
        self.memory = memory
        self._size = -(-len(order) // memory.segment_rows)
        self._freed = 0
        self._next_freed = memory.segment_rows  # when so many rows are delivered
        self._segments: list[int] = []
        fixed = [isinstance(each, take.FixedRows) for each in rows.columns]
        self._arrays: dict[int, list[pa.Array]] = {
            number: [] for number, is_fixed in enumerate(fixed) if not is_fixed
        }
        for start in range(0, len(order), memory.segment_rows):
            picked = order[start : start + memory.segment_rows]
            if any(fixed):
                self._segments.append(memory.take())
            for number, each in enumerate(rows.columns):
                if isinstance(each, take.FixedRows):
                    self._copy(number, each, picked)
                else:
                    self._arrays[number].append(rows.taken(each, picked))
        self.starts = np.array(self._segments, np.int64) * memory.segment_rows
        self.dictionaries = {
            number: each.dictionary
            for number, each in enumerate(rows.columns)
            if isinstance(each, take.DictionaryRows)
        }

    def _copy(self, column: int, rows: take.FixedRows, order: np.ndarray) -> None:
        """Copy the last segment's rows of a column into the memory."""
        start = self._segments[-1] * self.memory.segment_rows
        memory = self.memory.rows(column, rows.bytes.dtype.itemsize)
        rows.bytes.take(order, 0, memory[start : start + len(order)], "clip")

    @property
    def left_to_arrow(self) -> Iterable[int]:
        """The columns that are not in our own memory."""
        return self._arrays

    def segment(self, column: int, number: int) -> pa.Array:
        """A segment's rows of a column, or views of them: good until they are delivered."""
        if column in self._arrays:
            return self._arrays[column][number]
        kind = self.schema.field(column).type
        rows = self.memory.rows(column, row_bytes(kind))[self.starts[number] :]
        rows = rows[: self.memory.segment_rows]
        return from_raw(kind, len(rows), pa.py_buffer(rows))

    def adopt(self, column: int, dictionary: pa.Array) -> None:
        """Have a column refer to a dictionary that continues its own one, if this one does."""
        own = self.dictionaries[column]
        if own is dictionary:
            return
        if own.equals(dictionary) or own.equals(dictionary.slice(0, len(own))):
            self.dictionaries[column] = dictionary
            self._arrays[column] = [
                with_codes(each, each.indices, dictionary)
                if isinstance(each, pa.DictionaryArray)
                else each
                for each in self._arrays[column]
            ]

    def deliver(self, end: int) -> None:
        """Let the memory of the rows before `end` be used again, segment by segment."""
        if end >= self._next_freed:
            self._free(end // self.memory.segment_rows)

    def close(self) -> None:
        """Let all of the memory be used again."""
        self._free(self._size)

    def _free(self, segments: int) -> None:
        for number in range(self._freed, min(segments, self._size)):
            if self._segments:
                self.memory.free(self._segments[number])
            for arrays in self._arrays.values():
                arrays[number] = _FREED
            self._freed = number + 1
        self._next_freed = (self._freed + 1) * self.memory.segment_rows


def assemble(windows: Sequence[Window], owners: np.ndarray, pieces: WindowSlices) -> pa.RecordBatch:
    """One record batch with the rows of all pieces, copied.

    Parameters
    ----------
    windows : sequence of Window
        All that the pieces are of.
    owners : numpy.ndarray of int64
        Of each piece, which of `windows` it is of.
    pieces : WindowSlices
        Which rows, in sequence.
    """
    schema = windows[0].schema
    arrow = set[int]().union(*(window.left_to_arrow for window in windows))
    runs_of_rows, order = _as_runs(owners, pieces) if arrow else ((owners, pieces), None)
    places = _places(windows, owners, pieces) if len(arrow) < len(schema) else None
    columns = [
        _reordered(_joined(windows, *runs_of_rows, number), order)
        if number in arrow or places is None
        else _picked(windows[0], number, places)
        for number in range(len(schema))
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _as_runs(
    owners: np.ndarray, pieces: WindowSlices
) -> tuple[tuple[np.ndarray, WindowSlices], np.ndarray | None]:
    """The pieces as they are; those of single rows as runs of neighbours, and the rows' order.

    Arrow joins slices one by one, so that there must not be one for each row.
    """
    if len(pieces) < _SINGLE or len(pieces) < int(pieces.counts.sum()):
        return (owners, pieces), None
    order = np.lexsort((pieces.begins, owners))
    ordered = WindowSlices(owners[order], pieces.begins[order], pieces.counts[order]).joined()
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return (ordered.windows, ordered), places


def _reordered(column: pa.Array, order: np.ndarray | None) -> pa.Array:
    return column if order is None else take.take_column(column, order)


class _Places(NamedTuple):
    """Where in the memory rows are: they are copied fastest in units of several neighbours."""

    unit: int
    numbers: np.ndarray


def _places(windows: Sequence[Window], owners: np.ndarray, pieces: WindowSlices) -> _Places:
    """Where in the memory the rows of the pieces are, in sequence."""
    size = windows[0].memory.segment_rows
    starts = [window.starts for window in windows]
    firsts = np.cumsum([0, *map(len, starts)])[:-1]
    if (pieces.counts == 1).all():  # as of a mixture
        segments, within = np.divmod(pieces.begins, size)
        return _Places(1, np.concatenate(starts)[segments + firsts[owners]] + within)
    unit = int(np.gcd.reduce(np.concatenate([[size], pieces.begins, pieces.counts])))
    segments, within = np.divmod(runs(pieces.begins // unit, pieces.counts // unit), size // unit)
    segments += np.repeat(firsts[owners], pieces.counts // unit)
    return _Places(unit, np.concatenate(starts)[segments] // unit + within)


def _joined(
    windows: Sequence[Window], owners: np.ndarray, pieces: WindowSlices, column: int
) -> pa.Array:
    if column in windows[0].dictionaries:
        _share_dictionary(windows, column)
    size = windows[0].memory.segment_rows
    of_piece, begins, ends = divided(pieces.begins, pieces.begins + pieces.counts, size)
    numbers, within = np.divmod(begins, size)
    parts = (owners[of_piece], numbers, within, ends - begins)
    slices = [
        windows[owner].segment(column, number).slice(begin, count)
        for owner, number, begin, count in zip(*(part.tolist() for part in parts), strict=True)
    ]
    return concatenated(windows[0].schema.field(column).type, slices)


def _share_dictionary(windows: Sequence[Window], column: int) -> None:
    """Have windows refer to the longest dictionary, which the others grew into: Arrow would merge
    them for each batch."""
    longest = max((window.dictionaries[column] for window in windows), key=len)
    for window in windows:
        window.adopt(column, longest)


def _picked(window: Window, column: int, places: _Places) -> pa.Array:
    """The rows of a column at some places, copied."""
    kind = window.schema.field(column).type
    unit, count = places.unit, len(places.numbers)
    data, out = buffer_for(count, unit * row_bytes(kind))
    rows = window.memory.rows(column, row_bytes(kind)).view(out.dtype)
    rows.take(places.numbers, 0, out, "clip")
    return from_raw(kind, unit * count, data)
