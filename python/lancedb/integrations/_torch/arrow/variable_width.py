# SPDX-License-Identifier: Apache-2.0
"""Rows of varying length as views of what was read, copied once.

Arrow's take copies what it has taken so far again, whenever it reserved too little memory, and
a batch of rows out of many windows is copied once more. Arrow's views are 16 bytes a row, with its
length and its place, so that rows are put in order, and windows together, before they are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from .fixed_width import from_raw, raw_rows, row_bytes

# A value of at most so many bytes stands in the view itself.
_SHORT = 12
# Which of twelve bytes are a value's own, by its length.
_MASKS = np.where(np.arange(_SHORT) < np.arange(_SHORT + 1)[:, None], 255, 0).astype(np.uint8)
_MASKS = _MASKS.view("<i4")
# A view's place, and many a type's offsets, have 32 bits.
_MOST_32 = 2**31 - 1
# Shorter strings, on average, are taken by Arrow itself in the same time or less.
_LEAST_BYTES = 64


class _ByteRows(NamedTuple):
    """Rows as bytes: where each begins and the last one ends, in bytes from the first on."""

    edges: np.ndarray
    data: np.ndarray


class ViewRows:
    """Strings, bytes, or lists of what has a fixed width."""

    def __init__(self, column: pa.Array, rows: _ByteRows):
        self._kind = column.type
        self._edges, self._data = rows
        self._valid = (
            column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else None
        )

    def __len__(self) -> int:
        return len(self._edges) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of these rows, without what else was read with them."""
        return len(self._data)

    def take(self, indices: np.ndarray) -> pa.Array:
        """The values at `indices`, in that order."""
        return copied(self._kind, self.take_views(indices))

    def take_views(self, indices: np.ndarray) -> pa.Array:
        """As `take`, but as views of the memory that was read."""
        return views_of_several([(self, indices)])


def views_of_several(
    taken: Sequence[tuple[ViewRows, np.ndarray]], order: np.ndarray | None = None
) -> pa.Array:
    """Rows of several columns as views, one after the other, or in an order."""
    counts = [len(indices) for _, indices in taken]
    ends = np.cumsum(counts).tolist()
    places = [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]
    starts, lengths = np.empty(ends[-1], np.int64), np.empty(ends[-1], np.int64)
    valid = np.ones(ends[-1], bool)
    for (rows, indices), here in zip(taken, places, strict=True):
        starts[here] = rows._edges[indices]
        lengths[here] = rows._edges[1:][indices]
        if rows._valid is not None:
            valid[here] = rows._valid[indices]
    lengths -= starts
    lengths[~valid] = 0
    # A longer row's first four bytes would be there, too, to compare by: to fetch them from all
    # over the memory takes as long as all else, and nobody compares here.
    views = np.zeros((ends[-1], 4), "<i4")
    views[:, 0], views[:, 3] = lengths, starts
    views[:, 2] = np.repeat(np.arange(len(taken)), counts)
    if len(lengths) and lengths.min() <= _SHORT:
        for (rows, _), here in zip(taken, places, strict=True):
            _put_short(views[here], rows._data, starts[here], lengths[here])
    if order is not None:
        views, valid = views[order], valid[order]
    known = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    data = [pa.py_buffer(rows._data) for rows, _ in taken]
    return pa.Array.from_buffers(pa.binary_view(), len(views), [known, pa.py_buffer(views), *data])


def view_rows(column: pa.Array) -> ViewRows | None:
    """The rows of a column; None for other types, short strings, and more than 2 GB."""
    rows = _byte_rows(column) if len(column) else None
    if rows is None or len(rows.data) > _MOST_32:
        return None
    if _is_bytes(column.type) and len(rows.data) < _LEAST_BYTES * len(column):
        return None
    return ViewRows(column, rows)


def value_bytes(column: pa.Array) -> np.ndarray | None:
    """Bytes of each value of strings, bytes, or lists of what has a fixed width; else None."""
    rows = _byte_rows(column) if len(column) else None
    return None if rows is None else np.diff(rows.edges)


def concatenated(kind: pa.DataType, parts: list[pa.Array]) -> pa.Array:
    """A column of type `kind` out of parts of it, each of them itself or views of it."""
    if any(part.type != parts[0].type for part in parts):
        parts = [_whole(kind, part) for part in parts]
    return _whole(kind, pa.concat_arrays(parts) if len(parts) > 1 else parts[0])


def _whole(kind: pa.DataType, array: pa.Array) -> pa.Array:
    return array if array.type == kind else copied(kind, array)


def copied(kind: pa.DataType, views: pa.Array) -> pa.Array:
    """A column of type `kind` out of views of it, with memory of its own.

    Raises
    ------
    pyarrow.ArrowInvalid
        If it does not fit: a type with offsets of 32 bits ends at 2**31 bytes or elements.
    """
    taken = views.cast(pa.large_binary())
    known, ends, content = taken.buffers()
    content = pa.py_buffer(b"") if content is None else content
    edges = np.frombuffer(ends, np.int64)[: taken.offset + len(taken) + 1]
    if not _is_list(kind):
        buffers = [known, pa.py_buffer(offsets_of(kind, edges)), content]
        return pa.Array.from_buffers(kind, len(taken), buffers, offset=taken.offset)
    edges = edges // row_bytes(kind.value_type)
    elements = from_raw(kind.value_type, int(edges[-1]), content)
    buffers = [known, pa.py_buffer(offsets_of(kind, edges))]
    return pa.Array.from_buffers(
        kind, len(taken), buffers, offset=taken.offset, children=[elements]
    )


def offsets_of(kind: pa.DataType, edges: np.ndarray) -> np.ndarray:
    """Where the rows of a column begin and end, in as many bits as its type has for it.

    Raises
    ------
    pyarrow.ArrowInvalid
        If they do not fit: 32 bits end at 2**31.
    """
    if _is_large(kind):
        return edges
    if edges[-1] > _MOST_32:
        pa.scalar(int(edges[-1])).cast(pa.int32())  # raises where numpy would wrap around
    return edges.astype(np.int32)


def _byte_rows(column: pa.Array) -> _ByteRows | None:
    kind = column.type
    if _is_list(kind):
        raw = raw_rows(column.values)
        if raw is None:
            return None
        edges = column.offsets.to_numpy().astype(np.int64) * raw.dtype.itemsize
        data = raw.view(np.uint8)
    elif _is_bytes(kind):
        _, offsets, content = column.buffers()
        width = np.int64 if _is_large(kind) else np.int32
        ends = np.frombuffer(offsets, width)[column.offset : column.offset + len(column) + 1]
        edges = ends.astype(np.int64)
        data = np.frombuffer(content or b"", np.uint8)
    else:
        return None
    return _ByteRows(edges - edges[0], data[edges[0] : edges[-1]])


def _put_short(
    views: np.ndarray, data: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> None:
    """Put all of each short row into its view, where longer ones have their place."""
    short = np.flatnonzero(lengths <= _SHORT)
    if len(short):
        views[short, 1:] = _first_twelve(data, starts[short]) & _MASKS[lengths[short]]


def _first_twelve(data: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Twelve bytes from each of `starts` on, as three numbers; zeros stand beyond the end."""
    last = max(0, len(data) - _SHORT)
    beyond = np.zeros(2 * _SHORT, np.uint8)
    beyond[: len(data) - last] = data[last:]
    if len(data) < _SHORT:
        found = _twelves(beyond)[starts]
    else:
        found = _twelves(data)[np.minimum(starts, last)]
        near = np.flatnonzero(starts > last)
        found[near] = _twelves(beyond)[starts[near] - last]
    return found.view("<i4").reshape(-1, 3)


def _twelves(data: np.ndarray) -> np.ndarray:
    """What stands from each byte on, without a copy."""
    return np.ndarray((len(data) - _SHORT + 1,), f"V{_SHORT}", data, 0, (1,))


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    small = pa.types.is_string(kind) or pa.types.is_binary(kind)
    return small or pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)


def _is_large(kind: pa.DataType) -> bool:
    return (
        pa.types.is_large_list(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    )
