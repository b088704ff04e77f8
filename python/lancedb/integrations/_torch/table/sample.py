# SPDX-License-Identifier: Apache-2.0
"""Samples of rows: how large an average row is, and a digest that tells which data this is."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow.dictionaries import own_bytes
from ..arrow.large_rows import vary_in_size
from ..arrow.late import SIZES
from .blobs import LATE
from .handle import opened
from .reader import Reader
from .recipe import Recipe
from .selection import AllRows, Selection

_SPOTS = 16
_ROWS_PER_SPOT = 16
_LARGE_ROW_BYTES = 65_536
# A row is far larger than others if it has so many times their size, and so many bytes.
_MUCH_MORE = 32
_HIDDEN_ROW = 1 << 20
# What all windows may hold: a table that is larger by less than this can do no harm.
_HIDDEN_BYTES = 256 << 20
# Beyond so many bytes of a column, only so many elements of each value are looked at.
_MUCH_TO_SHOW = 1 << 20
_SHOWN = 1000
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


class RowSizes(NamedTuple):
    """The sizes of rows, as far as they are known.

    Parameters
    ----------
    average : int
        Arrow bytes of an average row.
    are_skewed : bool
        Whether some rows have to be expected that are far larger.
    late : int
        Bytes of the blobs of an average row, which are not read ahead with it.
    """

    average: int
    are_skewed: bool
    late: int = 0


def average_row_bytes(reader: Reader) -> int:
    """Arrow bytes of an average row, from rows spread evenly over the selection.

    Deterministic for a pinned version: 16 rows, or 16 runs of 16 unless most of them are large.
    The first and the last row, which may be of another kind, are not among them in large tables.
    """
    sample = _sampled(reader)
    return sample.average + sample.late


def row_sizes(reader: Reader) -> RowSizes:
    """The sizes of a selection's rows.

    A sample does not meet one row in a thousand; but the table takes far more bytes than it would
    if all rows were like those of the sample.
    """
    reader = _late(reader)
    average, late, sizes = _sampled(reader)
    if not len(sizes) or not vary_in_size(reader.schema):
        return RowSizes(average, False, late)
    largest = int(sizes.max(initial=0))
    outlier = largest > _MUCH_MORE * max(1.0, float(np.median(sizes))) and largest > _HIDDEN_ROW
    return RowSizes(average, outlier or _hides_large_rows(reader, average + late), late)


class _Sample(NamedTuple):
    """The bytes of an average row, of its blobs, and of single rows without these."""

    average: int
    late: int
    sizes: np.ndarray


def _sampled(reader: Reader) -> _Sample:
    reader = _late(reader)
    rows = reader.selection.num_rows
    if rows == 0:
        return _Sample(1, 0, np.zeros(0, np.int64))
    spots = np.unique((2 * np.arange(_SPOTS) + 1) * rows // (2 * _SPOTS))
    batch = reader.read(spots)
    sizes = _row_bytes(batch)
    if np.median(sizes) >= _LARGE_ROW_BYTES or rows <= _SPOTS:
        return _Sample(max(1, round(sizes.mean())), _bytes_late(batch), sizes)
    runs = np.unique(np.minimum(spots[:, None] + np.arange(_ROWS_PER_SPOT), rows - 1))
    batch = reader.read(runs)
    if own_bytes(batch) > _HIDDEN_ROW:
        sizes = np.concatenate([sizes, _row_bytes(batch)])
    return _Sample(max(1, round(own_bytes(batch) / len(runs))), _bytes_late(batch), sizes)


def _late(reader: Reader) -> Reader:
    """A reader that leaves the bytes of blobs out."""
    recipe = reader.recipe
    if recipe.blobs != "bytes":
        return reader
    return reader.of(dataclasses.replace(recipe, blobs=LATE))


def _bytes_late(batch: pa.RecordBatch) -> int:
    return round(batch.column(SIZES).to_numpy().mean()) if SIZES in batch.schema.names else 0


def _hides_large_rows(reader: Reader, average: int) -> bool:
    """Whether a table is far larger than rows of this average are."""
    stored = reader.handle().stored_bytes
    rows = reader.handle().stored_rows
    if stored < _HIDDEN_BYTES + 2 * average * rows:
        return False
    # It may be that columns which are not read take all of it.
    others = [name for name in reader.handle().stored_columns if name not in _plain_names(reader)]
    if not others:
        return True
    few = Reader(_described(reader.recipe), AllRows(rows), {name: name for name in others})
    spots = np.unique(np.linspace(0, rows - 1, 5).astype(np.int64)[1:-1])
    unread = own_bytes(few.read(spots)) / max(1, len(spots))
    return stored > _HIDDEN_BYTES + 2 * (average + unread) * rows


def fingerprint(recipe: Recipe, selection: Selection) -> str:
    """A short digest of which data this is.

    Made of the first, the middle and the last row of the table, whatever columns are read, and
    of the rows that the selection chose. A copy of the table elsewhere has the same one.
    """
    table = opened(recipe)
    everything = AllRows(table.stored.rows)
    digest = hashlib.sha256(repr(table.columns).encode())
    if everything.num_rows:
        reader = Reader(_described(recipe), everything, {name: name for name in table.columns})
        ends = np.unique([0, everything.num_rows // 2, everything.num_rows - 1])
        rows = reader.read(ends)
        shown = pa.RecordBatch.from_arrays([*map(_cut, rows.columns)], rows.schema.names)
        digest.update(repr(shown.to_pylist()).encode())
    digest.update(selection.digest())
    return digest.hexdigest()[:16]


def _plain_names(reader: Reader) -> set[str]:
    """Columns of the table that are read as they are, or with a struct around them."""
    return {column.partition(".")[0] for column in reader.columns.values()}


def _row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """The bytes of each row."""
    return np.array([own_bytes(batch.slice(row, 1)) for row in range(batch.num_rows)])


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


def _described(recipe: Recipe) -> Recipe:
    """The recipe for reading all columns of some rows as they are stored."""
    return dataclasses.replace(recipe, blobs="descriptor", categories=None)
