# SPDX-License-Identifier: Apache-2.0
"""Dictionary columns, read as the codes of their values or as these.

Lance keeps a dictionary with each page of a column, so that a stored code means different things in
different places. The codes given here are places in the sorted list of all values that rows of the
table version have, which depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.table import Table

from ..arrow.dictionaries import Codes, CommonDictionary, has_keys
from ..arrow.stream import packed, unpacked
from ..common.pickling import send_to_new_processes
from ..common.shared_memory import SharedArray

DICTIONARY = ("values", "codes")
_SCANNED_ROWS = 1 << 16
# More than this is not pickled, but read again.
_SENT_BYTES = 1024


class Categories:
    """The values of dictionary columns of one table version, in the order of their codes.

    A process that is started maps one copy of them; in other pickles there are only a few, and
    more are read again.

    Parameters
    ----------
    columns : sequence of str
        The columns, as the table knows them.
    packed : SharedArray, optional
        The values, if they are known.
    """

    def __init__(self, columns: Sequence[str], packed: SharedArray | None = None):
        self._columns = tuple(columns)
        self._values: dict[str, pa.Array] | None = None
        self._packed = packed

    def __reduce__(self) -> Any:
        known = self._packed
        is_small = known is not None and known.array.nbytes <= _SENT_BYTES
        return Categories, (self._columns, known if is_small else None)

    def of(self, table: Table) -> dict[str, pa.Array]:
        """The values of each column; `table` is read if they are not known yet.

        Parameters
        ----------
        table : Table
            Open, at the version that is meant.
        """
        if self._values is None:
            self._values = (
                _found(table, self._columns) if self._packed is None else _unpack(self._packed)
            )
            self._packed = self._packed or _pack(self._values)
        return self._values


send_to_new_processes(Categories, lambda known: (Categories, (known._columns, known._packed)))


class DictionaryColumns:
    """The dictionary columns of all that one process reads: codes, or one dictionary for each.

    Parameters
    ----------
    table : Table
        Open, at the version that is read.
    schema : pyarrow.Schema
        As lancedb reads the columns.
    columns : mapping of str to str
        Output name -> column (or SQL expression) of the table.
    categories : Categories, optional
        Of the columns whose codes are wanted; None for values.
    """

    def __init__(
        self,
        table: Table,
        schema: pa.Schema,
        columns: Mapping[str, str],
        categories: Categories | None,
    ):
        names = dictionary_names(schema)
        self._common: dict[str, CommonDictionary] = {}
        self._codes: dict[str, Codes] = {}
        if categories is None:
            self._common = {name: CommonDictionary() for name in names}
        elif names:
            values = categories.of(table)
            self._codes = {name: Codes(values[columns[name]]) for name in names}
        self.schema = coded(schema) if categories is not None else schema

    def encoded(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch with codes, or with the dictionary that all batches have."""
        batch = self.with_common(batch)
        for name, codes in self._codes.items():
            place = batch.schema.get_field_index(name)
            column = batch.column(place)
            of_values = codes.of(column)
            found = column.indices if of_values is None else of_values.take(column.indices)
            batch = batch.set_column(place, self.schema.field(name), found.cast(pa.int64()))
        return batch

    def with_common(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch with the dictionary that all batches have, unless codes are wanted."""
        for name, common in self._common.items():
            place = batch.schema.get_field_index(name)
            column = common.encoded(batch.column(place))
            batch = batch.set_column(place, batch.schema.field(place), column)
        return batch


def categories_of(table: Table, schema: pa.Schema, columns: Mapping[str, str]) -> Categories:
    """The categories of every dictionary column that is read.

    Raises
    ------
    ValueError
        If there is none, or one whose values are not stored as a column of their own.
    """
    names = dictionary_names(schema)
    within = [field.name for field in schema if _is_within(field.type)]
    if within:
        raise ValueError(
            f"column {within[0]!r} holds a dictionary within lists or structs, which have no codes "
            "of their own: name a struct's field as a column, columns={'label': 'struct.label'}, "
            "or take dictionary='values'"
        )
    if not names:
        kinds = ", ".join(f"{field.name} is {field.type}" for field in schema)
        raise ValueError(
            "dictionary='codes' is for dictionary columns, and none of the columns that are read "
            f"is one: {kinds}. Take dictionary='values', or write the column as one "
            "(pyarrow's dictionary_encode)"
        )
    made = [name for name in names if not _is_stored(columns[name], table.schema)]
    if made:
        raise ValueError(
            f"column {made[0]!r} is made by SQL, {columns[made[0]]!r}, and only stored dictionary "
            "columns have codes: name the column itself, or take dictionary='values'"
        )
    unknown = [name for name in names if not has_keys(schema.field(name).type.value_type)]
    if unknown:
        raise ValueError(
            f"column {unknown[0]!r} has values of type {schema.field(unknown[0]).type.value_type}, "
            "which have no codes: take dictionary='values'"
        )
    categories = Categories([columns[name] for name in names])
    categories.of(table)
    return categories


def coded(schema: pa.Schema) -> pa.Schema:
    """A schema with codes in place of dictionary columns."""
    fields = [
        pa.field(field.name, pa.int64(), field.nullable)
        if pa.types.is_dictionary(field.type)
        else field
        for field in schema
    ]
    return pa.schema(fields, schema.metadata)


def dictionary_names(schema: pa.Schema) -> list[str]:
    """The columns of dictionary type."""
    return [field.name for field in schema if pa.types.is_dictionary(field.type)]


def _is_stored(column: str, schema: pa.Schema) -> bool:
    """Whether a column is one of the table, or a field of a struct, as it stands there."""
    if column.strip("`") in schema.names:
        return True
    head, _, rest = column.partition(".")
    kind = schema.field(head).type if rest and head in schema.names else pa.null()
    return isinstance(kind, pa.StructType) and _is_stored(rest, pa.schema(list(kind)))


def _is_within(kind: pa.DataType) -> bool:
    children = [kind.field(number).type for number in range(kind.num_fields)]
    return any(pa.types.is_dictionary(child) or _is_within(child) for child in children)


def _found(table: Table, columns: Sequence[str]) -> dict[str, pa.Array]:
    return {column: _values_of(table, column) for column in columns}


def _values_of(table: Table, column: str) -> pa.Array:
    """All values of a dictionary column, sorted."""
    query: Any = table.search().select({"values": column}).limit(max(table.count_rows(), 1))
    values = None
    for batch in query.to_batches(_SCANNED_ROWS):
        rows = batch.column(0)
        used = rows.dictionary.take(rows.indices.unique().drop_null())
        values = (used if values is None else pa.concat_arrays([values, used])).unique()
    if values is None:
        return pa.array([], query.output_schema().field(0).type.value_type)
    return values.drop_null().sort()


def _pack(values: Mapping[str, pa.Array]) -> SharedArray:
    lists = [
        pa.LargeListArray.from_arrays(pa.array([0, len(each)], pa.int64()), each)
        for each in values.values()
    ]
    batch = pa.RecordBatch.from_arrays(lists, names=list(values))
    return SharedArray(np.frombuffer(bytearray(packed(batch)), np.uint8))


def _unpack(data: SharedArray) -> dict[str, pa.Array]:
    batch = unpacked(pa.py_buffer(data.array))
    return {
        name: column.flatten()
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
