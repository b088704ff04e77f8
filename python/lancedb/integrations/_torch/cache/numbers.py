# SPDX-License-Identifier: Apache-2.0
"""A number for each row of a selection, as one part on disk: read once for all processes.

The process that asks first reads the numbers and writes them. Others that ask meanwhile wait for
it, rather than read the same column beside it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from ..table.reader import Reader
from .cached_rows import described, key_of, why_not_cached
from .directory import CacheDirectory, CacheSettings, Entry
from .disk import say
from .parts import Damaged, open_part, write_part

_LOOKED_EVERY = 0.05
# A process that has waited so long for another one reads the numbers itself.
_MOST_WAITED = 600.0


def cached_numbers(
    settings: CacheSettings, reader: Reader, made: str, read: Callable[[], np.ndarray]
) -> np.ndarray:
    """The numbers on disk, or those that are read, which are on disk from then on.

    Parameters
    ----------
    settings : CacheSettings
        Where, and how many bytes.
    reader : Reader
        Of the column that they are made of.
    made : str
        How they are made of it.
    read : callable
        Reads all of them, in the base order of the reader's selection.
    """
    rows = reader.selection.num_rows
    if rows == 0 or why_not_cached(reader) is not None:
        return read()
    about = {**described(reader, reader.selection, rows), "made": made}
    entry = CacheDirectory(settings.directory).entry(key_of(about))
    try:
        try:
            numbers = _waited_for(settings, entry, rows)
        except OSError as error:
            say(settings, f"lengths are not cached: {error}")
            return read()
        if numbers is None:
            numbers = read()
            if entry.writing.is_held:
                _write(settings, entry, about, numbers)
        return numbers
    finally:
        entry.writing.release()
        entry.reading.release()


def _waited_for(settings: CacheSettings, entry: Entry, rows: int) -> np.ndarray | None:
    """The numbers, if another process has written them; None if this one is to read them.

    It then holds the lock for writing, unless another one has held that for too long.
    """
    CacheDirectory(settings.directory).prepare()
    entry.path.mkdir(mode=0o700, exist_ok=True)
    entry.reading.acquire(shared=True)
    entry.touch()
    until = time.monotonic() + _MOST_WAITED
    while not entry.writing.acquire():
        numbers = _found(settings, entry, rows)
        if numbers is not None or time.monotonic() > until:
            return numbers
        time.sleep(_LOOKED_EVERY)
    return _found(settings, entry, rows)


def _found(settings: CacheSettings, entry: Entry, rows: int) -> np.ndarray | None:
    for part in entry.parts():
        try:
            [batch] = open_part(part, rows)
            return batch.column(0).to_numpy().copy()
        except Damaged as error:
            say(settings, f"a part is read from the table again: {error}")
            with contextlib.suppress(OSError):
                part.path.unlink()
        except OSError:  # the cache was deleted meanwhile
            continue
    return None


def _write(
    settings: CacheSettings, entry: Entry, about: dict[str, Any], numbers: np.ndarray
) -> None:
    batch = pa.record_batch([pa.array(numbers)], ["number"])
    try:
        entry.make(about)
        if CacheDirectory(settings.directory).free_up(batch.nbytes, settings.most_bytes, entry.key):
            write_part(entry, 0, [batch])
    except OSError as error:
        say(settings, f"lengths are not cached: {error}")
