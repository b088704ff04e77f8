# SPDX-License-Identifier: Apache-2.0
"""Locks that processes of one machine hold on files, which end with the process that took them.

A lock belongs to the open file. A forked child has its parent's: there it is closed at once, which
leaves it to the parent.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path

from ..common.process import PROCESS

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class HeldLocks:
    """The locks that this process holds."""

    def __init__(self) -> None:
        self.locks: weakref.WeakSet[FileLock] = weakref.WeakSet()

    def in_child(self) -> None:
        """They are the parent's."""
        for lock in list(self.locks):
            lock._forget()


class FileLock:
    """A lock on a file that is made if it is not there, and never deleted.

    Parameters
    ----------
    path : Path
        Outside of any directory that may be deleted: a lock on a deleted file excludes nobody.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None
        self._pid = os.getpid()

    @property
    def is_held(self) -> bool:
        """Whether this process holds it."""
        return self._file is not None and self._pid == os.getpid()

    def acquire(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free; whether that was so.

        Raises
        ------
        OSError
            If files cannot be locked here.
        """
        if self.is_held:
            return True
        if fcntl is None:
            raise OSError("files cannot be locked on this system")
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        except BaseException:
            os.close(file)
            raise
        self._file, self._pid = file, os.getpid()
        self._close = weakref.finalize(self, os.close, file)
        PROCESS.part(HeldLocks).locks.add(self)
        return True

    def release(self) -> None:
        """Release the lock."""
        if self.is_held:
            self._close()
        self._file = None

    def _forget(self) -> None:
        """Close the file in a forked child, which has it open beside its parent."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._close()
            self._file = None


def exclude(path: Path) -> bool:
    """Whether a lock, once taken, cannot be taken again: some network file systems only say yes.

    Raises
    ------
    OSError
        If files cannot be locked here.
    """
    first, second = FileLock(path), FileLock(path)
    try:
        return not first.acquire() or not second.acquire()
    finally:
        first.release()
        second.release()
