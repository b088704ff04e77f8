# SPDX-License-Identifier: Apache-2.0
"""Memory for the rows of open windows: taken in segments, freed, and used again.

New pages are dear: the kernel zeroes each, and under virtualisation the host maps it too. What
one window has freed is the next one's memory, in this epoch and in those after it.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable

import numpy as np
import pyarrow as pa

# Parts of a window, so that its memory is freed little by little.
SEGMENTS = 4
_HUGE_PAGE = 2 << 20
_MOST_REUSED = (32 << 20) - (64 << 10)  # 32 MB with malloc's own bytes


class WindowMemory:
    """Memory for rows, in segments of `segment_rows` each, one array over all for every column.

    A row has the same place in each column's array, so that one list of places picks rows out of
    all columns. It grows to what is in use at once and stays so.

    Parameters
    ----------
    segment_rows : int
        Rows of a segment.
    segments : int
        How many to expect: address space that costs nothing until it is used.
    """

    def __init__(self, segment_rows: int, segments: int = 1):
        self.segment_rows = segment_rows
        self._segments = segments
        self._free = list(range(segments))[::-1]
        self._columns: dict[tuple[int, int], np.ndarray] = {}

    def take(self) -> int:
        """The number of a segment that is free; its content is old."""
        if not self._free:
            self._grow()
        return self._free.pop()

    def free(self, segment: int) -> None:
        """Free a segment, to be used again; nobody may look at it any more."""
        self._free.append(segment)

    def rows(self, column: int, row_bytes: int) -> np.ndarray:
        """All segments of a column, as byte strings of `row_bytes` each; good until one is taken.

        Segment k has the rows from ``k * segment_rows`` on.
        """
        rows = self._columns.get((column, row_bytes))
        if rows is None:
            rows = new_rows(self._segments * self.segment_rows, row_bytes)
            self._columns[column, row_bytes] = rows
        return rows

    def _grow(self) -> None:
        old, self._segments = self._segments, 2 * self._segments
        self._free = list(range(old, self._segments))[::-1]
        for (column, row_bytes), rows in self._columns.items():
            larger = new_rows(self._segments * self.segment_rows, row_bytes)
            larger[: len(rows)] = rows
            self._columns[column, row_bytes] = larger


def new_rows(count: int, row_bytes: int) -> np.ndarray:
    """Memory for `count` rows, as byte strings of `row_bytes` each."""
    return np.frombuffer(_new_pages(max(1, count) * row_bytes), f"V{row_bytes}", count)


def release_freed() -> None:
    """Release to the system what large objects were freed of: allocators reserve it, by thread.

    Some milliseconds: for rows of megabytes.
    """
    pa.default_memory_pool().release_unused()
    if _TRIM is not None:
        _TRIM(0)


def keep_freed(size: int) -> None:
    """Have the system's allocator keep for itself what is freed, if it does not yet.

    By default glibc maps a large block anew each time, and releases what is free at the end of an
    arena, so that reads that end together have the pages of the next ones made once more. Both
    begin above a size that follows the largest block ever freed, up to 32 MB (mallopt(3)), which
    one of `size` bytes is here, without a page of it being used.
    """
    np.empty(min(size, _MOST_REUSED), np.uint8)


def _malloc_trim() -> Callable[[int], int] | None:
    """The C library's function for it; only glibc has one."""
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):
        return None


_TRIM = _malloc_trim()


def _new_pages(size: int) -> mmap.mmap:
    """Memory of this process alone, in huge pages where the system has them."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= _HUGE_PAGE:
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages
