# SPDX-License-Identifier: Apache-2.0
"""Rows of the tables that tests read, made without torch and lancedb."""

import numpy as np
import pyarrow as pa


def rows_of(count: int, start: int = 0) -> pa.Table:
    """id ascending, label, vec float32[4] made of the id, text, and lists of different lengths."""
    ids = np.arange(start, start + count)
    vectors = (ids[:, None] + np.arange(4) / 8).astype(np.float32)
    return pa.table(
        {
            "id": ids,
            "label": (ids % 7).astype(np.int32),
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4),
            "text": [f"row {i}" for i in ids],
            "tokens": pa.array([list(range(i % 5)) for i in ids.tolist()], pa.list_(pa.int32())),
        }
    )


def rows_with_nulls(count: int) -> pa.Table:
    """Columns of every kind of storage; numbers are null in the middle of the table only."""
    table = rows_of(count)
    halves = [None if count // 2 <= i < count // 2 + 9 else i / 2 for i in range(count)]
    return table.append_column("half", pa.array(halves, pa.float64()))
