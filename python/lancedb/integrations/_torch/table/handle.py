# SPDX-License-Identifier: Apache-2.0
"""This process's open handle: offsets of one pinned table in, a record batch out.

The handle is Rust's. It never travels, and must not be used in a process that was forked off.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import multiprocessing
import os
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from lancedb.background_loop import LOOP
from lancedb.remote.table import RemoteTable
from lancedb.table import Table

from ..arrow import take
from ..arrow.dictionaries import own_bytes
from ..arrow.fixed_width import row_bytes
from ..arrow.large_rows import CountedRead, FetchedRead
from . import fork_guard as forking
from . import io_uring as uring
from .blobs import BlobColumns
from .call_threads import in_thread
from .dictionaries import DictionaryColumns
from .nearest import Nearest, search
from .permutation_rows import PermutationRows
from .pylance import PylanceRows
from .recipe import Recipe
from .selection import Selection
from .sources import is_in_object_store
from .sql import as_one_expression

if TYPE_CHECKING:
    from lancedb._lancedb import PermutationReader

# From this many rows on, a scan of one contiguous range beats a list of offsets: a scan costs its
# planning, and lancedb makes an expression of every offset, half a microsecond each.
_RANGE_ROWS = 2048
# A scan of rows of at most so many bytes may also bring as many that were not asked for.
_SCANNED_BYTES = 1024

# lancedb decodes what one call asks for in one thread. A call of its own is worth its cost from
# so many rows on.
_PART_ROWS = 512
_MAX_PARTS = 4


class LocalRows(Protocol):
    """Rows of a table that need not be read from it."""

    def find(self, offsets: np.ndarray) -> tuple[np.ndarray, pa.RecordBatch] | None:
        """Which rows of ascending offsets are here, and these; None if it is none of them."""
        ...

    def take(self, offsets: np.ndarray) -> pa.RecordBatch | None:
        """Rows by offset, in that order; None if one of them is not here."""
        ...

    def take_count(self) -> int:
        """How many rows were taken since the last call."""
        ...


class OwnHandle:
    """Reads in this process, on lancedb's own event loop.

    Parameters
    ----------
    recipe : Recipe
        How to open the table.
    columns : mapping of str to str
        Output name -> column (or SQL expression) of the table.
    local : LocalRows, optional
        Rows that are not read from the table.

    Attributes
    ----------
    schema : pyarrow.Schema
        Of the chosen columns, as they are read.
    scans : bool
        Whether neighbouring rows are scanned, which takes nanoseconds a row.
    stored_columns : list of str
        The columns of the table, read or not.
    stored_rows, stored_bytes : int
        The rows of the table, and the bytes of its files; 0 if they are not known.
    is_read_in_bulk : bool
        Whether a whole column is cheap to read, at least as compared with row by row.
    blob_names : collection of str
        The columns that are blobs, read as more than descriptors.
    """

    def __init__(self, recipe: Recipe, columns: Mapping[str, str], local: LocalRows | None = None):
        self._columns = dict(columns)
        self._local = local
        self._opened = opened(recipe)
        self._table, self._rows = self._opened.table, self._opened.rows
        recipe.in_time(lambda: self._describe(recipe))
        # Workers share the processors, and a server wants few requests.
        remote = isinstance(self._table, RemoteTable)
        self.is_read_in_bulk = not remote
        shared = multiprocessing.parent_process() is not None or remote
        self._max_parts = 1 if shared else min(_MAX_PARTS, os.cpu_count() or 1)
        widths = [row_bytes(field.type) for field in self.schema]
        self._row_bytes = sum(widths) if all(widths) else math.inf  # until some were read

    def _describe(self, recipe: Recipe) -> None:
        found = read_schema(self._table, self._rows, self._columns)
        self._blobs = BlobColumns(self._table, found, self._columns, recipe.blobs)
        self._columns = self._blobs.selection
        self._dictionaries = DictionaryColumns(
            self._table, self._blobs.schema, self._columns, recipe.categories
        )
        self.schema = self._dictionaries.schema
        self._pylance = PylanceRows(self._table, self._columns)
        self.blob_names: Collection[str] = self._blobs.names
        stored = self._opened.stored
        self.scans = stored.scans_are_fast and (self._blobs.are_row_ids or not self.blob_names)
        self.stored_columns = self._opened.columns
        self.stored_rows, self.stored_bytes = stored.rows, stored.bytes

    @property
    def reads_by(self) -> str:
        """What finds single rows: "pylance" or "lancedb"."""
        return "pylance" if self._pylance.is_used else "lancedb"

    @property
    def is_over(self) -> bool:
        """Whether it cannot be used any more."""
        return self._opened.is_over

    def give_up(self, is_late: bool) -> None:
        """Use it no more: something that it read failed, or did not come in time."""
        # lancedb's rate control would hold back what is read next, for what failed before.
        self._opened.is_over = True

    def submit(
        self,
        offsets: np.ndarray,
        semaphore: asyncio.Semaphore | None = None,
        counted: CountedRead | FetchedRead | None = None,
    ) -> Future[tuple[pa.RecordBatch, float]]:
        """Start to read rows by ascending offset: the rows, and the seconds that it took.

        `semaphore` is acquired while the rows are read; first come, first served. Without one
        nothing else is read meanwhile, and all processors may work for this. `counted` says how
        many rows to ask for at once, and which of their values are left out.
        """
        return asyncio.run_coroutine_threadsafe(self._timed(offsets, semaphore, counted), LOOP.loop)

    async def _timed(
        self,
        offsets: np.ndarray,
        semaphore: asyncio.Semaphore | None,
        counted: CountedRead | FetchedRead | None,
    ) -> tuple[pa.RecordBatch, float]:
        if counted is not None:
            async with semaphore or contextlib.nullcontext():
                started = time.perf_counter()
                for part in counted.cut(offsets):
                    async with counted.permit():
                        counted.add(await self.request(part), part)
                return counted.batch(), time.perf_counter() - started
        if semaphore is None:
            started = time.perf_counter()
            parts = np.array_split(offsets, self._parts(len(offsets)))
            batches = await asyncio.gather(*map(self.request, parts))
            return take.concatenate(batches), time.perf_counter() - started
        async with semaphore:
            started = time.perf_counter()
            batch = await self.request(offsets)
            return batch, time.perf_counter() - started

    def submit_blobs(self, batch: pa.RecordBatch) -> Future[tuple[pa.RecordBatch, float]]:
        """Start to fetch the bytes of the blobs of which a batch has row ids."""
        return asyncio.run_coroutine_threadsafe(self._timed_blobs(batch), LOOP.loop)

    async def _timed_blobs(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, float]:
        started = time.perf_counter()
        return await self._blobs.filled(batch), time.perf_counter() - started

    def read_blob(self, row_ids: Sequence[int], start: int, stop: int | None) -> tuple[int, bytes]:
        """The size of the first row's blob of the only column, and its bytes in a range.

        If it is not open yet, the others are opened with it.
        """
        return self._blobs.read_range(row_ids, start, stop)

    def nearest(self, asked: Nearest) -> pa.RecordBatch:
        """Search the table for the nearest rows of vectors, see `search`."""
        return search(self._table, asked)

    def chosen(self, rows: PermutationRows) -> Selection:
        """Which rows of the table a permutation has."""
        return rows.of(self._table)

    def _parts(self, rows: int) -> int:
        return max(1, min(self._max_parts, rows // _PART_ROWS))

    async def request(self, offsets: np.ndarray) -> pa.RecordBatch:
        """Rows by ascending offset: those that are here, and others in one call to lancedb."""
        if len(offsets) == 0:
            return empty_batch(self.schema)
        local = self._local
        found = None if local is None else await in_thread(lambda: local.find(offsets))
        if found is None:
            return await self._stored(offsets)
        here, taken = found
        if here.all():
            return taken
        taken = self._dictionaries.with_common(taken)
        read = await self._stored(offsets[~here])
        if not read.schema.equals(taken.schema):
            return await self._stored(offsets)
        places = np.empty(len(offsets), np.int64)
        places[here] = np.arange(taken.num_rows)
        places[~here] = np.arange(taken.num_rows, len(offsets))
        taken = taken.replace_schema_metadata(read.schema.metadata)
        return take.take(take.concatenate([taken, read]), places)

    async def _stored(self, offsets: np.ndarray) -> pa.RecordBatch:
        batch = self._dictionaries.encoded(await self._blobs.read(await self._call(offsets)))
        self._row_bytes = own_bytes(batch) / len(offsets)
        names = self.schema.names
        # LanceDB Cloud's client asks for columns in alphabetical order.
        return batch if batch.schema.names == names else batch.select(names)

    async def _call(self, offsets: np.ndarray) -> pa.RecordBatch:
        count, first = len(offsets), int(offsets[0])
        stretch = int(offsets[-1]) - first + 1
        if self.scans and count >= _RANGE_ROWS and stretch <= self._most_scanned(count):
            batch = await self._scan(first, stretch)
            return batch if stretch == count else take.take(batch, offsets - first)
        return await self._pylance.take(offsets, lambda: self._taken(offsets))

    def _taken(self, offsets: np.ndarray) -> Any:
        rows: Any = self._rows  # lancedb's stub leaves this method out
        return rows.take_offsets(offsets.tolist(), selection=self._columns)

    def _most_scanned(self, count: int) -> int:
        """How many rows may be read as one range for `count` of them."""
        return 2 * count if self._row_bytes <= _SCANNED_BYTES else count

    async def _scan(self, first: int, count: int) -> pa.RecordBatch:
        query = self._table._table.query()  # type: ignore[attr-defined]
        rows = query.use_lsm(False).select(self._columns).offset(first).limit(count)
        batches = [batch async for batch in await rows.to_batches(max_batch_length=count)]
        return take.concatenate(batches)


class _Stored(NamedTuple):
    """The size of a table as lancedb reports it; zeros where it does not."""

    rows: int
    bytes: int = 0
    fragments: int = 0

    @property
    def scans_are_fast(self) -> bool:
        """Whether fragments are large: a scan of a range costs a look at all there are.

        A server promises no order for rows of a scan.
        """
        return self.fragments > 0 and self.rows >= self.fragments * _RANGE_ROWS


class OpenTable:
    """A pinned table as one process has opened it, for all handles of it.

    Parameters
    ----------
    table : Table
        Open, at the version that is read.
    """

    def __init__(self, table: Table):
        self.table = table
        self.rows = open_rows(table)
        self.columns: list[str] = table.schema.names
        self.stored = _stored(table)
        self.is_over = False


def opened(recipe: Recipe) -> OpenTable:
    """The recipe's table, which this process opens once, and anew after something failed.

    Raises
    ------
    RuntimeError
        If another table has taken its place, or the storage takes too long.
    """
    forking.note_use()

    def open_anew() -> OpenTable:
        return OpenTable(uring.open_table(recipe) or recipe.open())

    return recipe.opened.get(lambda: recipe.in_time(open_anew), lambda known: not known.is_over)


def keep_open(recipe: Recipe, table: Table) -> None:
    """Read through a table that was opened to be pinned, where to open it anew takes requests."""
    if is_in_object_store(recipe.source):
        recipe.opened.get(lambda: recipe.in_time(lambda: OpenTable(table)))


def _stored(table: Table) -> _Stored:
    if isinstance(table, RemoteTable):
        return _Stored(table.count_rows())
    found: Any = table.stats()  # type: ignore[attr-defined]
    fragments = found["fragment_stats"]["num_fragments"]
    return _Stored(table.count_rows(), found.get("total_bytes", 0), fragments)


def open_rows(table: Table) -> PermutationReader | None:
    """lancedb's reader over every row of the table; None for a table without rows."""
    if table.count_rows() == 0:
        return None

    from lancedb._lancedb import PermutationReader

    async def identity() -> PermutationReader:
        return await PermutationReader.from_tables(table, None, 0)  # type: ignore[attr-defined]

    return LOOP.run(identity())


def read_schema(
    table: Table, rows: PermutationReader | None, columns: Mapping[str, str]
) -> pa.Schema:
    """The schema of the chosen columns, as they will be read."""
    known = table.schema.names
    chosen: dict[str, Any] = {
        name: as_one_expression(column, known) for name, column in columns.items()
    }
    if rows is None:
        found = table.search().select(chosen).limit(1).to_arrow().schema
        return pa.schema([found.field(name) for name in columns])

    async def output() -> pa.Schema:
        return await rows.output_schema(chosen)  # type: ignore[attr-defined]

    found = LOOP.run(output())
    return pa.schema([_as_read(found.field(name)) for name in columns], found.metadata)


def _as_read(field: pa.Field) -> pa.Field:
    """A field as its rows come: JSON is declared as the bytes in which lancedb stores it."""
    if (field.metadata or {}).get(b"ARROW:extension:name") == b"lance.json":
        return pa.field(field.name, pa.json_(), field.nullable)
    if pa.types.is_struct(field.type):
        return field.with_type(pa.struct([_as_read(child) for child in field.type]))
    return field


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """A record batch without rows."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
