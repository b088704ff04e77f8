# SPDX-License-Identifier: Apache-2.0
"""Blob columns, read as the bytes that they stand for, or as the row ids to fetch these by.

Lance stores the values of a blob column beside the table, and a read gives descriptors: kind,
position, size. The bytes of all rows of a read are fetched in one more call, by row id. Rows that
wait for their batch have row ids in place of the bytes, and one more column says how many bytes
these are.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.remote.table import RemoteTable

from ..arrow.late import SIZES

_ROW_ID = "_rowid"
_ALSO = "__lance_row_id"
BLOBS = ("bytes", "file", "descriptor")
# As "bytes" in a `Recipe`, but for rows that wait for their batch.
LATE = "late"
# Files that stay open for ranges of them to be read: each takes a few kilobytes.
_OPEN_FILES = 256


class BlobColumns:
    """Which columns of a read are blobs, and their bytes.

    Parameters
    ----------
    table : Table
        Open, at the version that is read.
    schema : pyarrow.Schema
        As lancedb reads the columns, with descriptors.
    columns : mapping of str to str
        Output name -> column (or SQL expression) of the table.
    blobs : str
        One of `BLOBS`, or `LATE`.

    Attributes
    ----------
    names : dict of str to str
        Output name -> column of the table, of those that are read as more than descriptors.
    selection : dict of str to str
        What to read for `columns`.
    schema : pyarrow.Schema
        Of what `read` makes of it.

    Raises
    ------
    ValueError
        If the bytes of a column cannot be had.
    """

    def __init__(self, table: Any, schema: pa.Schema, columns: Mapping[str, str], blobs: str):
        self._table = table
        self.names: dict[str, str] = {}
        if blobs != "descriptor":
            _refuse_within(schema)
            described = [field.name for field in schema if is_descriptor(field)]
            self.names = {name: columns[name].replace("`", "") for name in described}
        for name, column in self.names.items():
            _check(table, name, column)
        self._blobs = blobs
        self._files: dict[int, Any] = {}
        self._lock = threading.Lock()
        self.row_ids = dict.fromkeys(self.names, _ROW_ID)
        self.selection = {**columns, **self.row_ids}
        if self.are_row_ids:
            self.selection = {**columns, _ALSO: _ROW_ID}
        self._filled = [self._field(field, pa.large_binary()) for field in schema]
        kind = pa.uint64() if self.are_row_ids else pa.large_binary()
        fields = [self._field(field, kind) for field in schema]
        if self.names and blobs == LATE:
            fields.append(pa.field(SIZES, pa.int64()))
        self.schema = pa.schema(fields, schema.metadata)

    @property
    def are_row_ids(self) -> bool:
        """Whether row ids stand in for the blobs."""
        return bool(self.names) and self._blobs != "bytes"

    async def read(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What a batch of `selection` is read as."""
        return self._with_row_ids(batch) if self.are_row_ids else await self.filled(batch)

    def _with_row_ids(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        row_ids, sizes = batch.column(_ALSO), np.zeros(batch.num_rows, np.int64)
        columns = {name: batch.column(name) for name in self.schema.names if name != SIZES}
        for name in self.names:
            described = columns[name]
            size = described.flatten()[described.type.get_field_index("size")]
            sizes += size.fill_null(0).to_numpy().astype(np.int64)
            columns[name] = row_ids
            if self._blobs == "file" and described.null_count:
                nulls = described.is_null().to_numpy(zero_copy_only=False)
                columns[name] = pa.array(row_ids.to_numpy(), mask=nulls)
        if SIZES in self.schema.names:
            columns[SIZES] = pa.array(sizes)
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=self.schema)

    async def filled(
        self, batch: pa.RecordBatch, row_ids: pa.RecordBatch | None = None
    ) -> pa.RecordBatch:
        """A batch with the bytes in their columns, made on lancedb's own loop.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
            With row ids in the blobs' columns, or with other values if `row_ids` are given.
        row_ids : pyarrow.RecordBatch, optional
            The columns of `row_ids` for the same rows.
        """
        for name, column in self.names.items():
            ids = (batch if row_ids is None else row_ids).column(name).to_pylist()
            values = await self._table._table.fetch_blobs(column, ids)
            place = batch.schema.get_field_index(name)
            field = next(field for field in self._filled if field.name == name)
            batch = batch.set_column(place, field, values)
        return batch

    def read_range(self, row_ids: Sequence[int], start: int, stop: int | None) -> tuple[int, bytes]:
        """As `OwnHandle.read_blob`."""
        file = self._open_file(row_ids)
        size = file.size()
        end = size if stop is None else min(stop, size)
        return size, file.read_range(start, end - start) if end > start else b""

    def _open_file(self, row_ids: Sequence[int]) -> Any:
        """The first row's blob; those that were opened last stay so."""
        with self._lock:
            file = self._files.get(row_ids[0])
        if file is None:
            (column,) = self.names.values()
            opened = self._table.fetch_blob_files(column, list(row_ids))
            file = opened[0]
            with self._lock:
                self._files.update(zip(row_ids, opened, strict=True))
                while len(self._files) > _OPEN_FILES:  # another thread may be reading that one
                    del self._files[next(iter(self._files))]
        return file

    def _field(self, field: pa.Field, kind: pa.DataType) -> pa.Field:
        return pa.field(field.name, kind) if field.name in self.names else field


def rows_with_blobs(table: Any) -> pa.Table:
    """All rows of a table, as they may be written into another one of its schema."""
    blobs = [name for name in table.blob_columns() if name in table.schema.names]
    if not blobs:
        return table.to_arrow()
    others = [name for name in table.schema.names if name not in blobs]
    rows = table.search().select(others).with_row_id(True).to_arrow()
    for name in blobs:
        rows = rows.append_column(name, table.fetch_blobs(name, rows[_ROW_ID].to_pylist()))
    return rows.select(table.schema.names)


def is_descriptor(field: pa.Field) -> bool:
    """Whether a column as lancedb reads it describes blobs."""
    marked = (field.metadata or {}).get(b"lance-encoding:blob") == b"true"
    kind = field.type
    return marked and pa.types.is_struct(kind) and kind.get_field_index("position") >= 0


def _refuse_within(schema: pa.Schema) -> None:
    for field in schema:
        if not is_descriptor(field) and _holds_descriptor(field.type):
            raise ValueError(
                f"column {field.name!r} holds a blob, which is read as a column of its own alone: "
                "name it and the other fields in columns=, as {'name': 'struct.field'}, or read "
                "kind, position and size with blobs='descriptor'"
            )


def _holds_descriptor(kind: pa.DataType) -> bool:
    fields = [kind.field(number) for number in range(kind.num_fields)]
    return any(is_descriptor(each) or _holds_descriptor(each.type) for each in fields)


def _check(table: Any, name: str, column: str) -> None:
    if isinstance(table, RemoteTable):
        raise ValueError(
            f"column {name!r} ({column}) is a blob, and LanceDB Cloud gives no bytes of blobs: "
            "leave it out with columns=, read the table in its storage (uri='s3://...'), or read "
            "kind, position and size with blobs='descriptor'"
        )
    if column not in table.blob_columns():
        raise ValueError(
            f"column {name!r} ({column}) is a blob whose bytes lancedb cannot fetch: it is of the "
            "older kind. Write it anew as a large_binary column or a lancedb.schema.blob, leave it "
            "out with columns=, or read kind, position and size with blobs='descriptor'"
        )
