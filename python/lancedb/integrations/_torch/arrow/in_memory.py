# SPDX-License-Identifier: Apache-2.0
"""Rows in memory: loaded once, taken in any order."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from . import take
from .buffer_pool import new_rows
from .dictionaries import own_bytes
from .fixed_width import from_raw, raw_rows, row_bytes
from .pieces import SlicesOfRows

_READ_BYTES = 8 << 20
# The most of a column in one array, so that offsets of 32 bits reach its end.
_PIECE_BYTES = 1 << 30
# Whoever asks for rows to be loaded has estimated their size.
_SLACK = 9 / 8


class TooLarge(Exception):
    """What was to be loaded takes more memory than it may."""


class InMemoryRows:
    """All rows of something, by place.

    Parameters
    ----------
    rows, row_bytes : int
        How many there are, and the Arrow bytes of an average one.
    most_bytes : int, optional
        How many Arrow bytes they may have.
    """

    def __init__(self, rows: int, row_bytes: int, most_bytes: int | None = None):
        self._schema = pa.schema([])
        self._rows = rows
        self._most_bytes = most_bytes
        self.is_too_large = False
        self.num_bytes = 0  # of what was read so far
        self._read_rows = max(1, _READ_BYTES // row_bytes)
        self._columns: list[take.Rows] | None = None
        self._loading = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        """Whether the rows are there."""
        return self._columns is not None

    def parts(self) -> Iterator[np.ndarray]:
        """All places in sequence, as many at a time as are to be loaded with one read."""
        for start in range(0, self._rows, self._read_rows):
            yield np.arange(start, min(start + self._read_rows, self._rows))

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Take every row out of these batches, unless that was done: then none is asked for.

        Raises
        ------
        TooLarge
            As soon as there are more than `most_bytes`; nothing is in memory then.
        """
        with self._loading:
            if self.is_too_large:
                raise TooLarge
            if self._columns is None:
                self._columns = self._loaded(batches)

    def take(self, places: np.ndarray) -> pa.RecordBatch:
        """The rows at some places, in that order."""
        assert self._columns is not None
        columns = [column.take(places) for column in self._columns]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _loaded(self, batches: Iterable[pa.RecordBatch]) -> list[take.Rows]:
        columns: list[_Column] = []
        self.num_bytes = 0
        for batch in batches:
            self.num_bytes += own_bytes(batch)
            if self._most_bytes is not None and self.num_bytes > _SLACK * self._most_bytes:
                self.is_too_large = True
                raise TooLarge
            if not columns:  # what comes is not always of the types that a table declares
                self._schema = batch.schema
                columns = [_Column(field.type, self._rows) for field in batch.schema]
            for column, array in zip(columns, batch.columns, strict=True):
                column.add(array)
        return [column.finished() for column in columns]


class _Column:
    """A column that grows by what is read; one of fixed width straight into its place."""

    def __init__(self, kind: pa.DataType, rows: int):
        self._kind = kind
        self._buffer = new_rows(rows, row_bytes(kind)) if row_bytes(kind) else None
        self._filled = 0
        self._chunks: list[pa.Array] = [pa.nulls(0, kind)]

    def add(self, array: pa.Array) -> None:
        raw = raw_rows(array) if self._buffer is not None else None
        if raw is None and self._buffer is not None:
            # A null: from here on Arrow has the column.
            values = pa.py_buffer(self._buffer[: self._filled])
            self._chunks.append(from_raw(self._kind, self._filled, values))
            self._buffer = None
        if self._buffer is None:
            self._chunks.append(array)
        else:
            self._buffer[self._filled : self._filled + len(array)] = raw
        self._filled += len(array)

    def finished(self) -> take.Rows:
        if self._buffer is not None:
            return take.FixedRows(self._kind, self._buffer)
        pieces = [take.rows_of(pa.concat_arrays(group)) for group in _grouped(self._chunks)]
        starts = np.cumsum([0, *map(len, pieces)])[:-1]
        return pieces[0] if len(pieces) == 1 else SlicesOfRows(self._kind, pieces, starts)


def _grouped(chunks: list[pa.Array]) -> Iterator[list[pa.Array]]:
    """Consecutive chunks in groups that Arrow can concatenate."""
    group, size = [chunks[0]], own_bytes(chunks[0])
    for chunk in chunks[1:]:
        if size + own_bytes(chunk) > _PIECE_BYTES:
            yield group
            group, size = [], 0
        group.append(chunk)
        size += own_bytes(chunk)
    yield group
