# SPDX-License-Identifier: Apache-2.0
"""Knows how to read ahead: a schedule and a reader in, finished batches out, in order.

Two pools of threads work ahead of the consumer. Reading threads fill windows; working threads
put batches together out of them, convert and transform. What is held at any moment is the open
windows, the reads ahead and the batches ahead: none of it grows with the table. Closing the
stream, by hand or by dropping its iterator, stops every thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from . import gather
from .output import Output
from .plan import Plan
from .reader import Reader
from .schedule import Group, Span, StepPieces, WindowRows, rows_of, schedule
from .stats import Stats

# Batches cost about 0.1 ms each; handing them over in groups of this many rows keeps the
# threads from spending their time on handing over.
_ROWS_PER_JOB = 4096


@dataclass(frozen=True)
class ReadAhead:
    """How far to work ahead of the consumer.

    Parameters
    ----------
    read_rows : int
        Rows of one call to the reader.
    groups : int
        Reads under way or waiting ahead of the batch that is being made.
    threads : int
        Threads that convert and transform.
    """

    read_rows: int
    groups: int
    threads: int


class Stream:
    """Iterates over the batches of one worker's steps.

    Parameters
    ----------
    plan : Plan
        The epoch's order of rows.
    spans : list of (int, int)
        The positions of each step, ascending.
    reader : Reader
        Opened here, before any thread starts.
    output : Output
        What becomes of each record batch.
    stats : Stats
        Where rows and seconds are added up.
    ahead : ReadAhead
        How far to work ahead.
    """

    def __init__(
        self,
        plan: Plan,
        spans: list[Span],
        reader: Reader,
        output: Output,
        stats: Stats,
        ahead: ReadAhead,
    ):
        self._plan = plan
        self._reader = reader.open()
        self._output = output
        self._stats = stats
        self._ahead = ahead
        self._groups = schedule(plan, spans, ahead.read_rows)
        self._scheduled: deque[list[StepPieces]] = deque()
        self._windows: dict[int, tuple[Future, int]] = {}
        self._jobs: deque[Future] = deque()
        self._reading = ThreadPoolExecutor(max(ahead.groups, 1), "lance-read")
        self._working = ThreadPoolExecutor(ahead.threads, "lance-work")

    def batches(self) -> Generator[Any, None, None]:
        """The finished batches in order; closing the generator closes the stream."""
        try:
            while True:
                self._work_ahead()
                if not self._jobs:
                    return
                with self._stats.timed("waiting"):
                    batches = self._jobs.popleft().result()
                self._work_ahead()
                yield from batches
        finally:
            self.close()

    def close(self) -> None:
        """Stop every thread, leaving what is not begun undone."""
        self._working.shutdown(wait=False, cancel_futures=True)
        self._reading.shutdown(wait=True, cancel_futures=True)
        for future, _ in self._windows.values():
            future.cancel()
        self._working.shutdown(wait=True)
        self._windows.clear()
        self._jobs.clear()

    def _work_ahead(self) -> None:
        while len(self._jobs) < 1 + self._ahead.threads and self._read_ahead():
            self._jobs.append(self._next_job())

    def _read_ahead(self) -> bool:
        """Have reads under way for the groups to come; False if no step is left."""
        while len(self._scheduled) <= self._ahead.groups:
            group = next(self._groups, None)
            if group is None:
                break
            self._submit_reads(group)
            self._scheduled.append(list(reversed(group.steps)))
        return bool(self._scheduled)

    def _submit_reads(self, group: Group) -> None:
        for windows in group.reads:
            future = self._reading.submit(self._read, windows)
            for index, window in enumerate(windows):
                self._windows[window.window] = (future, index)

    def _next_job(self) -> Future:
        """Hand the next steps to a working thread: one if a transform is to run in parallel."""
        steps, rows = [], 0
        group = self._scheduled[0]
        wanted = 1 if self._ahead.threads > 1 else _ROWS_PER_JOB
        while group and rows < wanted:
            step = group.pop()
            steps.append([(*self._windows[piece.window], piece) for piece in step.pieces])
            rows += sum(piece.count for piece in step.pieces)
            for window in step.spent:
                del self._windows[window]
        if not group:
            self._scheduled.popleft()
        return self._working.submit(self._make, steps)

    def _read(self, windows: tuple[WindowRows, ...]) -> list[pa.RecordBatch]:
        with self._stats.timed("reading"):
            rows = [rows_of(self._plan, window) for window in windows]
            batch = self._reader.read(rows[0] if len(rows) == 1 else np.concatenate(rows))
        self._stats.add(bytes=batch.nbytes)
        ends = np.cumsum([0, *(window.size for window in windows)])
        return [batch.slice(*edge) for edge in zip(ends[:-1], np.diff(ends), strict=True)]

    def _make(self, steps: list[list[tuple]]) -> list[Any]:
        return [self._batch(step) for step in steps]

    def _batch(self, parts: list[tuple]) -> Any:
        ready = [future.result()[index] for future, index, _ in parts]
        slices = [
            window.slice(piece.begin, piece.count)
            for window, (_, _, piece) in zip(ready, parts, strict=True)
        ]
        started = time.perf_counter()
        batch = gather.concatenate(slices)
        self._stats.add(rows=batch.num_rows, converting=time.perf_counter() - started)
        return self._output(batch, self._stats)
