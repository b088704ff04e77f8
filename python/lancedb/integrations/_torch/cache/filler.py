# SPDX-License-Identifier: Apache-2.0
"""The thread that writes the parts which are missing, while others read.

Of all processes over one cache directory, one at a time writes the parts of a table, and a process
writes those of one table at a time. Off a local disk it works at most half of the time, so that
training is not slowed down meanwhile; from an object store without a rest, as each part that is
there spares thousands of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from ..arrow.buffer_pool import release_freed
from ..common.process import PROCESS
from ..table.reader import Reader
from ..table.sources import is_in_object_store
from .cached_rows import CachedRows
from .directory import CacheDirectory, Entry
from .parts import MappedParts, write_part

_log = logging.getLogger("lancedb.integrations.torch")

# Seconds of rest for each second of work.
_REST = 1.0
_ASKED_EVERY = 1.0
_ENDS_WITHIN = 10.0
# How much is read at once of rows that differ in size.
_READ_BYTES = 4 << 20


class Fillers:
    """The fillers of this process, of which one writes at a time."""

    def __init__(self) -> None:
        self.alive: weakref.WeakSet[Filler] = weakref.WeakSet()
        self.writing = threading.Lock()

    def at_exit(self) -> None:
        """Leave no part half written where the interpreter exits."""
        until = time.monotonic() + _ENDS_WITHIN
        for filler in list(self.alive):
            filler.stop()
        for filler in list(self.alive):
            if filler.is_alive():
                filler.join(max(0.0, until - time.monotonic()))

    def in_child(self) -> None:
        """The thread that was writing is not in a forked child."""
        self.writing = threading.Lock()


class Filler(threading.Thread):
    """Writes parts until all are there, none fits any more, or the interpreter exits.

    Parameters
    ----------
    rows : CachedRows
        Of which there are to be parts.
    mapped : MappedParts
        Called with each part as soon as it is there; without it nobody needs the parts.
    say : callable of str
        Warns.
    """

    def __init__(self, rows: CachedRows, mapped: MappedParts, say: Callable[[str], None]):
        super().__init__(name="lance-cache", daemon=True)
        self._rows = rows
        self._mapped = weakref.ref(mapped, lambda _: self.stop())
        self._say = weakref.WeakMethod(say)  # type: ignore[arg-type]
        self._directory = CacheDirectory(rows.settings.directory)
        self._stopped = threading.Event()
        PROCESS.part(Fillers).alive.add(self)

    def stop(self) -> None:
        """End after the part that is being written, which is left out."""
        self._stopped.set()

    def run(self) -> None:
        entry = self._directory.entry(self._rows.key)
        try:
            while not self._stopped.is_set() and self._missing(entry):
                if entry.writing.acquire():
                    self._write_all(entry)
                    return
                self._stopped.wait(_ASKED_EVERY)
        except _Stopped:
            pass
        except FileNotFoundError as error:
            _log.debug("the cache is not filled: it was deleted: %s", error)
        except OSError as error:
            self._warn(f"no more rows are cached: {_in_words(error)}")
        except Exception as error:  # of whichever kind: the epoch says what is wrong with the table
            _log.debug("the cache is not filled: %s", error)
        finally:
            entry.writing.release()

    def _missing(self, entry: Entry) -> list[int]:
        """The parts that are wanted, and were written by nobody."""
        mapped = self._mapped()
        if mapped is None:
            return []
        mapped.set_files(entry.parts())
        there = mapped.numbers
        return [number for number in self._rows.wanted if number not in there]

    def _write_all(self, entry: Entry) -> None:
        entry.make(self._rows.about)
        reader = Reader(self._rows.recipe, self._rows.selection, self._rows.columns)
        for number in self._missing(entry):
            with self._writing_alone():
                started = time.monotonic()
                if not self._write(entry, reader, number):
                    return
                release_freed()
                self._rest(started)

    def _write(self, entry: Entry, reader: Reader, number: int) -> bool:
        """Write a part; False if it does not fit, or is of no use any more."""
        if not self._fits(self._rows.part_bytes):
            if number == self._rows.wanted[0]:
                self._warn(
                    f"not one part of {self._rows.part_bytes / 1e6:,.0f} MB fits: "
                    "free some of the disk, or give more cache_bytes"
                )
            return False
        part = write_part(entry, number, self._read(reader, number))
        mapped = self._mapped()
        if mapped is None:
            return False
        if not self._fits(0):  # its rows are larger than others
            part.path.unlink()
            return False
        mapped.add_file(part)
        return True

    @contextlib.contextmanager
    def _writing_alone(self) -> Iterator[None]:
        """While no other table's parts are written by this process."""
        writing = PROCESS.part(Fillers).writing
        while not writing.acquire(timeout=_ASKED_EVERY):
            if self._stopped.is_set():
                raise _Stopped
        try:
            yield
        finally:
            writing.release()

    def _fits(self, size: int) -> bool:
        return self._directory.free_up(size, self._rows.settings.most_bytes, self._rows.key)

    def _read(self, reader: Reader, number: int) -> Iterator[pa.RecordBatch]:
        """The rows of a part: in one batch, unless these may be much larger than others."""
        rows = self._rows
        start = number * rows.part_rows
        stop = min(start + rows.part_rows, rows.selection.num_rows)
        step = rows.part_rows
        if rows.are_cut:
            step = max(1, int(step * _READ_BYTES / max(rows.part_bytes, _READ_BYTES)))
        for begin in range(start, stop, step):
            if self._stopped.is_set():
                raise _Stopped
            wanted = np.arange(begin, min(begin + step, stop))
            yield reader.open().begin(wanted, asyncio.Semaphore(1)).in_order()

    def _rest(self, started: float) -> None:
        if not is_in_object_store(self._rows.recipe.source):
            self._stopped.wait(_REST * (time.monotonic() - started))
        if self._stopped.is_set():
            raise _Stopped

    def _warn(self, reason: str) -> None:
        say = self._say()
        if say is not None:
            say(reason)


class _Stopped(Exception):
    """Nobody needs the parts any more."""


def _in_words(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk is full ({error.strerror}); those that are there are used"
    return str(error)
