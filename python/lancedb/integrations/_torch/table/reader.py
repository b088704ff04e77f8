# SPDX-License-Identifier: Apache-2.0
"""Rows of a selection, read in any process: their numbers in, a record batch out.

The handle is opened at the first read, again in every process that the reader is pickled into,
and again after a fork; it never travels.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import TypeVar

import numpy as np
import pyarrow as pa

from ..arrow import take
from ..arrow.large_rows import CountedRead, FetchedRead
from ..common.per_process import PerProcess
from ..common.timeout import within
from . import fork_guard as forking
from .fork_reader import ForkReader
from .handle import LocalRows, OwnHandle
from .indices import distinct
from .recipe import Recipe
from .selection import Selection

Handle = OwnHandle | ForkReader
T = TypeVar("T")


class Reader:
    """Reads rows of one pinned table by their place in a selection's base order.

    Parameters
    ----------
    recipe : Recipe
        How to open the table, and how long to wait for each read.
    selection : Selection
        Which rows, in base order.
    columns : mapping of str to str
        Output name -> column (or SQL expression) of the table.
    local : LocalRows, optional
        Rows of these columns that need not be read from the table.
    """

    def __init__(
        self,
        recipe: Recipe,
        selection: Selection,
        columns: Mapping[str, str],
        local: LocalRows | None = None,
    ):
        self.recipe = recipe
        self.local = local
        self.selection = selection
        self.columns = dict(columns)
        self._handle: PerProcess[Handle] = PerProcess()

    def over(self, selection: Selection) -> Reader:
        """A reader of the same columns over other rows; itself if they are the same."""
        if selection is self.selection:
            return self
        return Reader(self.recipe, selection, self.columns, self.local)

    def of(self, recipe: Recipe) -> Reader:
        """A reader of the same rows and columns by another recipe."""
        return Reader(recipe, self.selection, self.columns, self.local)

    @property
    def schema(self) -> pa.Schema:
        """The schema of every batch that `read` returns."""
        return self.handle().schema

    def open(self) -> Reader:
        """Open the handle unless this process has done so already, or anew if it failed.

        Not as a read begins: where one has failed, those ahead of it would only fail later.
        """
        self._handle.get(self._new_handle, lambda handle: not handle.is_over)
        return self

    @property
    def is_open(self) -> bool:
        """Whether this process has opened it."""
        return self._handle.known is not None

    def handle(self) -> Handle:
        """This process's handle."""
        return self._handle.get(self._new_handle)

    def _new_handle(self) -> Handle:
        kind = ForkReader if forking.came_with_a_fork() else OwnHandle
        return kind(self.recipe, self.columns, self.local)

    def read(self, rows: np.ndarray) -> pa.RecordBatch:
        """These rows of the selection, in that order; see `begin`."""
        return self.begin(rows).in_order()

    def begin(
        self,
        rows: np.ndarray,
        semaphore: asyncio.Semaphore | None = None,
        counted: CountedRead | None = None,
    ) -> PendingRead:
        """Start to read; the rows are waited for in `PendingRead`.

        A row asked for twice is read once. The offsets go to lancedb sorted, so that what is
        near in the table is read together.

        Parameters
        ----------
        rows : numpy.ndarray of int64
            In ``[0, selection.num_rows)``; checked by the caller.
        semaphore : asyncio.Semaphore, optional
            As in `OwnHandle.submit`.
        counted : CountedRead, optional
            As in `OwnHandle.submit`.
        """
        return self.begin_offsets(self.selection.offsets(rows), semaphore, counted)

    def begin_offsets(
        self, offsets: np.ndarray, semaphore: asyncio.Semaphore | None, counted: CountedRead | None
    ) -> PendingRead:
        """As `begin`, of rows by their offset in the table."""
        return PendingRead(self, *distinct(offsets), semaphore, counted)

    def begin_parts(self, offsets: np.ndarray, fetched: FetchedRead) -> PendingParts:
        """As `begin`, of rows by their offset in the table, some in each call."""
        return PendingParts(self, offsets, fetched)

    def read_blob(self, row_ids: Sequence[int], start: int, stop: int | None) -> tuple[int, bytes]:
        """As `OwnHandle.read_blob`.

        Raises
        ------
        RuntimeError
            If the storage fails, takes too long, or no longer has this blob.
        """
        what = f"the blob of row id {row_ids[0]} of {self.recipe.describe()}"
        handle = self.open().handle()
        try:
            return self.in_time(lambda handle: handle.read_blob(row_ids, start, stop), "read")
        except (RuntimeError, OSError, ValueError) as error:
            handle.give_up(is_late=False)
            raise RuntimeError(f"reading {what} failed: {explained(str(error))}") from error

    def in_time(self, call: Callable[[Handle], T], done: str) -> T:
        """What a call of the handle returns; one that takes too long is given up.

        Parameters
        ----------
        call : callable
            Called with the handle.
        done : str
            What was not done if it takes too long, as "read".
        """
        handle = self.open().handle()

        def late() -> str:
            handle.give_up(is_late=True)
            return f"not {done} within {self.recipe.limit()}"

        return within(self.recipe.timeout, lambda: call(handle), late)

    def begin_blobs(self, batch: pa.RecordBatch) -> BlobReading:
        """Start to fetch the bytes of the blobs of which a batch has row ids."""
        return BlobReading(self, batch)


class Waiting:
    """An answer of a handle that is waited for, and for how long.

    Parameters
    ----------
    reader : Reader
        Whose table it is, and how long to wait.
    """

    def __init__(self, reader: Reader):
        self.seconds = 0.0
        self._recipe = reader.recipe
        self._handle = reader.handle()
        self._future: Future[tuple[pa.RecordBatch, float]] = self._submitted(self._handle)

    def _submitted(self, handle: Handle) -> Future[tuple[pa.RecordBatch, float]]:
        raise NotImplementedError

    def _wanted(self) -> str:
        """What is read, in words."""
        raise NotImplementedError

    def _result(self) -> pa.RecordBatch:
        try:
            batch, self.seconds = self._future.result(self._recipe.timeout)
        except (NotInTime, RuntimeError, OSError, ValueError) as error:
            late = isinstance(error, NotInTime) and not self._future.done()
            self.cancel()
            self._handle.give_up(late)
            said = str(error) or type(error).__name__
            reason = f"not read within {self._recipe.limit()}" if late else said
            raise RuntimeError(self._failure(reason)) from error
        return batch

    def done(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self._future.done()

    def cancel(self) -> None:
        """Give the read up if it is still under way."""
        self._future.cancel()

    def _failure(self, reason: str) -> str:
        return f"reading {self._wanted()} of {self._recipe.describe()} failed: {explained(reason)}"


class BlobReading(Waiting):
    """Bytes that are being fetched for blobs of which there are row ids.

    Parameters
    ----------
    reader : Reader
        Whose table it is, and how long to wait.
    batch : pyarrow.RecordBatch
        With the row ids.
    """

    def __init__(self, reader: Reader, batch: pa.RecordBatch):
        self._batch = batch
        super().__init__(reader)

    def _submitted(self, handle: Handle) -> Future[tuple[pa.RecordBatch, float]]:
        return handle.submit_blobs(self._batch)

    def _wanted(self) -> str:
        return f"the blobs of {self._batch.num_rows} rows"

    def filled(self) -> pa.RecordBatch:
        """Wait for the batch, with the bytes in their columns.

        Raises
        ------
        RuntimeError
            If the storage fails, takes too long, or no longer has these blobs.
        """
        batch = self._result()
        if batch.num_rows != self._batch.num_rows:
            raise RuntimeError(self._failure(f"{batch.num_rows} blobs came back"))
        return batch


class PendingRead(Waiting):
    """Rows that are being read: ascending, and the order in which they were asked for.

    Parameters
    ----------
    reader : Reader
        Whose table it is, and how long to wait.
    offsets : numpy.ndarray of int64
        What is read, ascending.
    order : numpy.ndarray of int64, optional
        Where in `offsets` each row asked for stands; None if they were asked for so.
    semaphore : asyncio.Semaphore, optional
        As in `OwnHandle.submit`.
    counted : CountedRead, optional
        As in `OwnHandle.submit`.
    """

    def __init__(
        self,
        reader: Reader,
        offsets: np.ndarray,
        order: np.ndarray | None,
        semaphore: asyncio.Semaphore | None,
        counted: CountedRead | None,
    ):
        self.order = order
        self._offsets = offsets
        self._how = (semaphore, counted)
        super().__init__(reader)
        del self._how  # which refers to what was read

    def _submitted(self, handle: Handle) -> Future[tuple[pa.RecordBatch, float]]:
        return handle.submit(self._offsets, *self._how)

    def _wanted(self) -> str:
        ends = f" (offsets {self._offsets[0]} to {self._offsets[-1]})" if len(self._offsets) else ""
        return f"{len(self._offsets)} rows{ends}"

    def rows(self) -> pa.RecordBatch:
        """Wait for the rows, ascending by offset.

        Raises
        ------
        RuntimeError
            If the storage fails, takes too long, or no longer has these rows.
        """
        batch = self._result()
        if batch.num_rows != len(self._offsets):
            raise RuntimeError(self._failure(f"{batch.num_rows} rows came back"))
        return batch

    def in_order(self) -> pa.RecordBatch:
        """Wait for the rows, in the order in which they were asked for."""
        try:
            batch = self.rows()
        except BaseException:
            self.cancel()
            raise
        return batch if self.order is None else take.take(batch, self.order)


class PendingParts(Waiting):
    """Rows that are being read, a few in each call, in the order in which they were asked for.

    Parameters
    ----------
    reader : Reader
        Whose table it is, and how long to wait.
    offsets : numpy.ndarray of int64
        What is read.
    fetched : FetchedRead
        Collects the parts.
    """

    def __init__(self, reader: Reader, offsets: np.ndarray, fetched: FetchedRead):
        self._offsets = offsets
        self._fetched = fetched
        super().__init__(reader)

    def _submitted(self, handle: Handle) -> Future[tuple[pa.RecordBatch, float]]:
        return handle.submit(self._offsets, None, self._fetched)

    def _wanted(self) -> str:
        ends = f" (offsets {self._offsets.min()} to {self._offsets.max()})"
        return f"{len(self._offsets)} rows{ends}"

    def parts(self) -> deque[pa.RecordBatch]:
        """Wait for the rows, in parts.

        Raises
        ------
        RuntimeError
            If the storage fails, takes too long, or no longer has these rows.
        """
        self._result()
        count = sum(part.num_rows for part in self._fetched.parts)
        if count != len(self._offsets):
            raise RuntimeError(self._failure(f"{count} rows came back"))
        return self._fetched.parts


def explained(reason: str) -> str:
    """Why a read failed, and what to do about it where that is known."""
    if "v1 files" in reason:
        return (
            "it is in Lance's legacy file version, whose rows cannot be read by offset"
            "; write its rows into another table: db.create_table(new_name, table.to_arrow())"
        )
    if "not found" in reason.lower():
        return (
            f"{reason}; its files are gone: the table was dropped, or dropped and made anew (then "
            "make the dataset anew, too), or this version was cleaned up (a tag keeps a version: "
            "table.tags.create('training', version))"
        )
    return reason
