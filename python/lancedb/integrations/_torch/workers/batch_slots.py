# SPDX-License-Identifier: Apache-2.0
"""Memory in which record batches reach worker processes, a slot for each batch under way.

It is made before the workers are, so that nothing has to be passed on with a batch but where it
is. Beside a pipe it saves five copies, and beside shared memory of its own for each batch half a
millisecond and what is left behind where a worker dies. It is in no file system: the size of
``/dev/shm`` does not bound it.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..arrow.dictionaries import compacted
from ..arrow.stream import packed, unpacked

# Beside its rows a message has a schema and where each buffer is.
_MOST_OVERHEAD = 64 << 10
_PAGE = mmap.ALLOCATIONGRANULARITY


class _Slot(NamedTuple):
    offset: int
    size: int
    memory: mmap.mmap


class LocalBatch(NamedTuple):
    """Stands in a worker for a batch that the loader has finished itself."""

    number: int


class BatchSlots:
    """Slots of a memory that grows with what is put into them."""

    def __init__(self) -> None:
        self._begin(os.memfd_create("lance-batches") if _has_memfd() else None)

    def _begin(self, file: int | None) -> None:
        self._file = file
        self._size = 0
        self._slots: dict[int, _Slot] = {}
        self._lock = threading.Lock()  # several threads put batches, each into slots of its own
        if file is not None:
            weakref.finalize(self, os.close, file).atexit = False

    def __reduce__(self) -> Any:
        return _reopen, (None if self._file is None else DupFd(self._file),)

    def put(self, number: int, batch: pa.RecordBatch) -> Any:
        """Put a batch into a slot, in place of the one before; what `get` finds it by."""
        if self._file is None:
            return packed(compacted(batch)).to_pybytes()
        batch = compacted(batch)
        least = batch.nbytes + _MOST_OVERHEAD
        slot = self._slots.get(number)
        if slot is None or not least <= slot.size <= 8 * least:
            slot = self._resize(number, least)
        try:
            return slot.offset, _write(batch, slot.memory)
        except pa.ArrowInvalid:  # more than its rows: buffers that are shared by many slices
            slot = self._resize(number, _size_of(batch) + _MOST_OVERHEAD)
            return slot.offset, _write(batch, slot.memory)

    def get(self, place: Any, copy: bool) -> pa.RecordBatch:
        """The batch that was put in a place: as it lies there, until the slot is used again, or
        a copy."""
        if isinstance(place, bytes):
            return unpacked(pa.py_buffer(place))
        assert self._file is not None
        offset, size = place
        shared = mmap.mmap(self._file, size, offset=offset)
        if not copy:
            return unpacked(pa.py_buffer(shared))
        own = pa.allocate_buffer(size)
        with shared:
            np.frombuffer(own, np.uint8)[:] = np.frombuffer(shared, np.uint8)
        return unpacked(own)

    def _resize(self, number: int, least: int) -> _Slot:
        """A new slot at the end; the old one's memory is freed."""
        assert self._file is not None
        old = self._slots.pop(number, None)
        if old is not None:
            old.memory.madvise(mmap.MADV_REMOVE)
        size = -(-least * 5 // 4 // _PAGE) * _PAGE
        with self._lock:
            offset, self._size = self._size, self._size + size
            os.ftruncate(self._file, self._size)
        slot = _Slot(offset, size, mmap.mmap(self._file, size, offset=offset))
        self._slots[number] = slot
        return slot


def _reopen(file: Any) -> BatchSlots:
    slots = BatchSlots.__new__(BatchSlots)
    slots._begin(None if file is None else file.detach())
    return slots


def _has_memfd() -> bool:
    return hasattr(os, "memfd_create") and hasattr(mmap, "MADV_REMOVE")


def _write(batch: pa.RecordBatch, memory: mmap.mmap) -> int:
    sink = pa.FixedSizeBufferWriter(pa.py_buffer(memory))
    _stream(batch, sink)
    return sink.tell()


def _size_of(batch: pa.RecordBatch) -> int:
    sink = pa.MockOutputStream()
    _stream(batch, sink)
    return sink.size()


def _stream(batch: pa.RecordBatch, sink: Any) -> None:
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
