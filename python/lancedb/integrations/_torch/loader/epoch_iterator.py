# SPDX-License-Identifier: Apache-2.0
"""One iteration of an epoch: how far it has come, how fast, and where it began."""

from __future__ import annotations

import pickle
import re
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ..frameworks.accelerate import Turn
from ..order.state import Position
from ..order.steps import Steps
from ..workers.watchdog import WorkerWatch, watch
from .throughput import Looks, Pace, Stopwatch

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
        self.steady = Pace()  # without the first batch, for which all has to be started
        self._looks = Looks()
        self.superseded = False
        self.over = False  # no batch comes any more
        self.ahead = False  # whether batches are asked for before they are used
        self._rank = rank

    @property
    def position(self) -> Position:
        """After the last batch that was handed out."""
        if self.pace.batches == 0:
            return self.at
        return Position(self.at.epoch, self.steps.position_after(self.pace.batches - 1))

    @property
    def untouched(self) -> bool:
        """Whether nothing was taken yet, so that this epoch is still to come."""
        return self.pace.batches == 0 and not self.over

    @property
    def at_end(self) -> bool:
        """Whether the last batch was handed out."""
        return self.pace.batches == self.steps.num_steps

    def advice_is_due(self) -> bool:
        """Whether to look at who waits for whom: at the end, and before it ever more rarely."""
        return self._looks.is_due(self.steady.seconds) or self.at_end

    def rows_of_next(self) -> int:
        """Rows of the batch that comes next, on this rank."""
        begin, end = self.steps.slice_of(self.pace.batches, self._rank)
        return end - begin


class Loader(Protocol):
    """What an iterator asks of its loader."""

    total: Pace

    def succeed(self, iterator: Delivery) -> Delivery | None: ...

    def check_start(self, loop: Any) -> None: ...

    def resume(self) -> Progress: ...

    def kept_workers(self) -> Iterator[Any] | None: ...

    def batches(self) -> Iterator[Any]: ...

    def end_workers(self, batches: Iterator[Any] | None) -> None: ...

    def advise(self, progress: Progress) -> None: ...


class Delivery:
    """One epoch's iterator: hands out batches, counts and times them, until one fails.

    Parameters
    ----------
    loader : Loader
        Whose batches.
    loop : object, optional
        The loop of Lightning's that iterates.
    """

    def __init__(self, loader: Loader, loop: Any = None):
        self._loader = loader
        self._loop = loop
        self._begin()

    def __iter__(self) -> Delivery:
        return self

    def __next__(self) -> Any:
        if self._progress.superseded or self._given_away:
            self._end()  # the batches under way are given up before others are asked for
            self._begin()
        if self._failure is not None:
            raise RuntimeError(
                f"this iterator failed with {self._failure}, {self._delivered()}. {_GO_ON}"
            )
        if self._loop is not None:
            self._loader.check_start(self._loop)
            self._loop = None  # it holds this iterator
        self._turn.begin()
        self._stopwatch.ask()
        try:
            batch = next(self._batches)  # type: ignore[arg-type]
        except StopIteration as end:
            if not self._progress.at_end:
                early = RuntimeError(
                    "transform or collate_fn raised StopIteration, which would end the epoch as if "
                    f"it were over, {self._delivered()}. Have it raise something else"
                )
                self._progress.over = True
                self._explain(early)
                raise early from end
            self._let_go()
            self._progress.over = True
            self._progress.ahead = False
            raise
        except BaseException as error:
            # torch would go on with the other workers, and leave out what this one had to do.
            self._progress.over = True
            self._explain(error)
            raise
        self._stopwatch.hand_out(self._progress.rows_of_next())
        self._turn.end_of_dataloader = self._progress.at_end
        if self._progress.advice_is_due():
            self._loader.advise(self._progress)
        return batch

    def _begin(self) -> None:
        self._failure: str | None = None
        self._given_away = False
        self._turn = Turn(self._loader)
        before = self._loader.succeed(self)
        if before is None:
            self._progress = self._loader.resume()
            self._start()
        else:
            self._progress, self._batches, watching = before._give_away()
            self._watch_over(watching)
        self._stopwatch = Stopwatch(
            self._progress.pace, self._loader.total, after_first=self._progress.steady
        )

    def _start(self) -> None:
        """Have the epoch begin, by workers that were kept or by new ones."""
        self._batches: Iterator[Any] | None = self._loader.kept_workers()
        self._watch_over(watch(self._batches))  # they are asked to go on, and may be dying
        try:
            self._batches = self._loader.batches()
        except BaseException as error:
            self._explain(error)
            raise
        if self._watch is None:
            self._let_go.detach()
            self._watch_over(watch(self._batches))

    def _watch_over(self, watching: WorkerWatch | None) -> None:
        self._watch = watching
        # The watch does not end by itself where the workers are kept for the next epoch, and
        # Accelerate has to hear of an iterator that is dropped before its last batch.
        self._let_go = weakref.finalize(self, _let_go, watching, self._turn)

    def _give_away(self) -> tuple[Progress, Iterator[Any] | None, WorkerWatch | None]:
        """Leave what is under way, workers and all, to the iterator that comes after this one."""
        self._given_away = True
        self._let_go.detach()
        given = self._progress, self._batches, self._watch
        self._batches = self._watch = None
        return given

    def _end(self) -> None:
        self._let_go()
        self._batches = None

    def _explain(self, error: BaseException) -> None:
        """Raise an error that names the worker, if it is a worker's death that was seen."""
        # The error itself would hold, by its traceback, all that held this iterator.
        self._failure = type(error).__name__
        dead = None
        if self._watch is not None and isinstance(error, _BROKEN) and not _sent(error):
            dead = self._watch.dead_worker(error)
        # The error's traceback holds torch's iterator: what ends with it is ended here. Also of
        # workers that were to persist: collected as garbage, torch may wait long for each.
        self._loader.end_workers(self._batches)
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


def _let_go(watching: WorkerWatch | None, turn: Turn) -> None:
    turn.end()
    if watching is not None:
        watching.stop()
