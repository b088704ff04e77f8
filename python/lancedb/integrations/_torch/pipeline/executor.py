# SPDX-License-Identifier: Apache-2.0
"""Conversion and transform of record batches: where they are made, or in a pool."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import pyarrow as pa

from ..arrow.take import slices
from ..common.counters import Stats
from ..convert.transform import Output


class Finish(Protocol):
    """Turns consecutive slices of a record batch into finished batches."""

    def begin(self, batch: pa.RecordBatch, counts: Sequence[int]) -> list[Any]:
        """Something for each slice of `counts` rows, which `end` makes the finished batch of."""
        ...

    def end(self, begun: Any) -> Any:
        """The finished batch; raises what went wrong with this very one."""
        ...

    def close(self) -> None: ...


class _Failure:
    """Stands for a batch that could not be made, so that those before it are handed out."""

    def __init__(self, error: Exception):
        self.error = error


class InPlace:
    """Finishes batches at once, in the thread that put them together."""

    def __init__(self, output: Output, stats: Stats):
        self._output = output
        self._stats = stats

    def begin(self, batch: pa.RecordBatch, counts: Sequence[int]) -> list[Any]:
        if self._output.transform is None:
            try:
                return self._output.each(batch, counts, self._stats)
            except Exception:  # then it is found out below which of them it is
                pass
        return [self._attempt(part) for part in slices(batch, counts)]

    def _attempt(self, batch: pa.RecordBatch) -> Any:
        try:
            return self._output(batch, self._stats)
        except Exception as error:
            return _Failure(error)

    def end(self, begun: Any) -> Any:
        if isinstance(begun, _Failure):
            raise begun.error
        return begun

    def close(self) -> None:
        pass


class InThreads:
    """Finishes batches in several threads, for transforms that take their time."""

    def __init__(self, output: Output, stats: Stats, threads: int):
        self._output = output
        self._stats = stats
        self._pool = ThreadPoolExecutor(threads, "lance-transform")

    def begin(self, batch: pa.RecordBatch, counts: Sequence[int]) -> list[Future]:
        return [
            self._pool.submit(self._output, part, self._stats) for part in slices(batch, counts)
        ]

    def end(self, begun: Future) -> Any:
        with self._stats.timed("waiting"):
            return begun.result()

    def close(self) -> None:
        wait_for(self._pool)


def wait_for(pool: ThreadPoolExecutor) -> None:
    """Leave undone what is not begun, and wait for the rest.

    Unless this is one of the pool's own threads, in which the garbage collector may find that
    nobody has the stream any more: that thread ends by itself.
    """
    pool.shutdown(wait=False, cancel_futures=True)
    if threading.current_thread() not in pool._threads:
        pool.shutdown(wait=True)
