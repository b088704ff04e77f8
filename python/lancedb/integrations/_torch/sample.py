# SPDX-License-Identifier: Apache-2.0
"""Knows what a few rows tell about all: how large a row is, and which data this is."""

from __future__ import annotations

import hashlib

import numpy as np

from .reader import Reader
from .recipe import Recipe
from .selection import Selection, all_rows

_SPOTS = 16
_ROWS_PER_SPOT = 16
_LARGE_ROW_BYTES = 65_536


def average_row_bytes(reader: Reader) -> int:
    """Arrow bytes of an average row, from rows spread evenly over the selection.

    Deterministic for a pinned version: 16 rows, or 16 runs of 16 where rows are small.
    """
    rows = reader.selection.num_rows
    if rows == 0:
        return 1
    spots = np.unique(np.linspace(0, rows - 1, _SPOTS).astype(np.int64))
    size = _bytes_per_row(reader, spots)
    if size >= _LARGE_ROW_BYTES or rows <= _SPOTS:
        return size
    runs = np.unique(np.minimum(spots[:, None] + np.arange(_ROWS_PER_SPOT), rows - 1))
    return _bytes_per_row(reader, runs)


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
        digest.update(repr(reader.read(ends).to_pylist()).encode())
    digest.update(selection.digest())
    return digest.hexdigest()[:16]


def _bytes_per_row(reader: Reader, rows: np.ndarray) -> int:
    return max(1, round(reader.read(rows).nbytes / len(rows)))
