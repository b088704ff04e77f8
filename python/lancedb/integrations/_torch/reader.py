# SPDX-License-Identifier: Apache-2.0
"""Knows one process's open handle: rows of a selection in, a record batch out.

The handle is Rust's. It is opened at the first read, again in every process that the reader is
pickled into, and again after a fork; it never travels.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb._lancedb import PermutationReader
from lancedb.background_loop import LOOP
from lancedb.table import Table

from . import forking, gather, uring
from .indices import distinct
from .recipe import Recipe
from .selection import Selection

# From this many rows on, one contiguous range read beats a list of offsets.
_RANGE_ROWS = 2048


class Reader:
    """Reads rows of one pinned table by their position in a selection's base order.

    Parameters
    ----------
    recipe : Recipe
        How to open the table.
    selection : Selection
        Which rows, in base order.
    columns : mapping of str to str
        Output name -> column (or SQL expression) of the table.
    """

    def __init__(self, recipe: Recipe, selection: Selection, columns: Mapping[str, str]):
        self.recipe = recipe
        self.selection = selection
        self.columns = dict(columns)
        self._handle: PermutationReader | None = None
        self._schema: pa.Schema | None = None
        self._pid: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_schema": None, "_pid": None}

    @property
    def schema(self) -> pa.Schema:
        """The schema of every batch that `read` returns."""
        self.open()
        assert self._schema is not None
        return self._schema

    def open(self) -> Reader:
        """Open the handle unless this process has done so already."""
        if self._pid != os.getpid():
            forking.note_use()
            table = uring.open_table(self.recipe) or self.recipe.open()
            self._handle = open_handle(table)
            self._schema = read_schema(table, self._handle, self.columns)
            self._pid = os.getpid()
        return self

    def read(self, rows: np.ndarray) -> pa.RecordBatch:
        """The rows at these positions of the base order, in that order; see `begin`."""
        return self.begin(rows).in_order()

    def begin(self, rows: np.ndarray, turn: asyncio.Semaphore | None = None) -> Reading:
        """Start to read, on lancedb's own event loop; the rows are waited for in `Reading`.

        A row asked for twice is read once. The offsets go to lancedb sorted, so that what is
        near in the table is read together.

        Parameters
        ----------
        rows : numpy.ndarray of int64
            Positions in ``[0, selection.num_rows)``; checked by the caller.
        turn : asyncio.Semaphore, optional
            Acquired while lancedb reads; it lets those through first that began first.
        """
        self.open()
        return Reading(self, *distinct(self.selection.offsets(rows)), turn)

    async def request(self, offsets: np.ndarray) -> pa.RecordBatch:
        """Rows of the table by ascending offset, in one call to lancedb."""
        if len(offsets) == 0:
            return empty_batch(self.schema)
        batch = await self._call(offsets)
        names = list(self.columns)
        # LanceDB Cloud's client asks for columns in alphabetical order.
        return batch if batch.schema.names == names else batch.select(names)

    async def _call(self, offsets: np.ndarray) -> pa.RecordBatch:
        count = len(offsets)
        first = int(offsets[0])
        if count < _RANGE_ROWS or int(offsets[-1]) - first + 1 != count:
            return await self._handle.take_offsets(  # type: ignore[union-attr]
                offsets.tolist(), selection=self.columns
            )
        handle = await (await self._handle.with_offset(first)).with_limit(count)  # type: ignore
        batches = [batch async for batch in await handle.read(self.columns, batch_size=count)]
        return gather.concatenate(batches)


class Reading:
    """Rows that are being read: ascending, and the order in which they were asked for.

    Parameters
    ----------
    reader : Reader
        Open in this process.
    offsets : numpy.ndarray of int64
        What to read, ascending.
    order : numpy.ndarray of int64, optional
        Where in `offsets` each row asked for stands; None if they were asked for so.
    turn : asyncio.Semaphore, optional
        As in `Reader.begin`.
    """

    def __init__(
        self,
        reader: Reader,
        offsets: np.ndarray,
        order: np.ndarray | None,
        turn: asyncio.Semaphore | None = None,
    ):
        self.order = order
        self.seconds = 0.0
        self._offsets = offsets
        self._reader = reader
        self._turn = turn if turn is not None else contextlib.nullcontext()
        self._future = asyncio.run_coroutine_threadsafe(self._read(), LOOP.loop)

    async def _read(self) -> pa.RecordBatch:
        async with self._turn:
            started = time.perf_counter()
            batch = await self._reader.request(self._offsets)
            self.seconds = time.perf_counter() - started
        return batch

    def rows(self) -> pa.RecordBatch:
        """Wait for the rows, ascending by offset.

        Raises
        ------
        RuntimeError
            If the storage fails, or no longer has these rows.
        """
        try:
            batch = self._future.result()
        except (RuntimeError, OSError, ValueError) as error:
            raise RuntimeError(self._failure(str(error))) from error
        if batch.num_rows != len(self._offsets):
            raise RuntimeError(self._failure(f"{batch.num_rows} rows came back"))
        return batch

    def in_order(self) -> pa.RecordBatch:
        """Wait for the rows, in the order in which they were asked for."""
        try:
            batch = self.rows()
        except BaseException:
            self.cancel()
            raise
        return batch if self.order is None else gather.take(batch, self.order)

    def done(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self._future.done()

    def cancel(self) -> None:
        """Give the read up if it is still under way."""
        self._future.cancel()

    def _failure(self, reason: str) -> str:
        hint = ""
        if "not found" in reason.lower():
            hint = (
                "; its files are gone: the table was dropped, or this version was cleaned up "
                "(a tag keeps a version: table.tags.create('training', version))"
            )
        ends = f" (offsets {self._offsets[0]} to {self._offsets[-1]})" if len(self._offsets) else ""
        return (
            f"reading {len(self._offsets)} rows{ends} of {self._reader.recipe.describe()} "
            f"failed: {reason}{hint}"
        )


def open_handle(table: Table) -> PermutationReader | None:
    """lancedb's reader over every row of the table; None for a table without rows."""
    if table.count_rows() == 0:
        return None

    async def identity() -> PermutationReader:
        return await PermutationReader.from_tables(table, None, 0)  # type: ignore[attr-defined]

    return LOOP.run(identity())


def read_schema(
    table: Table, handle: PermutationReader | None, columns: Mapping[str, str]
) -> pa.Schema:
    """The schema of the chosen columns, as they will be read."""
    if handle is None:
        found = table.search().select(dict(columns)).limit(1).to_arrow().schema
        return pa.schema([found.field(name) for name in columns])

    async def output() -> pa.Schema:
        return await handle.output_schema(dict(columns))  # type: ignore[attr-defined]

    found = LOOP.run(output())
    return pa.schema([found.field(name) for name in columns], found.metadata)


def resolve_columns(
    schema: pa.Schema, columns: Sequence[str] | Mapping[str, str] | None
) -> dict[str, str]:
    """Output name -> column of the table, every name checked.

    Raises
    ------
    ValueError
        If a column is unknown (the message names the near ones), named twice, or none is named.
    """
    known = schema.names
    if columns is None:
        return {name: name for name in known}
    if isinstance(columns, str):
        raise TypeError(f"columns must be a list of names; did you mean columns=[{columns!r}]?")
    if not isinstance(columns, Mapping):
        names = list(columns)
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"columns names {', '.join(map(repr, twice))} more than once")
        columns = {name: name for name in names}
        for name in names:
            check_column(name, schema)
    if not columns:
        raise ValueError(f"columns is empty; leave it out for all of {known}, or name at least one")
    return dict(columns)


def check_column(name: Any, schema: pa.Schema) -> None:
    """Raise unless `name` is a column, a field of a struct column, or ``_rowid``."""
    if not isinstance(name, str):
        raise TypeError(f"columns must hold names, not {name!r}")
    if name in schema.names or name in ("_rowid", "_rowoffset"):
        return
    head, _, rest = name.partition(".")
    if rest and head in schema.names and pa.types.is_struct(schema.field(head).type):
        return check_column(rest, pa.schema(list(schema.field(head).type)))
    near = difflib.get_close_matches(name, schema.names, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {schema.names}"
    raise ValueError(f"unknown column {name!r}: {hint}")


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """A record batch without rows."""
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
