# SPDX-License-Identifier: Apache-2.0
"""Record batches as the indices that torch's loader sends to its workers.

torch asks for an index when it has one for a worker to do, which is in the thread that trains. It
is given a ticket at once. The batch itself is waited for by the thread that sends the ticket on:
torch has one for each worker.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pyarrow as pa

from .batch_slots import BatchSlots


class Prefetched(Protocol):
    """What reads ahead."""

    def batches(self) -> Any:
        """A generator of record batches; closing it ends all that is under way."""
        ...

    def cancel(self) -> None:
        """Give up every read; whoever waits for a batch waits no longer."""
        ...


class RecordBatches:
    """The record batches of one rank's steps, in order; read from when the first is asked for.

    Parameters
    ----------
    steps : iterator of int
        Their numbers, one after the other.
    opened : callable
        Begins to read ahead; what it enters into the stack ends with the batches.
    note : callable
        Notes on an error which rows of which step it came from.
    """

    def __init__(
        self,
        steps: Iterator[int],
        opened: Callable[[contextlib.ExitStack], Prefetched],
        note: Callable[[Exception, int], None],
    ):
        self.steps = steps
        self.note = note
        self._opened = opened
        self._stack = contextlib.ExitStack()
        self._stream: Prefetched | None = None
        self._batches: Any = None
        self._made = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            if self._batches is None:
                self._stream = self._opened(self._stack)
                self._batches = self._stack.enter_context(
                    contextlib.closing(self._stream.batches())
                )
            batch = next(self._batches)
        except Exception as error:
            self.note(error, self._made)
            raise
        self._made += 1
        return batch

    def cancel(self) -> None:
        """Have whoever waits for the next one wait no longer."""
        if self._stream is not None:
            self._stream.cancel()

    def close(self) -> None:
        """End all that is under way; nobody may be waiting."""
        self._stack.close()


class EpochFeed:
    """One epoch's record batches, each put where the worker that has its number finds it.

    Parameters
    ----------
    batches : RecordBatches
        Those of the steps, in order.
    slots : BatchSlots
        Where they are put.
    under_way : int
        How many may be with workers. torch asks for one more only when the result of the oldest
        was delivered, so that its slot is free.
    """

    def __init__(self, batches: RecordBatches, slots: BatchSlots, under_way: int):
        self._batches = batches
        self._slots = slots
        self._under_way = under_way
        self._lock = threading.Lock()
        self._made: dict[int, pa.RecordBatch] = {}
        self._next = 0
        self._is_closed = False
        self.error: BaseException | None = None

    def tickets(self) -> Iterator[Ticket]:
        """A ticket for each batch."""
        return (Ticket(self, number) for number in self._batches.steps)

    def put(self, number: int) -> Any:
        """Where a batch was put, once it was there; None if it could not be read."""
        try:
            with self._lock:
                while self._next <= number and self.error is None and not self._is_closed:
                    self._made[self._next] = next(self._batches)
                    self._next += 1
                batch = self._made.pop(number, None)
            return None if batch is None else self._slots.put(number % self._under_way, batch)
        except BaseException as error:  # raised where the batch is asked for
            self.error = self.error or error
            return None

    def close(self) -> None:
        """Read no more. Whoever waits is given nothing."""
        self._is_closed = True
        self._batches.cancel()
        with self._lock:
            self._made.clear()
            self._batches.close()

    def note(self, error: Exception, number: int) -> None:
        """Note on an error which rows it came from."""
        self._batches.note(error, number)


class Ticket:
    """Stands for a record batch until it is sent."""

    def __init__(self, feed: EpochFeed, number: int):
        self._feed = feed
        self._number = number

    def __reduce__(self) -> Any:
        return tuple, ((self._feed.put(self._number),),)
