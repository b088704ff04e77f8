# SPDX-License-Identifier: Apache-2.0
"""Copies of rows, in any order, by one thread or by two.

Rows that are all over the memory are waited for one by one, and two threads wait for two at a time.
That is worth it where nothing else keeps the other core busy, as reading a table would.
"""

from __future__ import annotations

import _thread
import multiprocessing
import os
import threading

import numpy as np

# A thread costs some 50 microseconds.
_MANY_BYTES = 1 << 20


def _has_a_core_to_spare() -> bool:
    """Not in workers, forked ones too: they share the cores with each other."""
    return (os.cpu_count() or 1) > 1 and multiprocessing.parent_process() is None


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
    """As `copy_rows`, by two threads if there is much to copy: no thread is left of it."""
    half = len(places) // 2
    done: list[bool] = []
    is_over = threading.Lock()

    def copy_first_half() -> None:
        try:
            copy_rows(rows, places[:half], out[:half])
            done.append(True)
        finally:
            is_over.release()

    if half and out.nbytes >= _MANY_BYTES and _has_a_core_to_spare():
        is_over.acquire()
        try:
            # Not `Thread.start`, which waits until the other thread has had Python's lock.
            _thread.start_new_thread(copy_first_half, ())
        except RuntimeError:
            pass  # the program is about to end: one thread will do
        else:
            copy_rows(rows, places[half:], out[half:])
            is_over.acquire()
    if not done:
        copy_rows(rows, places, out)
