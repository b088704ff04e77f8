# SPDX-License-Identifier: Apache-2.0
"""Knows memory for the rows of open windows: taken in segments, given back, and used again.

New pages are dear: the kernel zeroes each, and under virtualisation the host maps it too. What
one window gave back is the next one's memory, in this epoch and in those after it.
"""

from __future__ import annotations

import mmap

import numpy as np

_SLAB_BYTES = 2 << 20


def segment_size(window_rows: int) -> int:
    """Rows of a segment: an eighth of a window, so that it is given back little by little."""
    return max(1, -(-window_rows // 8))


class WindowMemory:
    """Segments of `segment_rows` rows each, for rows of any width.

    It grows to what is in use at once and stays so. Several streams may share one.
    """

    def __init__(self, segment_rows: int):
        self.segment_rows = segment_rows
        self._free: dict[int, list[np.ndarray]] = {}

    def take(self, row_bytes: int) -> np.ndarray:
        """A segment, as an array of byte strings of `row_bytes` each; its content is old."""
        free = self._free.setdefault(row_bytes, [])
        try:
            return free.pop()
        except IndexError:
            first, *others = self._new_segments(row_bytes)
            free.extend(others)
            return first

    def give_back(self, segment: np.ndarray) -> None:
        """Let a segment be used again; nobody may look at it any more."""
        self._free[segment.dtype.itemsize].append(segment)

    def _new_segments(self, row_bytes: int) -> list[np.ndarray]:
        size = self.segment_rows * row_bytes
        slab = _new_pages(-(-size // _SLAB_BYTES) * _SLAB_BYTES)
        rows = np.frombuffer(slab, f"V{row_bytes}", len(slab) // size * self.segment_rows)
        return np.split(rows, len(rows) // self.segment_rows)


def _new_pages(size: int) -> mmap.mmap:
    """Memory of this process alone, in huge pages where the system has them."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages
