# SPDX-License-Identifier: Apache-2.0
"""Columns of dictionary type: one dictionary for all that is read, and sizes without it.

lancedb gives the whole dictionary of a page with each read of its rows, or one of the values that
are among them; and Arrow merges dictionaries wherever rows of several reads are put together.
Where all reads of a column have the same one, only codes are moved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

# What one dictionary may grow to; a column with more distinct values begins another one.
_MOST_BYTES = 16 << 20
# How many dictionaries' codes are remembered, as several pages are read alternately.
_KNOWN = 8


def own_bytes(data: pa.RecordBatch | pa.Array) -> int:
    """Arrow bytes of rows; a dictionary is no part of them, however many refer to it."""
    if isinstance(data, pa.RecordBatch):
        return sum(map(own_bytes, data.columns))
    return data.indices.nbytes if isinstance(data, pa.DictionaryArray) else data.nbytes


def with_codes(column: pa.DictionaryArray, codes: pa.Array, values: pa.Array) -> pa.Array:
    """A dictionary column of the same kind as another, with other codes."""
    ordered = column.type.ordered
    return pa.DictionaryArray.from_arrays(codes, values, ordered=ordered, safe=False)


def compacted(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows, with dictionaries of the values that are among them where that is less."""
    columns = [_compact(column) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _compact(column: pa.Array) -> pa.Array:
    if not isinstance(column, pa.DictionaryArray) or len(column.dictionary) <= len(column):
        return column
    again = column.indices.dictionary_encode()
    values = column.dictionary.take(again.dictionary)
    return with_codes(column, again.indices.cast(column.type.index_type), values)


class Codes:
    """The codes that some values have, for columns whose dictionaries may be others.

    Parameters
    ----------
    values : pyarrow.Array
        The value of code 0, 1, and so on.

    Raises
    ------
    pyarrow.ArrowNotImplementedError
        If values of this type cannot be looked up.
    """

    def __init__(self, values: pa.Array):
        self.values = values
        self._by_key: dict[Any, int] | None = None
        self._known: list[tuple[pa.Array, pa.Array]] = []
        if not has_keys(values.type):
            raise pa.ArrowNotImplementedError(f"values of type {values.type} cannot be looked up")

    def of(self, column: pa.DictionaryArray) -> pa.Array | None:
        """The code of each value of a column's dictionary, null where it has none.

        None if the dictionary is `values` itself.
        """
        dictionary = column.dictionary
        if _are_equal(dictionary, self.values):
            return None
        if len(dictionary) <= len(column):  # of these very rows: it will not come again
            return self._looked_up(dictionary)
        for known, codes in self._known:
            if _are_equal(known, dictionary):
                return codes
        codes = self._looked_up(dictionary)
        self._known = [*self._known[-_KNOWN + 1 :], (dictionary, codes)]
        return codes

    def add(self, values: pa.Array) -> None:
        """Give the next codes to values that have none."""
        by_key = self._keyed()
        by_key.update((key, code) for code, key in enumerate(_keys(values), len(by_key)))
        self.values = pa.concat_arrays([self.values, values])
        self._known = []

    def _looked_up(self, dictionary: pa.Array) -> pa.Array:
        return pa.array(map(self._keyed().get, _keys(dictionary)), pa.int64())

    def _keyed(self) -> dict[Any, int]:
        if self._by_key is None:
            self._by_key = {key: code for code, key in enumerate(_keys(self.values))}
        return self._by_key


class CommonDictionary:
    """Gives all columns of one type the same dictionary, to which new values are added.

    A code keeps its meaning, unless the dictionary would become too large: then another begins.
    """

    def __init__(self) -> None:
        self._codes: Codes | None = None

    def encoded(self, column: pa.DictionaryArray) -> pa.DictionaryArray:
        """The same rows, with the common dictionary; as they are if their type has none."""
        if not has_keys(column.type.value_type):
            return column
        if self._codes is None:
            self._codes = Codes(column.dictionary.unique())
        codes = self._codes.of(column)
        if codes is not None and codes.null_count:
            self._grow(column.dictionary.filter(codes.is_null()).unique(), column)
            codes = self._codes.of(column)
        if codes is None:
            return with_codes(column, column.indices, self._codes.values)
        codes = codes.cast(column.type.index_type)
        return with_codes(column, codes.take(column.indices), self._codes.values)

    def _grow(self, added: pa.Array, column: pa.DictionaryArray) -> None:
        assert self._codes is not None
        values = self._codes.values
        most = np.iinfo(column.type.index_type.to_pandas_dtype()).max
        if len(values) + len(added) > most or values.nbytes + added.nbytes > _MOST_BYTES:
            self._codes = Codes(column.dictionary.unique())
        else:
            self._codes.add(added)


def _are_equal(one: pa.Array, other: pa.Array) -> bool:
    return len(one) == len(other) and one.equals(other)


def has_keys(kind: pa.DataType) -> bool:
    """Whether values of a type can be looked up: they are equal exactly if their keys are."""
    return (
        pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind))
    )


def _keys(values: pa.Array) -> list[Any]:
    if pa.types.is_temporal(values.type):
        values = values.view(pa.int32() if values.type.bit_width == 32 else pa.int64())
    return values.to_pylist()
