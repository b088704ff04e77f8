# SPDX-License-Identifier: Apache-2.0
"""The cache directory: what is in it, how large it is, and what goes when it is full.

::

    <dir>/<key>/about.json          which rows of which table these are, for people
    <dir>/<key>/000012-8f3a01c2.arrow   part 12, and the crc32 of its file
    <dir>/locks/<key>.writing       held by the one process that adds parts
    <dir>/locks/<key>.reading       held by every process that reads them
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .locks import FileLock, exclude

VARIABLE = "LANCEDB_TORCH_CACHE_DIR"

_KEY = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"(\d{6,})-([0-9a-f]{8})\.arrow")
_ABOUT = "about.json"
_LOCKS = "locks"
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_UNITS = "kmgt"
# The share of the disk that is left free unless a size is given.
_LEFT_FREE = 0.1


class CacheSettings(NamedTuple):
    """Settings of a cache on disk: where its rows are, and how many bytes of them.

    Parameters
    ----------
    directory : str
        Absolute.
    most_bytes : int, optional
        Of all files in it; None for what leaves a tenth of the disk free.
    is_asked_for : bool
        Whether it was given as an argument: then obstacles are worth a warning.
    """

    directory: str
    most_bytes: int | None
    is_asked_for: bool


class PartFile(NamedTuple):
    """A part by what its file's name says."""

    path: Path
    number: int
    crc32: int


def cache_settings(cache_dir: Any, cache_bytes: Any) -> CacheSettings | None:
    """What `cache_dir`, `cache_bytes` and the environment say; None for no cache on disk.

    Raises
    ------
    TypeError, ValueError
        If one of them is none of what it may be.
    """
    most_bytes = None if cache_bytes is None else parse_bytes(cache_bytes)
    given = cache_dir if cache_dir is not None else os.environ.get(VARIABLE) or None
    if given is None:
        if most_bytes is not None:
            raise ValueError(f"cache_bytes needs cache_dir, or {VARIABLE} in the environment")
        return None
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"cache_dir must be the path of a directory, not {cache_dir!r}")
    directory = os.path.abspath(os.path.expanduser(os.fspath(given)))
    return CacheSettings(str(directory), most_bytes, cache_dir is not None)


def parse_bytes(size: Any) -> int:
    """A number of bytes, or a string such as "500GB", as an int.

    Raises
    ------
    ValueError
        If it is no size above 0.

    Examples
    --------
    >>> parse_bytes("1.5 GB"), parse_bytes("64MiB"), parse_bytes(1e6)
    (1500000000, 67108864, 1000000)
    """
    found = None
    if isinstance(size, str) and (match := _SIZE.fullmatch(size)):
        number, unit, binary = match.groups()
        power = 0 if not unit else _UNITS.index(unit.lower()) + 1
        found = int(float(number) * (1024 if binary else 1000) ** power)
    elif isinstance(size, (int, float)) and not isinstance(size, bool) and size < float("inf"):
        found = int(size)
    if found is None or found < 1:
        raise ValueError(f"cache_bytes must be a size above 0 such as '500GB', not {size!r}")
    return found


class CacheDirectory:
    """A cache directory.

    Parameters
    ----------
    path : str or Path
        Where it is.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def prepare(self) -> None:
        """Make it, and see whether files in it can be locked.

        Raises
        ------
        OSError
            If it cannot be written, or locks do not exclude others.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.path / _LOCKS).mkdir(mode=0o700, exist_ok=True)
        if not exclude(self.path / _LOCKS / "test"):
            raise OSError("its file system lets two processes take the same lock")

    def entry(self, key: str) -> Entry:
        """The rows of a key, which may have none yet."""
        return Entry(self.path, key)

    def entries(self) -> list[Entry]:
        """All that are there."""
        try:
            names = sorted(os.listdir(self.path))
        except OSError:
            return []
        return [Entry(self.path, name) for name in names if _KEY.fullmatch(name)]

    def free_up(self, wanted: int, most_bytes: int | None, own: str) -> bool:
        """Have so many more bytes fit, deleting what no process uses; False if they do not.

        Parameters
        ----------
        wanted : int
            Bytes that are to be written.
        most_bytes : int, optional
            What all may have; None for what leaves a tenth of the disk free.
        own : str
            The key they are for, whose parts stay.
        """
        missing = self._missing(wanted, most_bytes)
        others = [entry for entry in self.entries() if entry.key != own] if missing > 0 else []
        for entry in sorted(others, key=Entry.last_used):
            if missing <= 0:
                break
            if entry.delete_unless_used():
                missing = self._missing(wanted, most_bytes)
        return missing <= 0

    def _missing(self, wanted: int, most_bytes: int | None) -> int:
        disk = shutil.disk_usage(self.path)
        spare = disk.free - int(disk.total * _LEFT_FREE)
        if most_bytes is not None:
            spare = most_bytes - sum(entry.size() for entry in self.entries())
        return wanted - spare


class Entry:
    """The parts of some columns and rows of one table version, in a directory of their own."""

    def __init__(self, directory: Path, key: str):
        self.key = key
        self.path = directory / key
        self.writing = FileLock(directory / _LOCKS / f"{key}.writing")
        self.reading = FileLock(directory / _LOCKS / f"{key}.reading")

    def parts(self) -> Iterator[PartFile]:
        """The parts that are whole."""
        for name in self._names():
            if match := _PART.fullmatch(name):
                yield PartFile(self.path / name, int(match[1]), int(match[2], 16))

    def part_path(self, number: int, crc32: int) -> Path:
        """Where a part of which the crc32 is known belongs."""
        return self.path / f"{number:06}-{crc32:08x}.arrow"

    def unfinished_path(self, number: int) -> Path:
        """Where this process writes a part, while it holds the lock for writing."""
        return self.path / f"{number:06}.{os.getpid()}.unfinished"

    def make(self, about: dict[str, Any]) -> None:
        """Make the directory, and delete what a process that ended early has left there."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        for name in self._names():
            if name.endswith(".unfinished"):
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()
        file = os.open(self.path / _ABOUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(file, "w") as stream:
            json.dump(about, stream, indent=1)

    def about(self) -> dict[str, Any]:
        """What `make` was given; empty if that cannot be read."""
        try:
            found = json.loads((self.path / _ABOUT).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def size(self) -> int:
        """Bytes of all its files."""
        total = 0
        for name in self._names():
            with contextlib.suppress(OSError):
                total += (self.path / name).stat().st_size
        return total

    def touch(self) -> None:
        """Note that it is used now."""
        with contextlib.suppress(OSError):
            os.utime(self.reading.path)

    def last_used(self) -> float:
        """When it was used last; 0 if that is not known."""
        try:
            return self.reading.path.stat().st_mtime
        except OSError:
            return 0.0

    def is_used(self) -> bool:
        """Whether a process reads it."""
        lock = FileLock(self.reading.path)
        try:
            return not lock.acquire()
        except OSError:
            return False
        finally:
            lock.release()

    def delete_unless_used(self) -> bool:
        """Delete the directory if no process reads or writes it; whether that was so."""
        reading, writing = FileLock(self.reading.path), FileLock(self.writing.path)
        try:
            if not (reading.acquire() and writing.acquire()):
                return False
            self.delete()
            return not self.path.exists()
        except OSError:
            return False
        finally:
            reading.release()
            writing.release()

    def delete(self) -> None:
        """Delete the directory; processes that have mapped its files still have their rows."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.path))
        except OSError:
            return []
