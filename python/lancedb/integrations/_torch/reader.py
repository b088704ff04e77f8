# SPDX-License-Identifier: Apache-2.0
"""Knows one process's open handle: rows of a selection in, a record batch out.

The handle is Rust's. It is opened at the first read, again in every process that the reader is
pickled into, and again after a fork; it never travels.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb._lancedb import PermutationReader
from lancedb.background_loop import LOOP
from lancedb.table import Table

from . import gather
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
            table = self.recipe.open()
            self._handle = open_handle(table)
            self._schema = read_schema(table, self._handle, self.columns)
            self._pid = os.getpid()
        return self

    def read(self, rows: np.ndarray) -> pa.RecordBatch:
        """The rows at these positions of the base order, in that order.

        A row asked for twice is read once. The offsets go to lancedb sorted, so that what is
        near in the table is read together.

        Parameters
        ----------
        rows : numpy.ndarray of int64
            Positions in ``[0, selection.num_rows)``; checked by the caller.

        Raises
        ------
        RuntimeError
            If the storage fails, or no longer has these rows.
        """
        self.open()
        if len(rows) == 0:
            return empty_batch(self.schema)
        offsets, order = distinct(self.selection.offsets(rows))
        batch = self._read_sorted(offsets)
        return batch if order is None else gather.take(batch, order)

    def _read_sorted(self, offsets: np.ndarray) -> pa.RecordBatch:
        count, first = len(offsets), int(offsets[0])
        contiguous = count >= _RANGE_ROWS and int(offsets[-1]) - first + 1 == count
        read = self._read_range(first, count) if contiguous else self._take(offsets.tolist())
        try:
            batch = LOOP.run(read)
        except (RuntimeError, OSError, ValueError) as error:
            raise RuntimeError(self._failure(offsets, str(error))) from error
        if batch.num_rows != count:
            raise RuntimeError(self._failure(offsets, f"{batch.num_rows} rows came back"))
        return batch

    async def _take(self, offsets: list[int]) -> pa.RecordBatch:
        return await self._handle.take_offsets(offsets, selection=self.columns)  # type: ignore

    async def _read_range(self, first: int, count: int) -> pa.RecordBatch:
        handle = await (await self._handle.with_offset(first)).with_limit(count)  # type: ignore
        batches = [batch async for batch in await handle.read(self.columns, batch_size=count)]
        return gather.concatenate(batches)

    def _failure(self, offsets: np.ndarray, reason: str) -> str:
        hint = ""
        if "not found" in reason.lower():
            hint = (
                "; its files are gone: the table was dropped, or this version was cleaned up "
                "(a tag keeps a version: table.tags.create('training', version))"
            )
        return (
            f"reading {len(offsets)} rows (offsets {int(offsets[0])} to {int(offsets[-1])}) of "
            f"{self.recipe.describe()} failed: {reason}{hint}"
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

    return LOOP.run(output())


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
