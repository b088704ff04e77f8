# SPDX-License-Identifier: Apache-2.0
"""Columns of a map-style dataset cached in memory, so that single rows need fewer reads.

A row of a few bytes costs lancedb about as much to read by itself as one of a few hundred, and
each column costs its own. A label or a caption beside a vector is soon worth its memory.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ..arrow.dictionaries import own_bytes
from ..arrow.large_rows import vary_in_size
from ..common.checks import one_of
from ..table.handle import LocalRows
from ..table.reader import PendingRead, Reader
from ..table.sample import average_row_bytes, row_sizes
from ..table.selection import Selection
from .tables import CachedTable, most_cached

_log = logging.getLogger("lancedb.integrations.torch")

Cache = bool | Literal["auto"]

_READS_AHEAD = 2
# Reading a column as a whole takes a twentieth of the time, or less, of reading it row by row:
# it is worth it once a process has read this share of the rows.
_READ_FIRST = 1 / 32


def check_cache(cache: Any) -> Cache:
    """`cache`, checked; ValueError if it is anything else."""
    return one_of("cache", cache, (True, False, "auto"))


class ColumnCache:
    """Columns of a dataset's rows in this process: a copy in another one begins with none.

    Parameters
    ----------
    cache : bool or "auto"
        Whether to cache every column from the first read on, or none; ``"auto"`` caches the
        narrowest that fit, as soon as 3 % of the rows was read.
    """

    def __init__(self, cache: Cache):
        self.cache: Cache = cache
        self._seen = 0
        self._bytes: Counter[str] = Counter()
        self._decided = cache is False
        self._cached: _CachedColumns | None = None
        self._counts: Counter[str] = Counter()

    def __reduce__(self) -> tuple:
        return ColumnCache, (self.cache,)

    def begin(self, reader: Reader, rows: np.ndarray) -> Callable[[], pa.RecordBatch]:
        """Begin to read, out of memory as far as may be; what is returned waits for the rows."""
        if not self._decided and self._is_due(reader):
            self._decide(reader)
        columns, local = self._cached, reader.local
        if columns is not None:
            return functools.partial(self._finish, columns, None, columns.begin(rows))
        taken = None if local is None else local.take(reader.selection.offsets(rows))
        finish = reader.begin(rows).in_order if taken is None else lambda: taken
        return functools.partial(self._finish, None, local, finish)

    def _finish(
        self,
        columns: _CachedColumns | None,
        local: LocalRows | None,
        finish: Callable[[], pa.RecordBatch],
    ) -> pa.RecordBatch:
        batch = finish()
        size = own_bytes(batch)
        if columns is not None:
            cached = sum(own_bytes(batch[name]) for name in columns.names)
            rows = batch.num_rows if len(columns.names) == batch.num_columns else 0
        else:
            rows = min(0 if local is None else local.take_count(), batch.num_rows)
            cached = size * rows // max(1, batch.num_rows)
        self._counts.update(bytes=size - cached, cached_bytes=cached, cached_rows=rows)
        if not self._decided:
            self._note(batch)
        return batch

    def take_counts(self) -> Counter[str]:
        """The ``bytes`` read since the last call, and what memory or the disk had instead."""
        counts, self._counts = self._counts, Counter()
        return counts

    def _note(self, batch: pa.RecordBatch) -> None:
        self._seen += batch.num_rows
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._bytes[name] += own_bytes(column)

    def _is_due(self, reader: Reader) -> bool:
        if self.cache is True:
            return reader.selection.num_rows > 0
        if reader.local is not None:  # a cache on disk, which has all columns
            return False
        return self._seen > 0 and self._seen >= reader.selection.num_rows * _READ_FIRST

    def _decide(self, reader: Reader) -> None:
        try:
            columns = self._worth_caching(reader)
            if columns is not None and columns.load():
                self._cached = columns
                self._counts.update(bytes=columns.num_bytes)
        except (RuntimeError, OSError, ValueError) as error:
            if self.cache is True:
                raise
            # Nobody asked for it. If the rows cannot be read either, that says what is wrong.
            _log.debug("no columns are cached: %s", error)
        self._decided = True

    def _worth_caching(self, reader: Reader) -> _CachedColumns | None:
        """The columns to cache; None if none of them is worth it."""
        selection = reader.selection
        stretch = selection.stretch()
        if self.cache is True:
            return _CachedColumns(reader, reader.columns, stretch or selection, None)
        # Rows here and there would have to be read one by one, as they are in any case.
        if stretch is None or not reader.handle().is_read_in_bulk:
            return None
        blobs = reader.handle().blob_names
        widths = {
            name: size / self._seen for name, size in self._bytes.items() if name not in blobs
        }
        if row_sizes(reader).are_skewed:  # an average says nothing of columns that vary
            widths = {name: widths[name] for name in widths if _has_one_size(reader, name)}
        budget = most_cached()
        names = narrowest(widths, budget / stretch.num_rows)
        return _CachedColumns(reader, names, stretch, budget) if names else None


class _CachedColumns:
    """Some columns in memory, and a reader of the others.

    Parameters
    ----------
    reader : Reader
        What reads every column.
    names : collection of str
        Which columns to cache.
    cached : Selection
        Whose rows to cache: a stretch of the table, or the reader's own selection.
    most_bytes : int, optional
        How many Arrow bytes they may have.
    """

    def __init__(
        self, reader: Reader, names: Collection[str], cached: Selection, most_bytes: int | None
    ):
        self._names = list(reader.columns)
        self.names = [name for name in self._names if name in names]
        others = [name for name in self._names if name not in names]
        self._rest = _only(reader, reader.selection, others).open() if others else None
        whole = _only(reader, cached, self.names)
        self._table = CachedTable(whole, reader.selection, average_row_bytes(whole), most_bytes)

    def load(self) -> bool:
        """Read what is to be cached; False if it is too large."""
        begin = self._table.reader.open().begin
        return self._table.load(begin, lambda _: None, _READS_AHEAD)

    @property
    def num_bytes(self) -> int:
        """What was read to be cached."""
        return self._table.rows.num_bytes

    def begin(self, rows: np.ndarray) -> Callable[[], pa.RecordBatch]:
        reading = self._rest.open().begin(rows) if self._rest is not None else None
        return functools.partial(self._finish, reading, rows)

    def _finish(self, reading: PendingRead | None, rows: np.ndarray) -> pa.RecordBatch:
        cached = self._table.take(rows)
        if reading is None:
            return cached
        read = reading.in_order()
        parts = [(cached if name in self.names else read, name) for name in self._names]
        return pa.RecordBatch.from_arrays(
            [batch[name] for batch, name in parts],
            schema=pa.schema([batch.schema.field(name) for batch, name in parts]),
        )


def _only(reader: Reader, selection: Selection, names: list[str]) -> Reader:
    """A reader of some columns; it opens the table for itself."""
    columns = {name: reader.columns[name] for name in names}
    local = reader.local if columns == reader.columns else None
    return Reader(reader.recipe, selection, columns, local)


def _has_one_size(reader: Reader, name: str) -> bool:
    return not vary_in_size(pa.schema([reader.schema.field(name)]))


def narrowest(widths: dict[str, float], budget: float) -> list[str]:
    """As many columns as fit in `budget` bytes a row, the narrowest first.

    Examples
    --------
    >>> narrowest({"vector": 512.0, "label": 4.0, "text": 30.0}, 100)
    ['label', 'text']
    """
    names = []
    for name in sorted(widths, key=lambda name: widths[name]):
        budget -= widths[name]
        if budget < 0:
            break
        names.append(name)
    return names
