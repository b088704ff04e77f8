# SPDX-License-Identifier: Apache-2.0
"""Record batches of documents that are to be packed, with what was planned for each of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

# Names that no column of a table has, as they begin with a zero byte.
_COLUMNS = ("\0unit", "\0start", "\0length")


class Planned(NamedTuple):
    """The plan for the documents of a batch.

    Parameters
    ----------
    units : numpy.ndarray of int64
        Ascending: those of one number are packed into one row.
    starts : numpy.ndarray of int64
        Which element of its list each one begins with.
    lengths : numpy.ndarray of int64
        The elements of its whole list, as they were counted.
    """

    units: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def with_plan(batch: pa.RecordBatch, planned: Planned) -> pa.RecordBatch:
    """The batch with columns that say what was planned: before all others, as the last column of
    one may mean something, too."""
    arrays = [*map(pa.array, planned), *batch.columns]
    fields = [pa.field(name, pa.int64()) for name in _COLUMNS]
    schema = pa.schema([*fields, *batch.schema], batch.schema.metadata)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def planned_of(batch: pa.RecordBatch) -> tuple[Planned, pa.RecordBatch]:
    """What was planned for the documents of a batch, and its columns without that.

    One that nothing was planned for must be empty.
    """
    if tuple(batch.schema.names[: len(_COLUMNS)]) != _COLUMNS:
        none = np.zeros(batch.num_rows, np.int64)
        return Planned(none, none, none), batch
    planned = Planned(*(batch.column(number).to_numpy() for number in range(len(_COLUMNS))))
    return planned, batch.select(range(len(_COLUMNS), batch.num_columns))
