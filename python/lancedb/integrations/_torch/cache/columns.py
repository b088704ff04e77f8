# SPDX-License-Identifier: Apache-2.0
"""Columns of a map-style dataset kept in memory, so that single rows need fewer reads.

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
from .tables import CachedTable, most_kept

_log = logging.getLogger("lancedb.integrations.torch")

Cache = bool | Literal["auto"]

_READS_AHEAD = 2
# Reading a column as a whole takes a twentieth of the time, or less, of reading it row by row:
# it is worth it once a process has read this share of the rows.
_READ_FIRST = 1 / 32


def check_cache(cache: Any) -> Cache:
    """`cache`; ValueError if it is none of what it may be."""
    return one_of("cache", cache, (True, False, "auto"))


class ColumnCache:
    """Columns of a dataset's rows in this process: a copy in another one begins with none.

    Parameters
    ----------
    cache : bool or "auto"
        Whether to keep every column from the first read on, or none; ``"auto"`` keeps the
        narrowest that fit, as soon as 3 % of the rows was read.
    """

    def __init__(self, cache: Cache):
        self.cache: Cache = cache
        self._seen = 0
        self._bytes: Counter[str] = Counter()
        self._decided = cache is False
        self._held: _CachedColumns | None = None
        self._counts: Counter[str] = Counter()

    def __reduce__(self) -> tuple:
        return ColumnCache, (self.cache,)

    def read(self, reader: Reader, rows: np.ndarray) -> pa.RecordBatch:
        """As `Reader.read`, out of memory as far as may be."""
        return self.begin(reader, rows)()

    def begin(self, reader: Reader, rows: np.ndarray) -> Callable[[], pa.RecordBatch]:
        """Begin to read, as `read`; what is returned waits for the rows."""
        if not self._decided and self._is_due(reader):
            self._decide(reader)
        held, local = self._held, reader.local
        if held is not None:
            return functools.partial(self._finish, held, None, held.begin(rows))
        taken = None if local is None else local.take(reader.selection.offsets(rows))
        finish = reader.begin(rows).in_order if taken is None else lambda: taken
        return functools.partial(self._finish, None, local, finish)

    def _finish(
        self,
        held: _CachedColumns | None,
        local: LocalRows | None,
        finish: Callable[[], pa.RecordBatch],
    ) -> pa.RecordBatch:
        batch = finish()
        size = own_bytes(batch)
        if held is not None:
            cached = sum(own_bytes(batch[name]) for name in held.names)
            rows = batch.num_rows if len(held.names) == batch.num_columns else 0
        else:
            rows = min(0 if local is None else local.count(), batch.num_rows)
            cached = size * rows // max(1, batch.num_rows)
        self._counts.update(bytes=size - cached, cached_bytes=cached, cached_rows=rows)
        if not self._decided:
            self._note(batch)
        return batch

    def counts(self) -> Counter[str]:
        """The ``bytes`` read, and what came out of memory or off the cache's disk instead."""
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
            kept = self._worth_keeping(reader)
            if kept is not None and kept.load():
                self._held = kept
                self._counts.update(bytes=kept.num_bytes)
        except (RuntimeError, OSError, ValueError) as error:
            if self.cache is True:
                raise
            # Nobody asked for it. If the rows cannot be read either, that says what is wrong.
            _log.debug("no columns are kept: %s", error)
        self._decided = True

    def _worth_keeping(self, reader: Reader) -> _CachedColumns | None:
        """The columns to keep; None if none of them is worth it."""
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
        budget = most_kept()
        names = narrowest(widths, budget / stretch.num_rows)
        return _CachedColumns(reader, names, stretch, budget) if names else None


class _CachedColumns:
    """Some columns in memory, and a reader of the others.

    Parameters
    ----------
    reader : Reader
        What reads every column.
    names : collection of str
        Which columns to keep.
    held : Selection
        Whose rows to keep: a stretch of the table, or the reader's own selection.
    most_bytes : int, optional
        How many Arrow bytes may be kept.
    """

    def __init__(
        self, reader: Reader, names: Collection[str], held: Selection, most_bytes: int | None
    ):
        self._names = list(reader.columns)
        self.names = [name for name in self._names if name in names]
        others = [name for name in self._names if name not in names]
        self._rest = _only(reader, reader.selection, others).open() if others else None
        kept = _only(reader, held, self.names)
        self._table = CachedTable(kept, reader.selection, average_row_bytes(kept), most_bytes)

    def load(self) -> bool:
        """Read what is to be kept; False if it is too large."""
        return self._table.load(_ByReader(self._table.reader), _READS_AHEAD)

    @property
    def num_bytes(self) -> int:
        """What was read to be kept."""
        return self._table.rows.num_bytes

    def begin(self, rows: np.ndarray) -> Callable[[], pa.RecordBatch]:
        reading = self._rest.open().begin(rows) if self._rest is not None else None
        return functools.partial(self._finish, reading, rows)

    def _finish(self, reading: PendingRead | None, rows: np.ndarray) -> pa.RecordBatch:
        kept = self._table.take(rows)
        if reading is None:
            return kept
        read = reading.in_order()
        parts = [(kept if name in self.names else read, name) for name in self._names]
        return pa.RecordBatch.from_arrays(
            [batch[name] for batch, name in parts],
            schema=pa.schema([batch.schema.field(name) for batch, name in parts]),
        )


class _ByReader:
    """Reads what is to be kept, of which nobody counts the seconds."""

    def __init__(self, reader: Reader):
        self.begin_rows = reader.open().begin

    def finish(self, reading: PendingRead) -> None:
        """Nothing more to do."""


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
