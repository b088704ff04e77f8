# SPDX-License-Identifier: Apache-2.0
"""Knows one iterator over an epoch: how far it has come, how fast, and when it starts elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from .pace import Pace, Stopwatch
from .position import Position
from .steps import Steps


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

    def batches(self) -> Iterator[Any]: ...

    def end_epoch(self, progress: Progress) -> None: ...


class Delivery:
    """One epoch's iterator: hands out batches, counts and times them."""

    def __init__(self, loader: Loader):
        self._loader = loader
        self._begin()

    def _begin(self) -> None:
        self._progress = self._loader.resume()
        self._watch = Stopwatch(self._progress.pace, self._loader.total)
        self._batches: Iterator[Any] | None = self._loader.batches()

    def __iter__(self) -> Delivery:
        return self

    def __next__(self) -> Any:
        if self._progress.superseded:
            self._batches = None  # the batches under way are given up before others are asked for
            self._begin()
        self._watch.ask()
        try:
            batch = next(self._batches)  # type: ignore[arg-type]
        except StopIteration:
            self._loader.end_epoch(self._progress)
            raise
        self._watch.hand_out(self._progress.rows_of_next())
        return batch
