# SPDX-License-Identifier: Apache-2.0
"""Knows how to pick rows out of record batches, in any order, with one copy of each column."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .raw import from_raw, raw_rows, room_for

_UNCHECKED = pc.TakeOptions(boundscheck=False)


def take(batch: pa.RecordBatch, indices: np.ndarray) -> pa.RecordBatch:
    """The rows of `batch` at `indices`, in that order."""
    columns = [take_column(column, indices) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def concatenate(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """One record batch with the rows of all; a single one is handed on without a copy."""
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def slices(batch: pa.RecordBatch, counts: Sequence[int]) -> list[pa.RecordBatch]:
    """Consecutive slices of `batch`, `counts` rows each, without a copy."""
    starts = itertools.accumulate(counts, initial=0)
    return [batch.slice(*edge) for edge in zip(starts, counts, strict=False)]


class Rows(Protocol):
    """The rows of a column, made ready to be taken several times."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> pa.Array:
        """The values at `indices`, in that order."""
        ...


def rows_of(column: pa.Array) -> Rows:
    """The rows of a column in the form that is taken fastest."""
    raw = raw_rows(column)
    if raw is not None:
        return FixedRows(column.type, raw)
    if _nests_fixed_lists(column.type):
        # Arrow takes wrong values out of a slice of nested fixed-size lists (seen in pyarrow 26);
        # concatenation copies the slice to an array of its own.
        column = pa.concat_arrays([column, column.slice(0, 0)])
    width = _element_width(column)
    if width == 0 or column.null_count or column.values.null_count:
        return ArrowRows(column)
    return ListRows(column, width) if column.values.buffers()[1] is not None else ArrowRows(column)


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


class FixedRows:
    """Rows of one width, without nulls."""

    def __init__(self, kind: pa.DataType, rows: np.ndarray):
        self.bytes = rows
        self._kind = kind

    def __len__(self) -> int:
        return len(self.bytes)

    def take(self, indices: np.ndarray) -> pa.Array:
        data, out = room_for(len(indices), self.bytes.dtype.itemsize)
        self.bytes.take(indices, 0, out, "clip")
        return from_raw(self._kind, len(indices), data)


class ListRows:
    """Lists of plain numbers, none of them null, as byte strings.

    Arrow takes lists element by element and byte strings row by row: on rows of a few hundred
    numbers the detour through bytes is about eight times faster.
    """

    def __init__(self, column: pa.Array, width: int):
        self._kind = column.type
        self._element = column.values.type
        self._width = width
        offsets = column.offsets.to_numpy().astype(np.int64) * width
        data = column.values.buffers()[1].slice(column.values.offset * width)
        self._bytes = pa.Array.from_buffers(
            pa.large_binary(), len(column), [None, pa.py_buffer(offsets), data]
        )

    def __len__(self) -> int:
        return len(self._bytes)

    def take(self, indices: np.ndarray) -> pa.Array:
        if len(indices) == 0:
            return pa.array([], self._kind)
        arguments = [self._bytes, pa.array(indices)]
        picked = pc.call_function("take", arguments, _UNCHECKED)
        _, ends, content = picked.buffers()
        edges = np.frombuffer(ends, np.int64)[picked.offset : picked.offset + len(picked) + 1]
        edges = edges // self._width
        content = content if content is not None else pa.py_buffer(b"")
        numbers = pa.Array.from_buffers(self._element, int(edges[-1]), [None, content])
        offsets = pa.py_buffer(offsets_of(self._kind, edges))
        return pa.Array.from_buffers(self._kind, len(picked), [None, offsets], children=[numbers])


def _nests_fixed_lists(kind: pa.DataType) -> bool:
    """Whether a fixed-size list of fixed-size lists is somewhere in a type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _nests_fixed_lists(kind.storage_type)
    if pa.types.is_fixed_size_list(kind) and pa.types.is_fixed_size_list(kind.value_type):
        return True
    children = (kind.field(number).type for number in range(kind.num_fields))
    return any(map(_nests_fixed_lists, children))


def _element_width(column: pa.Array) -> int:
    """Bytes of one element of a list of plain numbers, 0 for any other column."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return 0
    element = column.type.value_type
    if not (pa.types.is_integer(element) or pa.types.is_floating(element)):
        return 0
    return element.bit_width // 8


def offsets_of(kind: pa.DataType, edges: np.ndarray) -> np.ndarray:
    """Where the lists of a column begin and end, in as many bits as its type has for it.

    Raises
    ------
    pyarrow.ArrowInvalid
        If they do not fit: a list type of 32 bits ends at 2**31 elements.
    """
    if pa.types.is_large_list(kind):
        return edges
    pa.scalar(int(edges[-1])).cast(pa.int32())  # raises where numpy would wrap around
    return edges.astype(np.int32)
