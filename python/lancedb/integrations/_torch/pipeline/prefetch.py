# SPDX-License-Identifier: Apache-2.0
"""Read-ahead: a schedule and a reader in, finished batches out, in order.

Reads are under way on lancedb's own event loop. One thread plans them, waits for them, and puts
batches together out of what was read, a job of several batches at a time; the consumer takes whole
jobs. Rows that are in memory take two threads: jobs are planned one after the other, and one is
copied and converted while the other is. In memory at any moment are the open windows, the reads
ahead and four jobs: none of it grows with the table. Closing the stream, by hand or by
dropping its iterator, stops it all.

torch releases Python's lock for each tensor that it frees, and whoever frees one waits until a
thread that makes batches releases it. So such a thread frees them, too: it drops a batch when
the consumer is two jobs further.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..arrow.large_rows import Limits
from ..arrow.origins import Origins, with_origins
from ..common.counters import Stats
from ..convert.transform import Output
from ..order.read_schedule import Group, Step
from ..order.window_slices import WindowSlices
from ..table.fork_guard import refuse_after_a_fork
from .completion import Complete
from .executor import executor_of, submit, wait_for
from .mixed_sources import MixedInput
from .sources import Source
from .table_input import TableInput

_JOBS_AHEAD = 2
_JOBS_DELIVERED = 2
_STEPS_THAT_GROW = 4


@dataclass(frozen=True)
class ReadAhead:
    """How far to work ahead of the consumer.

    Parameters
    ----------
    read_rows : int
        Rows of one call to the reader.
    job_rows : int
        Rows that are put together at once, in one or more batches; `read_rows` of them where rows
        are in memory.
    reads : int
        Reads under way beyond the one whose rows come next.
    threads : int
        Threads that transform; 0 for the one that asks for batches.
    """

    read_rows: int
    job_rows: int
    reads: int
    threads: int


class _Job(NamedTuple):
    """Some batches in a row, begun, and the Arrow bytes of what they are made of."""

    begun: list[Any]
    size: int


class Prefetcher:
    """Makes the batches of one worker's steps.

    Parameters
    ----------
    rows : TableInput or MixedInput
        What batches are made of.
    groups : iterator of Group
        The steps in sequence, and what to read for them; asked for as the epoch goes on.
    output : Output
        What becomes of each record batch.
    stats : Stats
        Where rows and seconds are added up.
    ahead : ReadAhead
        How far to work ahead.
    limits : Limits
        How many bytes may be read at once, and ahead, of rows and values that are read for their
        batch alone.
    origins : callable of int to Origins, optional
        Where the rows of the next so many steps come from, if that is to go with the batches.
    """

    def __init__(
        self,
        rows: TableInput | MixedInput,
        groups: Iterator[Group],
        output: Output,
        stats: Stats,
        ahead: ReadAhead,
        limits: Limits,
        origins: Callable[[int], Origins] | None = None,
    ):
        self._process = os.getpid()
        self._input = rows
        self._origins = origins
        self._stats = stats
        self._ahead = ahead
        self._source: Source | None = None
        self._most_steps = _steps_of_a_job(output, ahead.threads)
        self._groups = groups
        self._scheduled: deque[_Scheduled] = deque()
        self._finish = executor_of(output, stats, ahead.threads)
        self._job_rows = ahead.read_rows if rows.is_in_memory else ahead.job_rows
        by_two = rows.is_in_memory and not output.is_for_workers and _has_a_core_to_spare()
        self._making = ThreadPoolExecutor(1 + by_two, "lance-batches")
        self._last_planned = threading.Event()
        self._last_planned.set()
        self._is_cancelled = False
        self._jobs: deque[Future[_Job]] = deque()
        self._backlog = rows.backlog(limits)
        self._found = 0
        self._last_size = 0
        self._most_ahead = limits.ahead
        # What sends batches to workers has one ahead already.
        self._least_jobs = 0 if output.is_for_workers else 1
        grows = output.pads or output.transform is not None
        jobs = 0 if grows else _JOBS_AHEAD + _JOBS_DELIVERED
        self._made: deque[list[Any]] = deque(maxlen=jobs)

    def batches(self) -> Generator[Any, None, None]:
        """The finished batches in order; closing the generator closes the stream."""
        try:
            while True:
                refuse_after_a_fork(self._process)
                self._work_ahead(1)
                with self._stats.timed("waiting"):
                    job = self._jobs.popleft().result()
                if not job.begun:
                    return
                self._last_size = job.size
                begun = deque(job.begun)
                del job
                self._work_ahead(self._least_jobs)
                while begun:
                    yield self._finish.end(begun.popleft())
        finally:
            self.close()

    def _work_ahead(self, least: int) -> None:
        """Have jobs under way or done, or, where they are large, at least so many."""
        while len(self._jobs) < _JOBS_AHEAD:
            sizes = [job.result().size if _is_done(job) else self._last_size for job in self._jobs]
            if len(sizes) >= least and sum(sizes) + self._last_size > self._most_ahead:
                return
            before, planned = self._last_planned, threading.Event()
            job = submit(self._making, self._make_job, before, planned)
            # One that is cancelled is never planned, and the next one may have been begun.
            job.add_done_callback(lambda _, planned=planned: planned.set())
            self._last_planned = planned
            self._jobs.append(job)

    def cancel(self) -> None:
        """Give up every read; whoever waits for a batch, in any thread, waits no longer."""
        self._is_cancelled = True
        self._making.shutdown(wait=False, cancel_futures=True)
        self._input.cancel()

    def close(self) -> None:
        """Stop every thread and every read, leaving what is not begun undone."""
        if self._process != os.getpid():
            return  # they are in the process that this one was forked from
        self.cancel()
        wait_for(self._making)
        if self._source is not None:
            self._source.close()
        self._finish.close()
        self._jobs.clear()
        self._backlog.clear()
        self._made.clear()

    # -- in the threads that make batches ----------------------------------------------------

    def _make_job(self, before: threading.Event, planned: threading.Event) -> _Job:
        """The next few batches, begun, once the job before was planned; none at the end."""
        before.wait()
        try:
            if self._is_cancelled:
                return _Job([], 0)
            if self._source is None:
                self._source = self._input.open()
            while self._backlog.wants_more and self._put_together(self._source):
                pass
            taken = self._backlog.take()
            if taken is None:
                return _Job([], 0)
            cached = self._cached_of(sum(taken.counts))
            origins = None if self._origins is None else self._origins(len(taken.counts))
        finally:
            planned.set()
        return self._finished(taken.result(), cached, origins)

    def _put_together(self, source: Source) -> bool:
        """Put the rows of the next few batches together; False if there are no more."""
        self._read_ahead(source)
        if not self._scheduled:
            return False
        group = self._scheduled[0]
        pieces, steps = group.take(self._job_rows, self._most_steps)
        if not group.steps:
            self._scheduled.popleft()
        batch = source.batch(pieces)
        for step in steps:
            for window in step.spent:
                source.drop(window)
        self._backlog.add(batch, [step.rows for step in steps])
        return True

    def _finished(self, complete: Complete, cached: int, origins: Origins | None) -> _Job:
        size, rows = complete.size, sum(complete.counts)
        cached_bytes = (size - complete.fetched) * cached // max(1, rows)
        self._stats.add(
            rows=rows, cached_rows=cached, bytes=size - cached_bytes, cached_bytes=cached_bytes
        )
        made = self._begun(complete, origins)
        self._made.append([] if size > self._most_ahead else made)
        return _Job(made, size)

    def _begun(self, complete: Complete, origins: Origins | None) -> list[Any]:
        if origins is None and complete.size > self._most_ahead and complete.is_of_large_rows:
            made = self._finish.begin_one(complete.parts, complete.schema)
            if made is not None:
                return [made]
        batch = complete.batch()
        if origins is not None:
            batch = with_origins(batch, origins)
        return self._finish.begin(batch, complete.counts)

    def _cached_of(self, rows: int) -> int:
        """How many of a job's rows are said to be cached: they were read ahead with others."""
        if self._input.is_cached:
            return rows
        self._found += self._input.take_local_count()
        cached = min(rows, self._found)
        self._found -= cached
        return cached

    def _read_ahead(self, source: Source) -> None:
        """Have reads under way for the groups of steps to come."""
        while len(self._scheduled) <= self._ahead.reads:
            group = next(self._groups, None)
            if group is None:
                return
            for windows in group.reads:
                source.begin(windows)
            self._scheduled.append(_Scheduled(group))


def _has_a_core_to_spare() -> bool:
    """Not in workers, forked ones too: they share the cores with each other."""
    allowed = getattr(os, "sched_getaffinity", None)
    cores = os.cpu_count() or 1 if allowed is None else len(allowed(0))
    return cores > 1 and multiprocessing.parent_process() is None


def _is_done(job: Future[_Job]) -> bool:
    return job.done() and not job.cancelled() and job.exception() is None


def _steps_of_a_job(output: Output, threads: int) -> int:
    """At most so many: what comes of them may be many times as large as what was read."""
    if output.transform is not None and threads:
        return threads
    return _STEPS_THAT_GROW if output.pads else sys.maxsize


class _Scheduled:
    """The steps of a group that were not made yet."""

    def __init__(self, group: Group):
        self.steps = deque(group.steps)
        self._pieces = group.pieces
        self._taken = 0

    def take(self, rows: int, most_steps: int) -> tuple[WindowSlices, list[Step]]:
        """The next few steps, of about so many rows, and what they are made of."""
        taken: list[Step] = []
        begin, left = self._taken, rows
        while self.steps and len(taken) < most_steps and left > 0:
            if taken and self.steps[0].source != taken[0].source:
                break
            taken.append(self.steps.popleft())
            self._taken += taken[-1].pieces
            left -= taken[-1].rows
        return self._pieces.cut(begin, self._taken), taken
