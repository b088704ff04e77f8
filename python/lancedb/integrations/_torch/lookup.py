# SPDX-License-Identifier: Apache-2.0
"""Knows windows of rows that are all in memory: what is open is which rows they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from .pieces import Pieces
from .plan import Plan
from .reader import Reading
from .reads import Reads
from .resident import Resident
from .schedule import WindowRows, rows_of


class ResidentSource:
    """As `reads.Source`, over all rows of a selection in base order.

    Parameters
    ----------
    plan : Plan
        The epoch's order of rows.
    resident : Resident
        Loaded when a batch is first asked for.
    reads : Reads
        What loads it.
    ahead : int
        How many more reads are under way meanwhile.
    """

    def __init__(self, plan: Plan, resident: Resident, reads: Reads, ahead: int):
        self._plan = plan
        self._resident = resident
        self._reads = reads
        self._ahead = ahead
        self._open: dict[int, np.ndarray] = {}

    def begin(self, windows: Sequence[WindowRows]) -> None:
        self._open.update((window.window, rows_of(self._plan, window)) for window in windows)

    def batch(self, pieces: Pieces) -> pa.RecordBatch:
        self._resident.load(self._everything())
        rows = [self._open[at.window][at.begin : at.begin + at.count] for at in pieces.joined()]
        return self._resident.take(np.concatenate(rows))

    def drop(self, window: int) -> None:
        del self._open[window]

    def cancel(self) -> None:
        self._reads.cancel()

    def close(self) -> None:
        self._open.clear()

    def _everything(self) -> Iterator[pa.RecordBatch]:
        under_way: deque[Reading] = deque()
        for rows in self._resident.parts():
            under_way.append(self._reads.begin_rows(rows))
            if len(under_way) > self._ahead:
                yield self._finished(under_way.popleft())
        while under_way:
            yield self._finished(under_way.popleft())

    def _finished(self, reading: Reading) -> pa.RecordBatch:
        batch = reading.in_order()
        self._reads.finish(reading)
        return batch
