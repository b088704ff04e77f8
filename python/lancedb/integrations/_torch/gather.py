# SPDX-License-Identifier: Apache-2.0
"""Knows how to pick rows out of record batches, in any order, with one copy of each column."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from .raw import from_raw, raw_rows, room_for


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


def take_column(column: pa.Array, indices: np.ndarray) -> pa.Array:
    """The values of `column` at `indices`, in that order."""
    rows = raw_rows(column)
    if rows is not None:
        data, out = room_for(len(indices), rows.dtype.itemsize)
        rows.take(indices, 0, out, "clip")
        return from_raw(column.type, len(indices), data)
    if _nests_fixed_lists(column.type):
        # Arrow takes wrong values out of a slice of nested fixed-size lists (seen in pyarrow 26);
        # concatenation copies the slice to an array of its own.
        column = pa.concat_arrays([column, column.slice(0, 0)])
    width = _element_width(column)
    if width == 0 or column.null_count or column.values.null_count:
        return column.take(pa.array(indices))
    return _take_lists_as_bytes(column, pa.array(indices), width)


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


def _take_lists_as_bytes(column: pa.Array, indices: pa.Array, width: int) -> pa.Array:
    # Arrow takes lists element by element and byte strings row by row: on rows of a few
    # hundred numbers the detour through bytes is about eight times faster.
    offsets = column.offsets.to_numpy().astype(np.int64) * width
    values = column.values
    data = values.buffers()[1]
    if data is None:
        return column.take(indices)
    start = values.offset * width
    rows = pa.Array.from_buffers(
        pa.large_binary(), len(column), [None, pa.py_buffer(offsets), data.slice(start)]
    )
    picked = rows.take(indices)
    _, ends, content = picked.buffers()
    edges = np.frombuffer(ends, np.int64)[picked.offset : picked.offset + len(picked) + 1]
    edges = edges // width
    content = content if content is not None else pa.py_buffer(b"")
    numbers = pa.Array.from_buffers(
        values.type, int(edges[-1]) if len(edges) else 0, [None, content]
    )
    offsets = offsets_of(column.type, edges).buffers()[1]
    return pa.Array.from_buffers(column.type, len(picked), [None, offsets], children=[numbers])


def offsets_of(kind: pa.DataType, edges: np.ndarray) -> pa.Array:
    """Where the lists of a column begin and end, in as many bits as its type has for it.

    Raises
    ------
    pyarrow.ArrowInvalid
        If they do not fit: a list type of 32 bits ends at 2**31 elements.
    """
    return pa.array(edges).cast(pa.int32() if pa.types.is_list(kind) else pa.int64())
