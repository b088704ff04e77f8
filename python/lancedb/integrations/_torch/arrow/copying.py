# SPDX-License-Identifier: Apache-2.0
"""Copies of rows, in any order, by one thread or by two.

Rows that are all over the memory are waited for one by one, and two threads wait for two at a time.
That is worth it where nothing else keeps the other core busy, as reading a table would.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

# Handing half of it to another thread costs some 50 microseconds.
_MANY_BYTES = 1 << 20


def copy_rows(rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    """Copy the rows at some places, in that order.

    Parameters
    ----------
    rows : numpy.ndarray
        Byte strings of one width.
    places : numpy.ndarray of int64
        Which.
    out : numpy.ndarray
        Where they are copied to, as many.
    """
    rows.take(places, 0, out, "clip")


def copy_by_two(rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    """As `copy_rows`, by two threads if there is much to copy."""
    half = len(places) // 2
    is_much = half and out.nbytes >= _MANY_BYTES
    other = _helper.submit(rows, places[:half], out[:half]) if is_much else None
    start = 0 if other is None else half
    copy_rows(rows, places[start:], out[start:])
    if other is not None:
        other.result()


class _Helper:
    """The other thread, of the process that first has something for it."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        # Workers share the cores with each other.
        self._is_of_use = (os.cpu_count() or 1) > 1 and multiprocessing.parent_process() is None

    def submit(self, *arguments: np.ndarray) -> Future[None] | None:
        """Have it copy; None where there is no such thread."""
        if not self._is_of_use:
            return None
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(1, "lance-copies")
        try:
            return self._pool.submit(copy_rows, *arguments)
        except RuntimeError:  # the program is about to end
            return None


def _begin() -> None:
    global _helper
    _helper = _Helper()


_begin()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)
