# SPDX-License-Identifier: Apache-2.0
"""One iteration of an epoch: how far it has come, how fast, and where it began."""

from __future__ import annotations

import os
import pickle
import re
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NoReturn

from ..datasets.cursor import EpochTracker
from ..frameworks.accelerate import AcceleratorIteration
from ..table.fork_guard import refuse_after_a_fork
from ..workers.watchdog import WorkerWatch, watch
from .epochs import LoaderEpochs
from .throughput import Stopwatch
from .under_way import UnderWay, stop
from .worker_pool import WorkerPool

# What reading a message of a worker that has died may raise.
_BROKEN = (OSError, EOFError, RuntimeError, pickle.UnpicklingError)
_OF_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+")
_GO_ON = (
    "To go on with the next batch: loader.load_state_dict(loader.state_dict()), and iterate again"
)


class EpochIterator:
    """One epoch's iterator: delivers batches, counts and times them, until one fails.

    Users have it from ``iter(loader)``: what only the loader calls is private.

    Parameters
    ----------
    epochs : LoaderEpochs
        Where it begins.
    pool : WorkerPool
        Who makes the batches.
    loader : DataLoader
        Whose they are: it lives as long as this does, and Accelerate may have prepared it.
    loop : object, optional
        The loop of Lightning's that iterates.
    """

    def __init__(self, epochs: LoaderEpochs, pool: WorkerPool, loader: Any, loop: Any = None):
        self._epochs = epochs
        self._pool = pool
        self._loader = loader
        self._loop = loop
        self._process = os.getpid()
        self._asked = threading.RLock()  # by several threads, which share out the batches
        self._begin()

    def __iter__(self) -> EpochIterator:
        return self

    def __next__(self) -> Any:
        refuse_after_a_fork(self._process)  # in which nobody may release the lock
        with self._asked:
            return self._next()

    def _next(self) -> Any:
        if self._loop is not None:
            loop, self._loop = self._loop, None  # it holds this iterator
            if not self._epochs.begins_in(loop):
                raise StopIteration
        self._go_on()
        self._iteration.begin()
        self._stopwatch.ask()
        batch = self._pull()
        begin, end = self._tracker.order.share(self._tracker.position)
        self._tracker.advance()
        self._stopwatch.deliver(end - begin)
        at_end = not self._tracker.has_more()
        self._iteration.end_of_dataloader = at_end
        if self._meters.advice_is_due() or at_end:
            self._epochs.advise(self._meters)
        return batch

    def _peek(self) -> Any:
        """The batch that comes next, which still does."""
        self._go_on()
        if not self._ahead:
            self._ahead.append(self._pull())
        return self._ahead[0]

    def _exhaust(self) -> None:
        """Have the workers know that the epoch has ended, before they begin another one."""
        if self._batches is None or self._process != os.getpid():
            return
        if self._tracker.taken and not self._tracker.has_more():
            next(self._batches, None)
            self._is_exhausted = True

    def _has_more(self) -> bool:
        """Whether one more batch comes of this iterator."""
        return self._tracker.is_superseded or self._tracker.has_more()

    def _go_on(self) -> None:
        refuse_after_a_fork(self._process)
        if self._tracker.is_superseded or self._is_passed_on:
            self._end()  # the batches under way are given up before others are asked for
            self._begin()
        if self._failure is not None:
            raise RuntimeError(
                f"this iterator failed with {self._failure}, {self._delivered()}. {_GO_ON}"
            )

    def _pull(self) -> Any:
        """The next batch; every end of the epoch, good or bad, is seen here."""
        if self._ahead:
            return self._ahead.pop()
        try:
            # Workers that persist may have begun another epoch since.
            return next(iter(()) if self._is_exhausted else self._batches)  # type: ignore[arg-type]
        except StopIteration as end:
            if self._tracker.has_more():
                self._refuse_early(end)
            self._tracker.finish()
            self._epochs.is_ahead = False  # of a state: all that was asked for is used
            self._release()
            self._is_exhausted = True
            raise
        except BaseException as error:
            if isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration):
                self._refuse_early(error)  # as a generator passes it on
            # torch would go on with the other workers, and leave out what this one had to do.
            self._tracker.finish()
            self._explain(error)
            raise

    def _refuse_early(self, end: Exception) -> NoReturn:
        early = RuntimeError(
            "transform or collate_fn raised StopIteration, which would end the epoch as if it "
            f"were over, {self._delivered()}. Have it raise something else"
        )
        self._tracker.finish()
        self._explain(early)
        raise early from end

    def _begin(self) -> None:
        self._failure: str | None = None
        self._is_passed_on = self._is_exhausted = False
        self._ahead: list[Any] = []  # the batch that was looked at, if any
        self._iteration = AcceleratorIteration(self._loader)
        begun = self._epochs.begin(self)
        if isinstance(begun, UnderWay):
            self._tracker, self._meters = begun.tracker, begun.meters
            self._batches, self._ahead = begun.batches, begun.ahead
            self._watch_over(begun.release())
        else:
            self._tracker, self._meters = begun
            self._start()
        self._stopwatch = Stopwatch(
            self._meters.pace, self._epochs.total, after_first=self._meters.steady
        )

    def _start(self) -> None:
        """Have the epoch begin, by workers that persist or by new ones."""
        self._batches: Iterator[Any] | None = self._pool.persistent()
        self._watch_over(watch(self._batches))  # they are asked to go on, and may be dying
        try:
            self._batches = self._pool.start(self._tracker)
        except BaseException as error:
            self._explain(error)
            raise
        if self._watch is None:
            self._release.detach()
            self._watch_over(watch(self._batches))

    def _watch_over(self, watching: WorkerWatch | None) -> None:
        self._watch = watching
        # The watch does not end by itself where workers persist, and Accelerate must know of an
        # iterator that is dropped before its last batch.
        self._release = weakref.finalize(self, _release, watching, self._iteration, self._tracker)

    def _pass_on(self) -> UnderWay | None:
        """What is under way, workers and all, for the iterator that comes after this one.

        None in a forked process, in which nothing of it is.
        """
        if self._process != os.getpid():
            return None
        self._is_passed_on = True
        self._release.detach()
        passed_on = UnderWay(self._tracker, self._meters, self._batches, self._ahead, self._watch)
        self._batches = self._watch = None
        return passed_on

    def _end(self) -> None:
        self._release()
        self._batches = None

    def _explain(self, error: BaseException) -> None:
        """Raise an error that names the worker, if it is a worker's death that was seen."""
        # The error itself would refer, by its traceback, to all that refers to this iterator.
        self._failure = type(error).__name__
        dead = None
        if (
            self._watch is not None
            and isinstance(error, _BROKEN)
            and not _OF_WORKER.match(str(error))  # else a worker sent it, in good health
        ):
            dead = self._watch.dead_worker(error)
        # The error's traceback holds torch's iterator: what ends with it is ended here. Also of
        # workers that were to persist: collected as garbage, torch may wait long for each.
        self._pool.stop(self._batches)
        self._end()
        if dead is not None:
            raise RuntimeError(
                f"{dead.worker}, {self._delivered()}. {dead.advice} {_GO_ON}"
            ) from error

    def _delivered(self) -> str:
        at = self._tracker
        return f"after {at.taken} batches, at position {at.position} of epoch {at.at.epoch}"


def _release(
    watching: WorkerWatch | None, iteration: AcceleratorIteration, tracker: EpochTracker
) -> None:
    iteration.end()
    if not tracker.is_to_come:  # else the next iterator begins there
        tracker.finish()
    stop(watching)
