# SPDX-License-Identifier: Apache-2.0
"""Reads of a forked process, made by another process that was not forked.

The two are joined by a socket for each reader. One sends the recipe, and then lists of offsets or
vectors whose nearest rows it wants; the other answers each with a record batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.spawn
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..arrow.large_rows import CountedRead, FetchedRead
from ..arrow.stream import packed, unpacked
from ..common.error_notes import add_note
from ..common.process import PROCESS
from . import fork_guard as forking
from .handle import LocalRows, OwnHandle, empty_batch
from .nearest import Nearest
from .permutation_rows import PermutationRows
from .pylance import expected_reader
from .recipe import Recipe
from .selection import Selection

_SERVE = "import sys; from lancedb.integrations._torch.table.fork_reader import serve; serve({fd})"
_OPENS_WITHIN, _ANSWERS_WITHIN, _ENDS_WITHIN = 60.0, 5.0, 2.0
# What is asked for: rows by offset, blobs by row id, a range of a blob, the nearest of vectors,
# the rows of a permutation.
_ROWS, _BLOBS, _RANGE, _NEAREST, _CHOSEN = b"r", b"b", b"f", b"n", b"c"


class ForkReader:
    """Reads rows of a table in another process, one call at a time, in the order of the calls.

    Parameters
    ----------
    recipe : Recipe
        How to open the table.
    columns : mapping of str to str
        Output name -> column of the table.
    local : LocalRows, optional
        As for `OwnHandle`; the other process reads the table alone.

    Raises
    ------
    TypeError
        If the recipe cannot be sent.
    Exception
        Whatever is raised there where the table is opened.
    """

    scans = False
    stored_columns: list[str] = []
    stored_rows = stored_bytes = 0
    is_read_in_bulk = False
    blob_names: Collection[str] = ()

    def __init__(self, recipe: Recipe, columns: Mapping[str, str], local: LocalRows | None = None):
        try:
            asked = pickle.dumps((recipe, dict(columns)))
        except Exception as error:
            raise TypeError(
                f"{recipe.describe()} cannot be opened in a forked process: {error}. Define what "
                "connection_factory names with def at the top level of a module"
            ) from error
        self._has_failed = False
        self._calls = ThreadPoolExecutor(1, "lance-delegate")
        self._delegate, self._connection = PROCESS.part(Delegates).connect()
        self.close = weakref.finalize(self, _close, self._connection, self._delegate, self._calls)
        self.reads_by = expected_reader(recipe)
        # One that starts may take long to import lancedb, as on a busy machine.
        limit = _OPENS_WITHIN if self._delegate.has_started else None
        if not self._delegate.answers(self._connection, limit):
            self._delegate.kill()
            raise RuntimeError(
                f"opening {recipe.describe()} failed: the process that reads for this forked one "
                f"did not answer within {_OPENS_WITHIN:g} seconds; it is replaced at the next read"
            )
        self.schema: pa.Schema = self._ask(pickle.dumps((_preparation(asked), asked))).schema

    @property
    def is_over(self) -> bool:
        return self._has_failed or self._delegate.is_over

    def give_up(self, is_late: bool) -> None:
        self._has_failed = True
        if is_late and not self._connection.closed:
            self._delegate.end_call(self._connection)

    def submit(
        self,
        offsets: np.ndarray,
        semaphore: asyncio.Semaphore | None = None,
        counted: CountedRead | FetchedRead | None = None,
    ) -> Future[tuple[pa.RecordBatch, float]]:
        """As `OwnHandle.submit`; the calls wait for each other in any case."""
        return self._calls.submit(self._read, offsets, counted)

    def _read(
        self, offsets: np.ndarray, counted: CountedRead | FetchedRead | None
    ) -> tuple[pa.RecordBatch, float]:
        started = time.perf_counter()
        if counted is None:
            batch = self._call(offsets)
        else:
            for part in counted.cut(offsets):
                counted.add(self._call(part), part)
            batch = counted.batch()
        return batch, time.perf_counter() - started

    def submit_blobs(self, batch: pa.RecordBatch) -> Future[tuple[pa.RecordBatch, float]]:
        return self._calls.submit(self._fetch, batch)

    def _fetch(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, float]:
        started = time.perf_counter()
        return self._ask(_BLOBS + packed(batch).to_pybytes()), time.perf_counter() - started

    def read_blob(self, row_ids: Sequence[int], start: int, stop: int | None) -> tuple[int, bytes]:
        asked = _RANGE + pickle.dumps((row_ids, start, stop))
        (answer,) = self._calls.submit(self._ask, asked).result().to_pylist()
        return answer["size"], answer["bytes"]

    def _call(self, offsets: np.ndarray) -> pa.RecordBatch:
        return self._ask(_ROWS + offsets.astype(np.int64).tobytes())

    def nearest(self, asked: Nearest) -> pa.RecordBatch:
        """As `OwnHandle.nearest`."""
        return self._calls.submit(self._ask, _NEAREST + pickle.dumps(asked)).result()

    def chosen(self, rows: PermutationRows) -> Selection:
        """As `OwnHandle.chosen`."""
        asked = _CHOSEN + pickle.dumps(rows)
        (answer,) = self._calls.submit(self._ask, asked).result().to_pylist()
        return pickle.loads(answer["chosen"])

    def _ask(self, question: bytes) -> pa.RecordBatch:
        try:
            self._connection.send_bytes(question)
            answer = self._connection.recv()
            if isinstance(answer, _Failed):
                add_note(answer.error, answer.where)
                raise answer.error
            data = pa.allocate_buffer(answer)
            self._connection.recv_bytes_into(data)
        except (EOFError, ConnectionError) as error:
            raise RuntimeError("the process that reads for this forked one has ended") from error
        return unpacked(data)


class Delegate:
    """A process that was not forked and reads for this one, until its last reader is closed."""

    def __init__(self) -> None:
        self.readers = 0
        self.has_started = False
        self._control, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE.format(fd=theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt from the keyboard is not for it
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or was asked to."""
        return self._control.closed or self._process.poll() is not None

    def connect(self) -> Connection:
        """A connection to a thread of it."""
        ours, theirs = multiprocessing.Pipe()
        with theirs, contextlib.suppress(OSError):  # the first question will fail
            send_handle(self._control, theirs.fileno(), self._process.pid)
        return ours

    def answers(self, connection: Connection, seconds: float | None) -> bool:
        """Whether the thread of a new connection says so in time, or that it has ended."""
        if connection.poll(seconds):
            with contextlib.suppress(EOFError, ConnectionError):  # as the first question will say
                connection.recv_bytes()
            self.has_started = True
            return True
        return False

    def end_call(self, connection: Connection) -> None:
        """End the call that a connection waits for, and all others if the process is stuck."""
        with self.connect() as another:
            is_stuck = not self.answers(another, _ANSWERS_WITHIN)
        if is_stuck:
            self.kill()
        with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Have it end once its readers have."""
        self._control.close()

    def wait(self) -> None:
        """Wait for its end, and end it in the middle of a read if that takes long."""
        try:
            self._process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()


class Delegates:
    """The one delegate of this process, whatever it reads."""

    def __init__(self) -> None:
        self.in_child()

    def in_child(self) -> None:
        """A process that is forked off has none yet."""
        self._latest: Delegate | None = None
        self._lock = threading.RLock()  # garbage that is collected meanwhile may include a reader

    def connect(self) -> tuple[Delegate, Connection]:
        """A connection to the delegate, for one reader more."""
        with self._lock:
            delegate = self._latest or Delegate()
            delegate.readers += 1  # so that it does not end now
            if delegate.is_over:
                delegate = Delegate()
                delegate.readers = 1
            self._latest = delegate
        try:
            return delegate, delegate.connect()
        except BaseException:
            self.leave(delegate)
            raise

    def leave(self, delegate: Delegate) -> None:
        """End it if this was the last of its readers."""
        with self._lock:
            delegate.readers -= 1
            is_last = not delegate.readers
            if is_last:
                delegate.close()
        if is_last:
            delegate.wait()


def serve(fd: int) -> None:
    """Answer each reader of another process in a thread, until that process is gone."""
    control, opening = Connection(fd), threading.Lock()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            connection = Connection(recv_handle(control))
            threading.Thread(target=_serve, args=(connection, opening)).start()


def _serve(connection: Connection, opening: threading.Lock) -> None:
    """Open the table that is asked for, and read until nobody asks any more."""
    with connection, contextlib.suppress(EOFError, ConnectionError):
        connection.send_bytes(b".")  # so that who asks can tell that this process is not stuck
        try:
            preparation, asked = pickle.loads(connection.recv_bytes())
            with opening, forking.importing_main():
                multiprocessing.spawn.prepare(preparation)
            handle = OwnHandle(*pickle.loads(asked))
        except Exception as error:
            return _fail(connection, error)
        _succeed(connection, empty_batch(handle.schema))
        while True:
            question = connection.recv_bytes()
            try:
                batch = _answer(handle, question[:1], memoryview(question)[1:])
            except Exception as error:
                _fail(connection, error)
            else:
                _succeed(connection, batch)


def _answer(handle: OwnHandle, kind: bytes, asked: memoryview) -> pa.RecordBatch:
    if kind == _ROWS:
        return handle.submit(np.frombuffer(asked, np.int64)).result()[0]
    if kind == _BLOBS:
        return handle.submit_blobs(unpacked(pa.py_buffer(asked))).result()[0]
    if kind == _NEAREST:
        return handle.nearest(pickle.loads(asked))
    if kind == _CHOSEN:
        chosen = pickle.dumps(handle.chosen(pickle.loads(asked)))
        return pa.record_batch({"chosen": pa.array([chosen], pa.large_binary())})
    size, data = handle.read_blob(*pickle.loads(asked))
    return pa.record_batch({"size": [size], "bytes": pa.array([data], pa.large_binary())})


def _preparation(asked: bytes) -> dict[str, Any]:
    """What multiprocessing passes to a new process; the main module only if a recipe needs it."""
    data = multiprocessing.spawn.get_preparation_data("lance-reader")
    names = ("sys_path", "sys_argv", "orig_dir", "dir")
    if b"__main__" in asked:
        names = (*names, "init_main_from_name", "init_main_from_path")
    return {name: data[name] for name in names if name in data}


def _succeed(connection: Connection, batch: pa.RecordBatch) -> None:
    data = packed(batch)
    connection.send(data.size)
    connection.send_bytes(data)


class _Failed(NamedTuple):
    """An error that is sent in place of rows."""

    error: Exception
    where: str


def _fail(connection: Connection, error: Exception) -> None:
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    where = f"in the process that reads for this forked one:\n{''.join(lines)}"
    connection.send(_Failed(_sendable(error), where))


def _sendable(error: Exception) -> Exception:
    """The error, or one that says the same if it cannot be restored from its pickle.

    That is so if its constructor takes other arguments than it passes to Exception.
    """
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # of any kind: what runs is the error's own code
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


def _close(connection: Connection, delegate: Delegate, calls: ThreadPoolExecutor) -> None:
    """Give up the calls that wait, and have nobody answer any more."""
    calls.shutdown(wait=False, cancel_futures=True)
    connection.close()
    PROCESS.part(Delegates).leave(delegate)
