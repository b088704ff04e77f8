# SPDX-License-Identifier: Apache-2.0
"""Threads in which record batches are converted, and those in which they are transformed."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from ..arrow.take import slices
from ..common.counters import Stats
from ..common.pickling import name_of
from ..convert.transform import Output
from ..frameworks.private import part_of
from .caller import CallerModes, RandomStates


def executor_of(output: Output, stats: Stats, threads: int) -> InPlace | InThreads:
    """What finishes batches for the thread that calls this.

    Parameters
    ----------
    output : Output
        What becomes of each record batch.
    stats : Stats
        Where the seconds are added up.
    threads : int
        In how many threads the transform runs; 0: in the one that asks for batches.
    """
    if threads and output.transform is not None:
        return InThreads(output, stats, threads)
    return InPlace(output, stats)


class InPlace:
    """Converts where batches are put together; transforms where they are asked for."""

    def __init__(self, output: Output, stats: Stats):
        self._output = output
        self._stats = stats

    def begin(self, batch: pa.RecordBatch, counts: Sequence[int]) -> list[Any]:
        """Something for each slice of `counts` rows, which `end` makes the finished batch of."""
        return self._output.convert(batch, counts, self._stats)

    def begin_one(self, parts: Iterator[pa.RecordBatch], schema: pa.Schema) -> Any:
        """As `begin`, of one batch in parts; each is dropped when it was converted, if it can be.

        None, and no part was taken, if they have to be put together first.
        """
        if not self._output.converts_parts(schema):
            return None
        return self._output.convert_parts(parts, self._stats)

    def end(self, begun: Any) -> Any:
        """The finished batch; raises what went wrong with this very one."""
        if self._output.transform is None:
            return self._output.complete(begun, self._stats)
        with self._stats.timed("waiting"):
            return self._output.complete(begun, self._stats)

    def close(self) -> None:
        pass


class InThreads:
    """Finishes batches in several threads, under the modes of the one that makes this.

    The first batch is transformed where it is asked for. If a global random state is another one
    then, all the others are, too: from other threads the transform would draw in an order that no
    seed decides, and move what the training step draws.
    """

    def __init__(self, output: Output, stats: Stats, threads: int):
        self._output = output
        self._stats = stats
        self._modes = CallerModes()
        self._pool = ThreadPoolExecutor(threads, "lance-transform")
        self._lock = threading.Lock()
        self._early: list[_Task] = []  # begun before it was known which thread is to run them
        self._runs_ahead: bool | None = None

    def begin(self, batch: pa.RecordBatch, counts: Sequence[int]) -> list[_Task]:
        if self._runs_ahead:
            tasks = [_Task(self._make, part) for part in slices(batch, counts)]
        else:
            tasks = [_Task(self._complete, each) for each in self._convert(batch, counts)]
        with self._lock:
            if self._runs_ahead:
                self._submit(tasks)
            elif self._runs_ahead is None:
                self._early += tasks
        return tasks

    def begin_one(self, parts: Iterator[pa.RecordBatch], schema: pa.Schema) -> Any:
        return None

    def end(self, begun: _Task) -> Any:
        with self._stats.timed("waiting"):
            return self._first(begun) if self._runs_ahead is None else begun.result()

    def close(self) -> None:
        wait_for(self._pool)

    def _first(self, task: _Task) -> Any:
        before = RandomStates()
        made = task.result()
        drawn_from = RandomStates().changed_since(before)
        with self._lock:
            self._runs_ahead = not drawn_from
            if self._runs_ahead:
                self._submit([each for each in self._early if each is not task])
            self._early = []
        if drawn_from:
            self._warn(drawn_from)
        return made

    def _submit(self, tasks: list[_Task]) -> None:
        for task in tasks:
            task.future = submit(self._pool, self._modes.run, task.make)

    def _make(self, part: pa.RecordBatch) -> Any:
        return self._complete(*self._convert(part, [part.num_rows]))

    def _convert(self, batch: pa.RecordBatch, counts: Sequence[int]) -> list[Any]:
        return self._output.convert(batch, counts, self._stats)

    def _complete(self, converted: Any) -> Any:
        return self._output.complete(converted, self._stats)

    def _warn(self, drawn_from: list[str]) -> None:
        warnings.warn(
            f"transform {name_of(self._output.transform)} draws from the global random state of "
            f"{' and '.join(drawn_from)}, and so runs in the thread that iterates: in others "
            "its draws would come in an order that no seed decides, and change those of the "
            "training step. Have it draw from the context that a second argument of it would be "
            "given, from a generator of its own, or use transform_threads=0",
            stacklevel=2,
        )


class _Task:
    """A batch that is to be made by one call, in whichever thread."""

    def __init__(self, make: Callable[[Any], Any], of: Any):
        self._make = make
        self._of = of
        self.future: Future | None = None

    def make(self) -> Any:
        of, self._of = self._of, None
        return self._make(of)

    def result(self) -> Any:
        """What comes of it, made here unless another thread was asked to; raises what it raised."""
        future, self.future = self.future, None
        return self.make() if future is None else future.result()


def submit(pool: ThreadPoolExecutor, call: Callable[..., Any], *args: Any) -> Future[Any]:
    """As the pool's own, which takes no more once the program's main thread has ended."""
    try:
        return pool.submit(call, *args)
    except RuntimeError as error:
        if threading.main_thread().is_alive():
            raise
        raise RuntimeError(
            "the program's main thread has ended, after which Python starts no more work in other "
            "threads, and reading ahead needs that: have the main thread wait, by join(), for the "
            "one that iterates"
        ) from error


def wait_for(pool: ThreadPoolExecutor) -> None:
    """Leave undone what is not begun, and wait for the rest.

    Unless this is one of the pool's own threads, in which the garbage collector may find that
    nobody has the stream any more: that thread ends by itself.
    """
    pool.shutdown(wait=False, cancel_futures=True)
    if threading.current_thread() not in part_of(pool, "_threads", ()):
        pool.shutdown(wait=True)
