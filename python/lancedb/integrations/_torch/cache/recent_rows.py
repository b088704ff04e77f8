# SPDX-License-Identifier: Apache-2.0
"""The rows that were read last, by offset, up to a number of bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ..arrow import take


class RecentRows:
    """Rows that are asked for again and again, as those of a popular key are.

    What one read brought is one batch, with those of its rows that were here before, which are
    newly used. The oldest batch goes first.

    Parameters
    ----------
    most_bytes : int
        Arrow bytes of all batches; 0 for no cache.
    """

    def __init__(self, most_bytes: int):
        self._most = most_bytes
        self._batches: dict[int, tuple[pa.RecordBatch, np.ndarray]] = {}
        self._places: dict[int, tuple[int, int]] = {}
        self._bytes = self._newest = 0
        self._lock = threading.Lock()

    def read(
        self, offsets: np.ndarray, read: Callable[[np.ndarray], pa.RecordBatch]
    ) -> pa.RecordBatch:
        """The rows at some offsets, distinct and ascending; `read` brings those that are not here.

        They may be memory of this cache: to change values, copy them first.
        """
        if not self._most:
            return read(offsets)
        parts, places = self._found(offsets)
        missing = np.setdiff1d(np.arange(len(offsets)), np.concatenate([[], *places]))
        if len(missing) or not parts:
            parts.append(read(offsets[missing]))
            places.append(missing)
        batch = take.concatenate(parts)
        if len(parts) > 1:
            batch = take.take(batch, np.argsort(np.concatenate(places)))
        self._add(batch, offsets)
        return batch

    def _found(self, offsets: np.ndarray) -> tuple[list[pa.RecordBatch], list[np.ndarray]]:
        """Rows that are here, from each batch that has some, and which of those asked for."""
        with self._lock:
            found: dict[int, tuple[list[int], list[int]]] = {}
            for place, offset in enumerate(offsets.tolist()):
                if offset in self._places:
                    number, row = self._places[offset]
                    rows, at = found.setdefault(number, ([], []))
                    rows.append(row)
                    at.append(place)
            batches = [self._batches[number][0] for number in found]
        rows = [np.array(rows) for rows, _ in found.values()]
        return list(map(take.take, batches, rows)), [np.array(at) for _, at in found.values()]

    def _add(self, batch: pa.RecordBatch, offsets: np.ndarray) -> None:
        if batch.nbytes > self._most:
            return
        with self._lock:
            self._newest += 1
            self._batches[self._newest] = (batch, offsets)
            self._places.update(
                (offset, (self._newest, row)) for row, offset in enumerate(offsets.tolist())
            )
            self._bytes += batch.nbytes
            while self._bytes > self._most:
                self._drop(next(iter(self._batches)))

    def _drop(self, number: int) -> None:
        batch, offsets = self._batches.pop(number)
        self._bytes -= batch.nbytes
        for offset in offsets.tolist():
            if self._places[offset][0] == number:
                del self._places[offset]
