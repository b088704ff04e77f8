# SPDX-License-Identifier: Apache-2.0
"""A column of fixed width as the bytes of its rows, and such bytes as a column again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def raw_rows(column: pa.Array) -> np.ndarray | None:
    """The rows of a column as byte strings of one width, without a copy.

    None if the type has no fixed width, if something is null, or if there are no rows.
    """
    width, values = row_bytes(column.type), column
    if width == 0 or len(column) == 0:
        return None
    while not values.null_count:
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        elif isinstance(values, pa.FixedSizeListArray):
            # Without flatten(), which gives up Python's lock and waits to have it back.
            size = values.type.list_size
            values = values.values.slice(values.offset * size, len(values) * size)
        else:
            start = values.offset * row_bytes(values.type)
            return np.frombuffer(values.buffers()[1], f"V{width}", len(column), start)
    return None


def from_raw(kind: pa.DataType, rows: int, data: pa.Buffer) -> pa.Array:
    """A column of a fixed-width type over the bytes of its rows."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, from_raw(kind.storage_type, rows, data))
    if pa.types.is_fixed_size_list(kind):
        values = from_raw(kind.value_type, rows * kind.list_size, data)
        return pa.Array.from_buffers(kind, rows, [None], children=[values])
    return pa.Array.from_buffers(kind, rows, [None, data])


def buffer_for(rows: int, width: int) -> tuple[pa.Buffer, np.ndarray]:
    """A new buffer, and the rows to write into it.

    It is of Arrow's memory pool, which uses freed memory again where numpy asks for new pages.
    """
    data = pa.allocate_buffer(rows * width)
    return data, np.frombuffer(data, f"V{width}")


def copy_rows(rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    """Copy the rows at some places, all of which there are, in that order."""
    rows.take(places, 0, out, "clip")  # to "raise" would copy twice


def row_bytes(kind: pa.DataType) -> int:
    """Bytes of a row of a fixed-width type, 0 for any other."""
    if isinstance(kind, pa.BaseExtensionType):
        return row_bytes(kind.storage_type)
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size * row_bytes(kind.value_type)
    if pa.types.is_fixed_size_binary(kind):
        return kind.byte_width
    if pa.types.is_boolean(kind) or not (pa.types.is_primitive(kind) or pa.types.is_decimal(kind)):
        return 0
    return kind.bit_width // 8
