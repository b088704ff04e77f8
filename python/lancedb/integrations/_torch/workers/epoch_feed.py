# SPDX-License-Identifier: Apache-2.0
"""Record batches as the indices that torch's loader sends to its workers.

torch asks for an index when it has one for a worker to do, which is in the thread that trains. It
gets a ticket at once. The batch itself is waited for by the thread that sends the ticket on:
torch has one for each worker.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from ..arrow.dictionaries import own_bytes
from ..common.counters import Stats
from ..convert.transform import Failed, Output
from .batch_slots import BatchSlots, LocalBatch

if TYPE_CHECKING:
    from ..pipeline.prefetch import Prefetcher

_MOST_BYTES = 128 << 20


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
        opened: Callable[[contextlib.ExitStack], Prefetcher],
        note: Callable[[Exception, int], None],
    ):
        self.steps = steps
        self.note = note
        self._opened = opened
        self._stack = contextlib.ExitStack()
        self._stream: Prefetcher | None = None
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


class Made(NamedTuple):
    """A batch that is finished, as a worker would only copy it."""

    value: Any
    size: int


class ForWorkers(Output):
    """Record batches as they are for workers to convert, but for those of a few large values.

    To send what a worker makes of these would take several times their bytes.

    Parameters
    ----------
    output : Output, optional
        What becomes of those; None if only a worker can finish them.
    """

    is_for_workers = True

    def __init__(self, output: Output | None):
        super().__init__("arrow", None)
        self._of_large = output

    def converts_parts(self, schema: pa.Schema) -> bool:
        return self._of_large is not None and self._of_large.converts_parts(schema)

    def convert_parts(self, parts: Iterator[pa.RecordBatch], stats: Stats) -> Any:
        assert self._of_large is not None
        size = 0

        def counted() -> Iterator[pa.RecordBatch]:
            nonlocal size
            for part in parts:
                size += part.nbytes
                yield part
                del part

        value = self._of_large.convert_parts(counted(), stats)
        return value if isinstance(value, Failed) else Made(value, size)


class EpochFeed:
    """One epoch's record batches, each put where the worker that has its number finds it.

    Batches are under way until they are delivered: as many as torch asks for, but of no more bytes
    than so many of average size have, or `_MOST_BYTES` if that is more.

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
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._is_making = False
        self._made: dict[int, pa.RecordBatch | Made] = {}
        self._finished: dict[int, Any] = {}
        self._sizes: deque[int] = deque()  # of those that are under way
        self._all_bytes = 0
        self._next = 0
        self._is_closed = False
        self.error: BaseException | None = None

    def tickets(self) -> Iterator[Ticket]:
        """A ticket for each batch."""
        return (Ticket(self, number) for number in self._batches.steps)

    def put(self, number: int) -> Any:
        """Where a batch was put, once it was there; None if it could not be read."""
        try:
            batch = self._made_for(number)
            if isinstance(batch, Made):
                self._finished[number] = batch.value
                return LocalBatch(number)
            return None if batch is None else self._slots.put(number % self._under_way, batch)
        except BaseException as error:  # raised where the batch is asked for
            self.error = self.error or error
            return None

    def take_finished(self, number: int) -> Any:
        """A batch that no worker has made; it can be taken once."""
        return self._finished.pop(number)

    def note_delivered(self) -> None:
        """Note that the oldest of those under way was delivered."""
        with self._changed:
            self._sizes.popleft()
            self._changed.notify_all()

    def close(self) -> None:
        """Read no more. Whoever waits gets nothing."""
        if self._process != os.getpid():
            return  # the thread that makes the next one did not come along, and would be waited for
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._batches.cancel()
        with self._changed:
            self._changed.wait_for(lambda: not self._is_making)
            self._made.clear()
            self._finished.clear()
            self._batches.close()

    def _made_for(self, number: int) -> pa.RecordBatch | Made | None:
        """The batch of a number, once it and those before it were made, by whichever thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_over_for(number) or self._may_make)
                if self._is_over_for(number):
                    return self._made.pop(number, None)
                self._is_making = True
            self._make_next()

    def _make_next(self) -> None:
        made = error = None
        try:
            made = next(self._batches)
        except BaseException as raised:
            error = raised
        with self._changed:
            self._is_making = False
            self.error = self.error or error
            if made is not None and not self._is_closed:
                self._add(made)
            self._changed.notify_all()

    def _add(self, made: pa.RecordBatch | Made) -> None:
        size = made.size if isinstance(made, Made) else own_bytes(made)
        self._made[self._next] = made
        self._next += 1
        self._sizes.append(size)
        self._all_bytes += size

    def _is_over_for(self, number: int) -> bool:
        return self._next > number or self.error is not None or self._is_closed

    @property
    def _may_make(self) -> bool:
        """Whether nobody makes a batch, and one more like the last is not too much."""
        if self._is_making or not self._sizes:
            return not self._is_making
        average = self._all_bytes / self._next
        most = max(_MOST_BYTES, self._under_way * average)
        return sum(self._sizes) + self._sizes[-1] <= most

    def note(self, error: Exception, number: int) -> None:
        """Note on an error which rows it came from."""
        self._batches.note(error, number)


class Ticket:
    """Stands for a record batch until it is sent.

    It is pickled by the thread that sends it, and only there can the batch be waited for: here,
    unlike elsewhere, pickling waits, and fills a slot.
    """

    def __init__(self, feed: EpochFeed, number: int):
        self._feed = feed
        self._number = number

    def __reduce__(self) -> Any:
        return tuple, ((self._feed.put(self._number),),)
