# SPDX-License-Identifier: Apache-2.0
"""Blobs as files: one for each row, opened in whichever process reads it first.

A file is its column and a row id until something is read of it, so that it is small to send. This
module imports no lancedb: a worker that never reads a file never waits for that import.
"""

from __future__ import annotations

import io
import pickle
import uuid
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..common.process import PROCESS

if TYPE_CHECKING:
    from ..table.reader import Reader

# lancedb opens many in one call in about the time that one takes.
_OPENED_TOGETHER = 32


class BlobSources(weakref.WeakValueDictionary[str, "BlobSource"]):
    """The sources of this process, by their keys."""


class BlobSource:
    """One blob column of one table version; its table is opened once in each process.

    Parameters
    ----------
    reader : Reader
        Of this column alone.
    """

    def __init__(self, reader: Reader):
        self._reader: Reader | bytes = reader
        self._described = f"{next(iter(reader.columns.values()))} of {reader.recipe.describe()}"
        self.key = uuid.uuid4().hex
        PROCESS.part(BlobSources)[self.key] = self

    def __reduce__(self) -> Any:
        reader = self._reader
        data = reader if isinstance(reader, bytes) else pickle.dumps(reader)
        return _received, (self.key, self._described, data)

    def __repr__(self) -> str:
        return self._described

    def read(self, row_ids: list[int], start: int, stop: int | None) -> tuple[int, bytes]:
        """The size of the first row's blob, and its bytes from `start` to `stop`.

        If that one is not open the others are opened with it.

        Raises
        ------
        RuntimeError
            If the storage fails, takes too long, or no longer has this version.
        """
        reader = self._reader
        if isinstance(reader, bytes):
            reader = self._reader = pickle.loads(reader)
        return reader.read_blob(row_ids, start, stop)


def _received(key: str, described: str, data: bytes) -> BlobSource:
    """The source that was sent: one for all of its files in a process."""
    known = PROCESS.part(BlobSources)
    source = known.get(key)
    if source is None:
        source = BlobSource.__new__(BlobSource)
        source._reader, source._described, source.key = data, described, key
        source = known.setdefault(key, source)
    return source


class BlobFile(io.RawIOBase):
    """One row's blob as a file that can be read and sought, of which only what is read is fetched.

    It may be sent to another process, and is opened where it is read. What reads it in small
    pieces wants ``io.BufferedReader(file, 1 << 20)`` around it. Two threads may read two files,
    but one file only one after the other, as with any file.

    Parameters
    ----------
    source : BlobSource
        The column.
    row_id : int
        Which row of the pinned table version.
    row_ids : pyarrow.Array, optional
        Those of its batch, in order: the next ones will be opened soon.

    Attributes
    ----------
    bytes_read : int
        How many bytes were fetched through this object.
    """

    def __init__(self, source: BlobSource, row_id: int, row_ids: pa.Array | None = None):
        super().__init__()
        self._source = source
        self._row_id = row_id
        self._batch = row_ids
        self._opened_with: list[int] | None = None if row_ids is not None else [row_id]
        self._at = 0
        self._size: int | None = None
        self.bytes_read = 0

    def __reduce__(self) -> Any:
        return _placed, (self._source, self._row_ids(), self._at, self._size)

    def __repr__(self) -> str:
        state = " (closed)" if self.closed else ""
        return f"<BlobFile: {self._source}, row id {self._row_id}{state}>"

    @property
    def size(self) -> int:
        """How many bytes the blob has."""
        if self._size is None:
            self._read(0, 0)
        assert self._size is not None
        return self._size

    def readable(self) -> bool:
        """True, as `io` asks for it."""
        return True

    def seekable(self) -> bool:
        """True, as `io` asks for it."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        self._check_open()
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to where the next read is to begin; as with any file, that may be after the end.

        Parameters
        ----------
        offset : int
            From the place that `whence` says.
        whence : int
            `io.SEEK_SET`, `io.SEEK_CUR` or `io.SEEK_END`.

        Returns
        -------
        int
            The place, from the beginning.
        """
        self._check_open()
        if whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
            raise ValueError(f"whence must be 0, 1 or 2, not {whence}")
        base = (0, self._at, self.size if whence == io.SEEK_END else 0)[whence]
        if base + offset < 0:
            raise ValueError(f"there is nothing before the beginning of a file: {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read as many bytes as a buffer has, or as there are up to the end.

        Parameters
        ----------
        buffer : writable buffer
            Where to put them.

        Returns
        -------
        int
            How many there were.
        """
        view = memoryview(buffer).cast("B")
        data = self._read(self._at, self._at + len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        """All bytes up to the end."""
        data = self._read(self._at, None)
        self._at += len(data)
        return data

    def _read(self, start: int, stop: int | None) -> bytes:
        self._check_open()
        if self._size is not None and start >= min(self._size, stop or self._size):
            return b""
        self._size, data = self._source.read(self._row_ids(), start, stop)
        self.bytes_read += len(data)
        return data

    def _row_ids(self) -> list[int]:
        """That of this file, and those of some that will be opened soon."""
        if self._opened_with is None:
            known = self._batch.drop_null().to_numpy()  # type: ignore[union-attr]
            place = int((known == self._row_id).argmax())
            row_ids: list[int] = known[place : place + _OPENED_TOGETHER].tolist()
            self._opened_with, self._batch = row_ids, None
        return self._opened_with

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self!r} was closed")


def _placed(source: BlobSource, row_ids: list[int], at: int, size: int | None) -> BlobFile:
    file = BlobFile(source, row_ids[0])
    file._opened_with, file._at, file._size = row_ids, at, size
    return file


class BlobFileType(pa.ExtensionType):
    """The Arrow type of a column of row ids whose values in Python are files.

    Parameters
    ----------
    source : BlobSource
        The blobs' column.
    row_ids : pyarrow.Array, optional
        Those of the batch.
    """

    def __init__(self, source: BlobSource, row_ids: pa.Array | None = None):
        self.source = source
        self.row_ids = row_ids
        super().__init__(pa.uint64(), "lancedb.torch.blob_file")

    def __arrow_ext_serialize__(self) -> bytes:
        return self.source.key.encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> BlobFileType:
        source = PROCESS.part(BlobSources).get(serialized.decode())
        if source is None:
            raise RuntimeError(
                "this Arrow column was made of a column of files whose dataset is gone: keep the "
                "dataset, or take the files with to_pylist() before"
            )
        return cls(source)

    def __arrow_ext_scalar_class__(self) -> type:
        return _BlobFileScalar

    def __reduce__(self) -> Any:
        return BlobFileType, (self.source,)


class _BlobFileScalar(pa.ExtensionScalar):
    def as_py(self, **_: Any) -> BlobFile | None:
        row_id = None if self.value is None else self.value.as_py()
        kind = self.type
        return None if row_id is None else BlobFile(kind.source, row_id, kind.row_ids)


def with_files(batch: pa.RecordBatch, sources: Mapping[str, BlobSource]) -> pa.RecordBatch:
    """A batch whose columns of row ids are files."""
    for name, source in sources.items():
        place = batch.schema.get_field_index(name)
        kind = BlobFileType(source, batch.column(place))
        files = pa.ExtensionArray.from_storage(kind, _with_reference_to(kind, batch.column(place)))
        batch = batch.set_column(place, pa.field(name, kind), files)
    return batch


def _with_reference_to(kind: BlobFileType, row_ids: pa.Array) -> pa.Array:
    """Row ids that keep their type alive: Arrow itself only has a weak reference to it."""
    validity, data = row_ids.buffers()
    values = pa.foreign_buffer(data.address, data.size, (data, kind))
    count, nulls, offset = len(row_ids), row_ids.null_count, row_ids.offset
    return pa.Array.from_buffers(row_ids.type, count, [validity, values], nulls, offset)


def are_files(kind: pa.DataType) -> bool:
    """Whether the values of a type are files."""
    return isinstance(kind, BlobFileType)


def to_pandas(batch: pa.RecordBatch) -> Any:
    """A frame, with files as objects."""
    frame = batch.to_pandas()
    for of, column in zip(batch.schema, batch.columns, strict=True):
        if are_files(of.type):
            import pandas

            frame[of.name] = pandas.Series(column.to_pylist(), dtype=object, index=frame.index)
    return frame


def to_polars(batch: pa.RecordBatch) -> Any:
    """A frame, with files as objects."""
    import polars

    plain = [of.name for of in batch.schema if not are_files(of.type)]
    columns = {name: polars.from_arrow(batch.select([name]))[name] for name in plain}
    for of, column in zip(batch.schema, batch.columns, strict=True):
        if are_files(of.type):
            columns[of.name] = polars.Series(of.name, column.to_pylist(), dtype=polars.Object)
    return polars.DataFrame([columns[name] for name in batch.schema.names])
