# SPDX-License-Identifier: Apache-2.0
"""Bytes that rows still lack when they are put into a batch, and rows cut by them.

The values of some columns, as blobs, are not read ahead with their rows, but for the rows of the
batches that come next. Until then the last column but for that of `large_rows` says how many
bytes a row lacks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from . import large_rows

SIZES = "\0late_bytes"


def lacks_values(schema: pa.Schema) -> bool:
    """Whether values of some columns are still to be fetched, left-out rows aside."""
    return schema.names[-1:] == [SIZES]


def without_sizes(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The columns of the table alone."""
    return batch.select(range(batch.num_columns - 1))


def bytes_to_fetch(batch: pa.RecordBatch) -> np.ndarray | None:
    """The bytes that each row lacks, infinite where it was left out; None if none lacks any.

    Examples
    --------
    >>> batch = pa.record_batch({"blob": [7, 9], SIZES: [100, 0]})
    >>> bytes_to_fetch(batch)
    array([100.,   0.])
    """
    sizes = np.zeros(batch.num_rows)
    lacks = SIZES in batch.schema.names[-2:]
    if lacks:
        sizes += batch.column(batch.schema.get_field_index(SIZES)).to_numpy()
    if large_rows.may_lack(batch):
        rows, _ = large_rows.left_out(batch)
        lacks = lacks or len(rows) > 0
        sizes[rows] = np.inf
    return sizes if lacks else None


def grouped(counts: Sequence[int], sizes: np.ndarray, most: float) -> list[list[int]]:
    """Consecutive counts of rows, as many in a group as have at most so many bytes.

    Examples
    --------
    >>> grouped([2, 2, 2, 2], np.array([1, 1, 1, 1, 9, 9, 1, 1]), 5)
    [[2, 2], [2], [2]]
    """
    groups: list[list[int]] = []
    start, size = 0, 0.0
    for count in counts:
        more = float(sizes[start : start + count].sum())
        if not groups or size + more > most:
            groups.append([])
            size = 0.0
        groups[-1].append(count)
        start, size = start + count, size + more
    return groups
