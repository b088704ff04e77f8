# SPDX-License-Identifier: Apache-2.0
"""Parts: stretches of rows as memory-mapped Arrow IPC files, written whole or not at all.

The crc32 of a file stands in its name, and is checked when a process uses the part first.
"""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..arrow.pieces import SlicesOfRows, Wanted
from ..arrow.take import Rows, rows_of
from .directory import Entry, PartFile

_CHECKED_BYTES = 4 << 20


class Damaged(Exception):
    """A part is not what was written."""


def write_part(entry: Entry, number: int, batches: Iterable[pa.RecordBatch]) -> PartFile:
    """Write a part, and give it its name when it is whole.

    Parameters
    ----------
    entry : Entry
        Whose lock for writing this process holds.
    number : int
        Which part it is.
    batches : iterable of pyarrow.RecordBatch
        Its rows, in sequence.

    Raises
    ------
    OSError
        If it cannot be written. Nothing is left of it.
    """
    path = entry.unfinished_path(number)
    try:
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            sink = _Checked(file)
            _write(pa.PythonFile(sink, "w"), batches)
        whole = entry.part_path(number, sink.crc32)
        os.replace(path, whole)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return PartFile(whole, number, sink.crc32)


def _write(sink: pa.NativeFile, batches: Iterable[pa.RecordBatch]) -> None:
    writer = None
    try:
        for batch in batches:
            writer = writer or pa.ipc.new_file(sink, batch.schema)
            writer.write_batch(batch)
    finally:
        if writer is not None:
            writer.close()


class _Checked:
    """A file that is written from its beginning to its end, and the crc32 of that."""

    closed = False

    def __init__(self, file) -> None:
        self._file = file
        self.crc32 = 0

    def write(self, data) -> int:
        self.crc32 = zlib.crc32(data, self.crc32)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        pass  # where it was opened


def open_part(part: PartFile, rows: int) -> list[pa.RecordBatch]:
    """The rows of a part, in memory that is mapped to its file.

    Raises
    ------
    Damaged
        If the file is not as it was written, or does not have so many rows.
    OSError
        If it is not there any more.
    """
    with pa.memory_map(str(part.path)) as file:
        data = file.read_buffer()
    if _crc32(data) != part.crc32:
        raise Damaged(f"the contents of {part.path} are not those that were written")
    try:
        with pa.ipc.open_file(data) as reader:
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(f"{part.path} cannot be read: {error}") from error
    if sum(batch.num_rows for batch in batches) != rows:
        raise Damaged(f"{part.path} does not have the {rows} rows that it should")
    return batches


def _crc32(data: pa.Buffer) -> int:
    found, view = 0, memoryview(data)
    for start in range(0, len(view), _CHECKED_BYTES):
        found = zlib.crc32(view[start : start + _CHECKED_BYTES], found)
    return found


class _Columns(NamedTuple):
    """The columns of all parts that are mapped, and where each of their pieces begins."""

    schema: pa.Schema
    starts: np.ndarray
    columns: list[SlicesOfRows]


class MappedParts:
    """The parts of an entry that this process has mapped, as one column of rows each.

    Parameters
    ----------
    part_rows, num_rows : int
        Rows of a part, the last one aside, and of all.
    """

    def __init__(self, part_rows: int, num_rows: int):
        self._part_rows = part_rows
        self._num_rows = num_rows
        self._files: dict[int, PartFile] = {}
        self._batches: dict[int, list[pa.RecordBatch]] = {}
        self._pieces: _Columns | None = None
        self._lock = threading.Lock()

    @property
    def num_parts(self) -> int:
        """How many parts there are if all are there."""
        return -(-self._num_rows // self._part_rows)

    def rows_of(self, number: int) -> int:
        """How many rows a part has."""
        return min(self._part_rows, self._num_rows - number * self._part_rows)

    def set_files(self, files: Iterable[PartFile]) -> None:
        """Say which parts are there; those that are mapped stay so."""
        with self._lock:
            found = {file.number: file for file in files if file.number < self.num_parts}
            self._files = {**found, **{n: self._files[n] for n in self._batches}}

    def add_file(self, file: PartFile) -> None:
        """Note that a part is there."""
        with self._lock:
            self._files[file.number] = file

    def there(self, numbers: np.ndarray) -> np.ndarray:
        """Which of some ascending, distinct parts are mapped, once those that are there were.

        Raises
        ------
        Damaged
            If one of them is not as it was written; it counts as not there from then on.
        """
        with self._lock:
            return np.array([self._is_mapped(int(number)) for number in numbers], bool)

    def is_known(self, numbers: np.ndarray | range) -> bool:
        """Whether all of some parts are said to be there."""
        files = self._files
        return all(int(number) in files for number in numbers)

    @property
    def numbers(self) -> set[int]:
        """The parts that are said to be there."""
        return set(self._files)

    def _is_mapped(self, number: int) -> bool:
        if number in self._batches:
            return True
        file = self._files.get(number)
        if file is None:
            return False
        try:
            batches = open_part(file, self.rows_of(number))
            self._check_types(file, batches)
        except Damaged:
            del self._files[number]
            with contextlib.suppress(OSError):
                file.path.unlink()
            raise
        except OSError:  # the cache was deleted meanwhile
            del self._files[number]
            return False
        self._batches[number], self._pieces = batches, None
        return True

    def _check_types(self, file: PartFile, batches: list[pa.RecordBatch]) -> None:
        for known in self._batches.values():
            if not batches[0].schema.equals(known[0].schema):
                raise Damaged(f"the columns of {file.path} are others than those of other parts")
            return

    def take(self, places: np.ndarray) -> pa.RecordBatch:
        """Rows by their place, in that order, all of parts that are mapped."""
        schema, starts, columns = self._columns()
        wanted = Wanted(starts, places)
        arrays = [column.take_wanted(wanted) for column in columns]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _columns(self) -> _Columns:
        pieces = self._pieces
        if pieces is None:
            with self._lock:
                pieces = self._pieces = self._pieces or self._joined()
        return pieces

    def _joined(self) -> _Columns:
        starts: list[int] = []
        batches: list[pa.RecordBatch] = []
        for number in sorted(self._batches):
            start = number * self._part_rows
            for batch in self._batches[number]:
                starts.append(start)
                batches.append(batch)
                start += batch.num_rows
        schema = batches[0].schema
        columns: list[list[Rows]] = [
            [rows_of(batch.column(column)) for batch in batches] for column in range(len(schema))
        ]
        joined = [
            SlicesOfRows(field.type, pieces, np.array(starts))
            for field, pieces in zip(schema, columns, strict=True)
        ]
        return _Columns(schema, np.array(starts), joined)
