# SPDX-License-Identifier: Apache-2.0
"""One column of every row of a selection, read part by part."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from .reader import PendingRead, Reader
from .sample import average_row_bytes
from .selection import places_in

_READ_BYTES = 8 << 20
_MOST_ROWS = 1 << 18
_READS_AHEAD = 3


def whole_column(
    reader: Reader, dtype: type, made: Callable[[pa.Array, int], np.ndarray]
) -> np.ndarray:
    """A number for every row of a reader's selection, in its base order.

    Where the rows are most of a stretch of the table the stretch is read, which is faster.

    Parameters
    ----------
    reader : Reader
        Of one column.
    dtype : type
        That of the numbers.
    made : callable
        The numbers of a part of the column, given where in the reader's rows the part begins.
    """
    selection = reader.selection
    stretch = selection.stretch() or selection
    reader = reader.over(stretch)
    values = np.empty(stretch.num_rows, dtype)
    start = 0
    for part in _parts(reader):
        values[start : start + len(part)] = made(part, start)
        start += len(part)
    if stretch is selection:
        return values
    return values[places_in(stretch, selection, np.arange(selection.num_rows))]


def _parts(reader: Reader) -> Iterator[pa.Array]:
    step = max(1, min(_MOST_ROWS, _READ_BYTES // average_row_bytes(reader)))
    rows = reader.selection.num_rows
    reader.open()
    under_way: deque[PendingRead] = deque()
    for start in range(0, rows, step):
        under_way.append(reader.begin(np.arange(start, min(start + step, rows))))
        if len(under_way) > _READS_AHEAD:
            yield under_way.popleft().in_order().column(0)
    while under_way:
        yield under_way.popleft().in_order().column(0)
