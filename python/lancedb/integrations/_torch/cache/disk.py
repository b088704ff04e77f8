# SPDX-License-Identifier: Apache-2.0
"""Rows of a dataset on this machine's disk, decoded, shared by all processes that read them.

A process maps the parts that are there, and takes rows out of them; the table has the rest. In the
background one process at a time writes the parts that are missing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from typing import Any

import numpy as np
import pyarrow as pa

from ..common.process import PROCESS
from ..table.reader import Reader
from ..table.selection import AllRows
from .cached_rows import CachedRows, cached_rows
from .directory import CacheDirectory, CacheSettings, Entry
from .filler import Filler
from .parts import Damaged, MappedParts

_log = logging.getLogger("lancedb.integrations.torch")

# How often a process looks for parts that others have written.
_LOOKED_EVERY = 1.0


class Said(set[str]):
    """The warnings that this process has given."""


class DiskCache:
    """The rows of a dataset that are on disk: a copy in another process begins with none mapped.

    Parameters
    ----------
    rows : CachedRows
        Which.
    """

    def __init__(self, rows: CachedRows):
        self._rows = rows
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._entry: Entry | None = None
        self._mapped = MappedParts(self._rows.part_rows, self._rows.selection.num_rows)
        self._offsets: np.ndarray | None = None
        self._filler: Filler | None = None
        self._is_off = False
        self._looked = 0.0
        self._count = 0
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple:
        return DiskCache, (self._rows,)

    @property
    def directory(self) -> str:
        """The cache directory."""
        return self._rows.settings.directory

    def fill(self, again: bool = False) -> None:
        """Begin to write the parts that are missing, in the background.

        Parameters
        ----------
        again : bool
            Also where this process has done so before, and they are missing all the same.
        """
        if self._pid == os.getpid() and self._filler is not None and not again:
            return
        if not self._opened() or self.is_complete:
            return
        with self._lock:  # several threads may find at once that something is missing
            if not self._is_filling:
                self._filler = Filler(self._rows, self._mapped, self._say)
                self._filler.start()

    def wait(self) -> None:
        """Wait until nothing is being written by this process."""
        if self._filler is not None:
            self._filler.join()

    @property
    def is_complete(self) -> bool:
        """Whether all parts that the dataset needs are there, as far as is known."""
        if not self._opened():
            return False
        return self._mapped.is_known(self._rows.wanted)

    def find(self, offsets: np.ndarray) -> tuple[np.ndarray, pa.RecordBatch] | None:
        """The rows that are here.

        Parameters
        ----------
        offsets : numpy.ndarray of int64
            Offsets in the table, ascending.

        Returns
        -------
        (numpy.ndarray of bool, pyarrow.RecordBatch), optional
            Which of them, and their rows. None if it is none of them.
        """
        if not self._opened():
            return None
        places = self._places(offsets)
        here = self._are_mapped(places)
        if not here.any():
            return None
        return here, self._taken(places[here])

    def take(self, offsets: np.ndarray) -> pa.RecordBatch | None:
        """Rows by their offset in the table, in that order; None if one of them is not here."""
        if not self.is_complete:
            return None
        places = self._places(offsets)
        return self._taken(places) if self._are_mapped(places).all() else None

    def take_count(self) -> int:
        """How many rows were taken since the last call."""
        count, self._count = self._count, 0
        return count

    def _taken(self, places: np.ndarray) -> pa.RecordBatch:
        self._count += len(places)
        return self._mapped.take(places)

    def _places(self, offsets: np.ndarray) -> np.ndarray:
        """Where rows stand among those that have parts; -1 for those that have none."""
        if isinstance(self._rows.selection, AllRows):
            return offsets
        if self._offsets is None:
            selection = self._rows.selection
            self._offsets = selection.offsets(np.arange(selection.num_rows))
        places = np.minimum(np.searchsorted(self._offsets, offsets), len(self._offsets) - 1)
        return np.where(self._offsets[places] == offsets, places, -1)

    def _are_mapped(self, places: np.ndarray) -> np.ndarray:
        numbers = places // self._rows.part_rows  # -1 for -1
        there = np.zeros(self._mapped.num_parts + 1, bool)
        wanted = np.flatnonzero(np.bincount(numbers[numbers >= 0]))
        try:
            there[wanted] = self._mapped.there(wanted)
        except Damaged as error:
            self._say(f"a part is read from the table again: {error}")
            self.fill(again=True)
            return self._are_mapped(places)
        return there[numbers]

    @property
    def _is_filling(self) -> bool:
        return self._filler is not None and self._filler.is_alive()

    def _opened(self) -> bool:
        """Whether there is a directory, once it was looked for."""
        if self._pid != os.getpid():
            self._begin()
        now = time.monotonic()
        if self._entry is not None and (now - self._looked < _LOOKED_EVERY or self._is_filling):
            return True
        with self._lock:
            if not self._is_off:
                self._looked = now
                self._look()
            return self._entry is not None

    def _look(self) -> None:
        """See which parts are there, having others leave them there."""
        directory = CacheDirectory(self.directory)
        try:
            if self._entry is None or not self._entry.path.is_dir():
                directory.prepare()
                self._entry = entry = directory.entry(self._rows.key)
                entry.path.mkdir(mode=0o700, exist_ok=True)
                entry.reading.acquire(shared=True)
                entry.touch()
            self._mapped.set_files(self._entry.parts())
        except OSError as error:
            self._entry, self._is_off = None, True
            self._say(f"rows are not cached: {error}")

    def _say(self, reason: str) -> None:
        say(self._rows.settings, reason)


def disk_cache(settings: CacheSettings, reader: Reader, names_columns: bool) -> DiskCache | None:
    """What of a reader's rows is on disk; None, with a word about it, if none can be.

    Parameters
    ----------
    settings : CacheSettings
        Where, and how many bytes.
    reader : Reader
        Reads the rows.
    names_columns : bool
        Whether its columns were named one by one.
    """
    rows = cached_rows(settings, reader, names_columns)
    if isinstance(rows, CachedRows):
        return DiskCache(rows)
    say(settings, f"no rows of {reader.recipe.describe()} are cached: {rows}")
    return None


def say(settings: CacheSettings, reason: str) -> None:
    """Warn once if a cache was asked for; log it where only the environment names one."""
    message = f"cache_dir={settings.directory!r}: {reason}"
    said = PROCESS.part(Said)
    if message in said:
        return
    said.add(message)
    if settings.is_asked_for:
        warnings.warn(message, stacklevel=2)
    else:
        _log.debug(message)


class MappedTable:
    """All rows of a selection, out of the parts on disk.

    Parameters
    ----------
    disk : DiskCache
        Complete.
    reader : Reader
        Reads the rows of parts that turn out to be gone or damaged.
    """

    is_loaded = True

    def __init__(self, disk: DiskCache, reader: Reader):
        self._disk = disk
        self.reader = reader

    def load(self, begin: Any, finish: Any, ahead: int) -> bool:
        """As `CachedTable.load`: the rows are there."""
        return True

    def take(self, rows: np.ndarray) -> pa.RecordBatch:
        """Some rows of the selection, in that order."""
        taken = self._disk.take(self.reader.selection.offsets(rows))
        return self.reader.read(rows) if taken is None else taken
