# SPDX-License-Identifier: Apache-2.0
"""Knows one iterator over an epoch: how far it has come, how fast, and when it starts elsewhere."""

from __future__ import annotations

import pickle
import re
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from .pace import Pace, Stopwatch
from .position import Position
from .steps import Steps
from .watch import WorkerWatch, watch

# What reading a message of a worker that has died may raise.
_BROKEN = (OSError, EOFError, RuntimeError, pickle.UnpicklingError)
_OF_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+")
_GO_ON = (
    "To go on with the next batch: loader.load_state_dict(loader.state_dict()), and iterate again"
)


class Progress:
    """How far one iterator has come. The loader keeps this and not the iterator, which would
    keep its worker processes for as long.

    Parameters
    ----------
    at : Position
        Where the iterator began.
    steps : Steps
        The steps from there on.
    rank : int
        Whose rows are counted.
    spent : mapping
        What the dataset had counted when the iterator began.
    """

    def __init__(self, at: Position, steps: Steps, rank: int, spent: Mapping[str, Any]):
        self.at = at
        self.steps = steps
        self.spent = spent
        self.pace = Pace()
        self.superseded = False
        self.ahead = False  # whether batches are asked for before they are used
        self._rank = rank

    @property
    def position(self) -> Position:
        """After the last batch that was handed out."""
        if self.pace.batches == 0:
            return self.at
        return Position(self.at.epoch, self.steps.position_after(self.pace.batches - 1))

    def rows_of_next(self) -> int:
        """Rows of the batch that comes next, on this rank."""
        begin, end = self.steps.slice_of(self.pace.batches, self._rank)
        return end - begin


class Loader(Protocol):
    """What an iterator asks of its loader."""

    total: Pace

    def resume(self) -> Progress: ...

    def kept_workers(self) -> Iterator[Any] | None: ...

    def batches(self) -> Iterator[Any]: ...

    def forget_workers(self) -> None: ...

    def end_workers(self, batches: Iterator[Any]) -> None: ...

    def end_epoch(self, progress: Progress) -> None: ...


class Delivery:
    """One epoch's iterator: hands out batches, counts and times them, until one fails."""

    def __init__(self, loader: Loader):
        self._loader = loader
        self._begin()

    def __iter__(self) -> Delivery:
        return self

    def __next__(self) -> Any:
        if self._progress.superseded:
            self._end()  # the batches under way are given up before others are asked for
            self._begin()
        if self._failure is not None:
            raise RuntimeError(
                f"this iterator failed with {self._failure}, {self._delivered()}. {_GO_ON}"
            )
        self._stopwatch.ask()
        try:
            batch = next(self._batches)  # type: ignore[arg-type]
        except StopIteration:
            self._stop_watching()
            self._loader.end_epoch(self._progress)
            raise
        except BaseException as error:
            # torch would go on with the other workers, and leave out what this one had to do.
            self._explain(error)
            raise
        self._stopwatch.hand_out(self._progress.rows_of_next())
        return batch

    def _begin(self) -> None:
        self._progress = self._loader.resume()
        self._stopwatch = Stopwatch(self._progress.pace, self._loader.total)
        self._failure: str | None = None
        self._batches: Iterator[Any] | None = self._loader.kept_workers()
        self._begin_to_watch()  # workers that were kept are asked to go on, and may be dying
        try:
            self._batches = self._loader.batches()
        except BaseException as error:
            self._loader.forget_workers()
            self._explain(error)
            raise
        if self._watch is None:
            self._begin_to_watch()

    def _begin_to_watch(self) -> None:
        self._watch = watch(self._batches)
        # The watch does not end by itself where the workers are kept for the next epoch.
        self._stop_watching = weakref.finalize(self, _stop, self._watch)

    def _end(self) -> None:
        self._stop_watching()
        self._batches = None

    def _explain(self, error: BaseException) -> None:
        """Raise an error that names the worker, if it is a worker's death that was seen."""
        # The error itself would hold, by its traceback, all that held this iterator.
        self._failure = type(error).__name__
        dead = None
        if self._watch is not None and isinstance(error, _BROKEN) and not _sent(error):
            dead = self._watch.dead_worker(error)
        if dead is not None or not isinstance(error, Exception):
            self._loader.forget_workers()
        # The error's traceback holds torch's iterator: what ends with it is ended here.
        self._loader.end_workers(self._batches)  # type: ignore[arg-type]
        self._end()
        if dead is not None:
            raise RuntimeError(
                f"{dead.worker}, {self._delivered()}. {dead.advice} {_GO_ON}"
            ) from error

    def _delivered(self) -> str:
        at = self._progress.position
        count = self._progress.pace.batches
        return f"after {count} batches, at position {at.position} of epoch {at.epoch}"


def _sent(error: BaseException) -> bool:
    """Whether a worker sent this error, in good health: torch words it so."""
    return bool(_OF_WORKER.match(str(error)))


def _stop(watching: WorkerWatch | None) -> None:
    if watching is not None:
        watching.stop()
