# SPDX-License-Identifier: Apache-2.0
"""Knows the rows of a selection that are kept in memory: loaded once, taken in any order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from . import gather
from .memory import new_rows
from .plan import Piece, Plan
from .raw import from_raw, raw_rows, row_bytes
from .reader import Reading
from .reads import Reads
from .schedule import WindowRows, joined, rows_of

_READ_BYTES = 8 << 20


class Resident:
    """All rows of a selection, in base order.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the columns that are read.
    rows, row_bytes : int
        How many rows there are, and the Arrow bytes of an average one.
    """

    def __init__(self, schema: pa.Schema, rows: int, row_bytes: int):
        self._schema = schema
        self._rows = rows
        self._read_rows = max(1, _READ_BYTES // row_bytes)
        self._columns: list[gather.Rows] | None = None
        self._loading = threading.Lock()

    def load(self, reads: Reads, ahead: int) -> None:
        """Read every row unless that was done, with `ahead` more reads under way."""
        with self._loading:
            if self._columns is None:
                self._columns = self._loaded(reads, ahead)

    def take(self, places: np.ndarray) -> pa.RecordBatch:
        """The rows at some places of the base order, in that order."""
        assert self._columns is not None
        columns = [column.take(places) for column in self._columns]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _loaded(self, reads: Reads, ahead: int) -> list[gather.Rows]:
        columns = [_Column(field.type, self._rows) for field in self._schema]
        under_way: deque[Reading] = deque()
        for start in range(0, self._rows, self._read_rows):
            stop = min(start + self._read_rows, self._rows)
            under_way.append(reads.begin_rows(np.arange(start, stop)))
            if len(under_way) > ahead:
                _add(columns, reads, under_way.popleft())
        while under_way:
            _add(columns, reads, under_way.popleft())
        return [column.finished() for column in columns]


class _Column:
    """A column that grows by what is read; one of fixed width straight into its place."""

    def __init__(self, kind: pa.DataType, rows: int):
        self._kind = kind
        self._room = new_rows(rows, row_bytes(kind)) if row_bytes(kind) else None
        self._filled = 0
        self._chunks: list[pa.Array] = [pa.nulls(0, kind)]

    def add(self, array: pa.Array) -> None:
        raw = raw_rows(array) if self._room is not None else None
        if raw is None and self._room is not None:
            # A null: from here on Arrow has the column.
            kept = pa.py_buffer(self._room[: self._filled])
            self._chunks.append(from_raw(self._kind, self._filled, kept))
            self._room = None
        if self._room is None:
            self._chunks.append(array)
        else:
            self._room[self._filled : self._filled + len(array)] = raw
        self._filled += len(array)

    def finished(self) -> gather.Rows:
        if self._room is not None:
            return gather.FixedRows(self._kind, self._room)
        return gather.rows_of(pa.concat_arrays(self._chunks))


class ResidentSource:
    """Windows of rows that are in memory: what is open is which rows they are.

    Parameters
    ----------
    plan : Plan
        The epoch's order of rows.
    resident : Resident
        Loaded when a batch is first asked for.
    reads : Reads
        What loads it.
    ahead : int
        As for `Resident.load`.
    """

    def __init__(self, plan: Plan, resident: Resident, reads: Reads, ahead: int):
        self._plan = plan
        self._resident = resident
        self._reads = reads
        self._ahead = ahead
        self._open: dict[int, np.ndarray] = {}

    def begin(self, windows: Sequence[WindowRows]) -> None:
        self._open.update((window.window, rows_of(self._plan, window)) for window in windows)

    def batch(self, pieces: Iterable[Piece]) -> pa.RecordBatch:
        self._resident.load(self._reads, self._ahead)
        rows = [self._open[at.window][at.begin : at.begin + at.count] for at in joined(pieces)]
        return self._resident.take(np.concatenate(rows))

    def drop(self, window: int) -> None:
        del self._open[window]

    def cancel(self) -> None:
        self._reads.cancel()

    def close(self) -> None:
        self._open.clear()


def _add(columns: list[_Column], reads: Reads, reading: Reading) -> None:
    batch = reading.in_order()
    reads.finish(reading)
    for column, array in zip(columns, batch.columns, strict=True):
        column.add(array)
