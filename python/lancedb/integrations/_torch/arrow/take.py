# SPDX-License-Identifier: Apache-2.0
"""Rows taken out of record batches, in any order, with one copy of each column."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from .dictionaries import with_codes
from .fixed_width import buffer_for, copy_rows, from_raw, raw_rows
from .variable_width import ViewRows, view_rows


def take(batch: pa.RecordBatch, indices: np.ndarray) -> pa.RecordBatch:
    """The rows of `batch` at `indices`, in that order."""
    columns = [take_column(column, indices) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def concatenate(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """One record batch with the rows of all; a single one is returned without a copy."""
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def slices(batch: pa.RecordBatch, counts: Sequence[int]) -> list[pa.RecordBatch]:
    """Consecutive slices of `batch`, `counts` rows each, without a copy."""
    starts = itertools.accumulate(counts, initial=0)
    return [batch.slice(*edge) for edge in zip(starts, counts, strict=False)]


class Rows(Protocol):
    """The rows of a column, made ready to be taken several times."""

    def take(self, indices: np.ndarray) -> pa.Array:
        """The values at `indices`, in that order."""
        ...


def rows_of(column: pa.Array) -> FixedRows | ViewRows | DictionaryRows | ArrowRows:
    """The rows of a column in the form that is taken fastest."""
    raw = raw_rows(column)
    if raw is not None:
        return FixedRows(column.type, raw)
    if isinstance(column, pa.DictionaryArray):
        return DictionaryRows(column)
    if _nests_fixed_lists(column.type):
        # Arrow takes wrong values out of a slice of nested fixed-size lists (seen in pyarrow 26);
        # concatenation copies the slice to an array of its own.
        column = pa.concat_arrays([column, column.slice(0, 0)])
    return view_rows(column) or ArrowRows(column)


def take_column(column: pa.Array, indices: np.ndarray) -> pa.Array:
    """The values of `column` at `indices`, in that order."""
    return rows_of(column).take(indices)


class ArrowRows:
    """Rows that Arrow takes."""

    def __init__(self, column: pa.Array):
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def take(self, indices: np.ndarray) -> pa.Array:
        return self._column.take(pa.array(indices))

    take_views = take


class DictionaryRows:
    """Rows that refer to a dictionary: Arrow's own take looks at all of it each time."""

    def __init__(self, column: pa.DictionaryArray):
        self._column = column.slice(0, 0)
        self.dictionary = column.dictionary
        self._codes = rows_of(column.indices)

    def __len__(self) -> int:
        return len(self._codes)

    def take(self, indices: np.ndarray) -> pa.Array:
        return with_codes(self._column, self._codes.take(indices), self.dictionary)

    take_views = take


class FixedRows:
    """Rows of one width, without nulls."""

    def __init__(self, kind: pa.DataType, rows: np.ndarray):
        self.bytes = rows
        self._kind = kind

    def __len__(self) -> int:
        return len(self.bytes)

    def take(self, indices: np.ndarray) -> pa.Array:
        data, out = buffer_for(len(indices), self.bytes.dtype.itemsize)
        copy_rows(self.bytes, indices, out)
        return from_raw(self._kind, len(indices), data)


LooseRows = ArrowRows | DictionaryRows | ViewRows


def _nests_fixed_lists(kind: pa.DataType) -> bool:
    """Whether a fixed-size list of fixed-size lists is somewhere in a type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _nests_fixed_lists(kind.storage_type)
    if pa.types.is_fixed_size_list(kind) and pa.types.is_fixed_size_list(kind.value_type):
        return True
    children = (kind.field(number).type for number in range(kind.num_fields))
    return any(map(_nests_fixed_lists, children))
