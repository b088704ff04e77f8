# SPDX-License-Identifier: Apache-2.0
"""Blob columns, read as the bytes that they stand for.

Lance stores the values of a blob column beside the table, and a read gives descriptors: kind,
position, size. The bytes of all rows of a read are fetched in one more call, by row id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ..common.checks import one_of

_ROW_ID = "_rowid"
BLOBS = ("bytes", "descriptor")


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
        "bytes" or "descriptor".

    Raises
    ------
    ValueError
        If the bytes of a column cannot be had.
    """

    def __init__(self, table: Any, schema: pa.Schema, columns: Mapping[str, str], blobs: str):
        self._table = table
        self._names: dict[str, str] = {}
        if blobs == "bytes":
            _refuse_within(schema)
            described = [field.name for field in schema if is_descriptor(field)]
            self._names = {name: columns[name].strip("`") for name in described}
        for name, column in self._names.items():
            _check(table, name, column)
        self.row_ids = dict.fromkeys(self._names, _ROW_ID)
        self.selection = {**columns, **self.row_ids}
        self.schema = pa.schema([self._field(field) for field in schema], schema.metadata)

    def __bool__(self) -> bool:
        return bool(self._names)

    async def filled(
        self, batch: pa.RecordBatch, row_ids: pa.RecordBatch | None = None
    ) -> pa.RecordBatch:
        """A batch with the bytes in their columns, made on lancedb's own loop.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
            Of `selection`, or of other values in the blobs' columns if `row_ids` are given.
        row_ids : pyarrow.RecordBatch, optional
            The columns of `row_ids` for the same rows.
        """
        for name, column in self._names.items():
            ids = (batch if row_ids is None else row_ids).column(name).to_pylist()
            values = await self._table._table.fetch_blobs(column, ids)
            place = batch.schema.get_field_index(name)
            batch = batch.set_column(place, self.schema.field(name), values)
        return batch

    def _field(self, field: pa.Field) -> pa.Field:
        if field.name not in self._names:
            return field
        return pa.field(field.name, pa.large_binary())


def rows_with_blobs(table: Any) -> pa.Table:
    """All rows of a table, as they may be written into another one of its schema."""
    blobs = [name for name in _blob_columns(table) if name in table.schema.names]
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


def check_blobs(blobs: Any) -> str:
    """`blobs`, one of those there are.

    Raises
    ------
    ValueError
        If there is no such way to read them.
    """
    return one_of("blobs", blobs, BLOBS)


def _refuse_within(schema: pa.Schema) -> None:
    for field in schema:
        if not is_descriptor(field) and _holds_descriptor(field.type):
            raise ValueError(
                f"column {field.name!r} holds a blob, whose bytes lancedb fetches for columns of "
                "their own alone: name its other fields in columns=, or read kind, position and "
                "size with blobs='descriptor'"
            )


def _holds_descriptor(kind: pa.DataType) -> bool:
    fields = [kind.field(number) for number in range(kind.num_fields)]
    return any(is_descriptor(each) or _holds_descriptor(each.type) for each in fields)


def _check(table: Any, name: str, column: str) -> None:
    if column not in _blob_columns(table):
        raise ValueError(
            f"column {name!r} ({column}) is a blob whose bytes this lancedb cannot fetch: it is of "
            "the older kind, or lancedb is older than its blobs. Write it anew as a "
            "large_binary column or a lancedb.schema.blob, leave it out with columns=, or read "
            "kind, position and size with blobs='descriptor'"
        )


def _blob_columns(table: Any) -> list[str]:
    known = getattr(table, "blob_columns", None)
    return known() if known is not None else []
