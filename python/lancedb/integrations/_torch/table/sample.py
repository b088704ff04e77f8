# SPDX-License-Identifier: Apache-2.0
"""What a few rows say about all: how large a row is, and which data this is."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .reader import Reader
from .recipe import Recipe
from .selection import Selection, all_rows

_SPOTS = 16
_ROWS_PER_SPOT = 16
_LARGE_ROW_BYTES = 65_536
# Beyond so many bytes of a column, only so many elements of each value are looked at.
_MUCH_TO_SHOW = 1 << 20
_SHOWN = 1000
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def average_row_bytes(reader: Reader) -> int:
    """Arrow bytes of an average row, from rows spread evenly over the selection.

    Deterministic for a pinned version: 16 rows, or 16 runs of 16 unless most of them are large.
    The first and the last row, which may be of another kind, are not among them in large tables.
    """
    rows = reader.selection.num_rows
    if rows == 0:
        return 1
    spots = np.unique((2 * np.arange(_SPOTS) + 1) * rows // (2 * _SPOTS))
    sizes = _row_bytes(reader, spots)
    if np.median(sizes) >= _LARGE_ROW_BYTES or rows <= _SPOTS:
        return max(1, round(sizes.mean()))
    runs = np.unique(np.minimum(spots[:, None] + np.arange(_ROWS_PER_SPOT), rows - 1))
    return max(1, round(reader.read(runs).nbytes / len(runs)))


def fingerprint(recipe: Recipe, selection: Selection) -> str:
    """A short digest of which data this is.

    Made of the first, the middle and the last row of the table, whatever columns are read, and
    of the rows that the selection chose. A copy of the table elsewhere has the same one.
    """
    table = recipe.in_time(recipe.open)
    everything = all_rows(table)
    digest = hashlib.sha256(repr(table.schema.names).encode())
    if everything.num_rows:
        reader = Reader(recipe, everything, {name: name for name in table.schema.names})
        ends = np.unique([0, everything.num_rows // 2, everything.num_rows - 1])
        rows = reader.read(ends)
        shown = pa.RecordBatch.from_arrays([*map(_cut, rows.columns)], rows.schema.names)
        digest.update(repr(shown.to_pylist()).encode())
    digest.update(selection.digest())
    return digest.hexdigest()[:16]


def _row_bytes(reader: Reader, rows: np.ndarray) -> np.ndarray:
    """The bytes of each of some rows."""
    batch = reader.read(rows)
    return np.array([batch.slice(row, 1).nbytes for row in range(batch.num_rows)])


def _cut(column: pa.Array) -> pa.Array:
    """A column, or the beginnings of its values where these are many megabytes to look at."""
    if column.nbytes <= _MUCH_TO_SHOW:
        return column
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pc.call_function("binary_slice", [column], pc.SliceOptions(0, _SHOWN))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.call_function("utf8_slice_codeunits", [column], pc.SliceOptions(0, _SHOWN))
    if any(check(kind) for check in _LISTS):
        return pc.call_function("list_slice", [column], pc.ListSliceOptions(0, _SHOWN, 1, False))
    return column
