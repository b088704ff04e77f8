# SPDX-License-Identifier: Apache-2.0
"""An index of a table's rows by a key: sorted keys, and the offset of each one's row.

It is as large as the key's column and 8 bytes a row; processes that are started map one copy of it,
and forked ones have it already.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from lancedb.table import Table

from ..arrow.stream import packed, unpacked
from ..common.pickling import send_to_new_processes
from ..common.shared_memory import shared

pc: Any = pyarrow.compute  # whose functions are made where it is imported


class KeyIndex:
    """Keys of a table, sorted, in memory that processes may share.

    Parameters
    ----------
    keys : pyarrow.Array
        Of every row; rows whose key is null are left out.
    offsets : numpy.ndarray of int64
        The offsets of these rows in the table.
    name : str
        The key's column, for messages.

    Raises
    ------
    ValueError
        If two rows have the same key.
    TypeError
        If keys are neither whole numbers nor strings nor bytes.
    """

    def __init__(self, keys: pa.Array, offsets: np.ndarray, name: str):
        kind, keys = key_type(name, keys.type), _decoded(keys)
        is_known = keys.is_valid().to_numpy(zero_copy_only=False)
        keys, offsets = keys.drop_null().cast(kind), offsets[is_known]
        order = pc.sort_indices(keys)
        keys = keys.take(order)
        twice = pc.index(pc.equal(keys[1:], keys[:-1]), True).as_py() if len(keys) else -1
        if twice >= 0:
            raise ValueError(
                f"key {keys[twice].as_py()!r} is in more than one row of column {name!r}: a lookup "
                "needs one row for each key"
            )
        sorted_offsets = pa.array(offsets[order.to_numpy()])
        batch = pa.record_batch([keys, sorted_offsets], names=["key", "offset"])
        self._data = torch.frombuffer(bytearray(packed(batch)), dtype=torch.uint8)
        self._open()

    def __reduce__(self) -> Any:
        return _dropped, ()

    def _open(self) -> None:
        batch = unpacked(pa.py_buffer(self._data.numpy()))
        self._keys, self._offsets = batch.column(0), batch.column(1).to_numpy()

    def find(self, keys: Any) -> np.ndarray:
        """The offsets of the rows of some keys, in their order; -1 for those that no row has.

        Parameters
        ----------
        keys : pyarrow.Array
            As `as_keys` makes them of what a user gives.
        """
        if not len(self._keys) or not len(keys):
            return np.full(len(keys), -1, np.int64)
        wanted = keys.fill_null(b"" if pa.types.is_large_binary(keys.type) else _zero(keys.type))
        places = np.minimum(_search(self._keys, wanted), len(self._keys) - 1)
        is_there = pc.equal(self._keys.take(pa.array(places)), keys).fill_null(False)
        return np.where(is_there.to_numpy(zero_copy_only=False), self._offsets[places], -1)

    @property
    def type(self) -> pa.DataType:
        """Of the keys that are found."""
        return self._keys.type


def read_keys(table: Table, name: str) -> KeyIndex:
    """The index of a column of an open table."""
    query: Any = table.search().select([name, "_rowoffset"])
    rows = query.limit(max(table.count_rows(), 1)).to_arrow()
    keys = rows[name].combine_chunks()
    return KeyIndex(keys, rows["_rowoffset"].to_numpy().astype(np.int64), name)


def key_type(name: str, kind: pa.DataType) -> pa.DataType:
    """The type of an index's keys, for a column of some type."""
    if pa.types.is_dictionary(kind):
        return key_type(name, kind.value_type)
    if pa.types.is_integer(kind):
        return pa.uint64() if pa.types.is_uint64(kind) else pa.int64()
    if is_text(kind):
        return pa.large_binary() if _is_bytes(kind) else pa.large_string()
    raise TypeError(
        f"key={name!r} is a column of {kind}, and keys are whole numbers, strings or bytes"
    )


def as_keys(keys: Any, kind: pa.DataType) -> pa.Array:
    """What a user gives for keys, as an array of their type; one None stands for no key.

    Raises
    ------
    TypeError
        If they are no sequence, or of another type.
    """
    is_one = type(keys) in (str, bytes) or not hasattr(keys, "__iter__")
    if is_one or getattr(keys, "ndim", 1) == 0:
        raise TypeError(f"keys must be a sequence, not {keys!r}: for one key write [{keys!r}]")
    if isinstance(keys, (set, frozenset)):
        raise TypeError("keys must be a sequence, not a set, whose order is any: pass sorted(keys)")
    if hasattr(keys, "detach"):
        keys = keys.detach().cpu().numpy()
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    try:
        given: Any = _decoded(keys) if isinstance(keys, pa.Array) else _array(_listed(keys), kind)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise TypeError(f"keys must all be of one type: {error}") from error
    if given.null_count == len(given):  # also none at all, of whatever type
        return pa.nulls(len(given), kind)
    is_number = pa.types.is_integer(given.type)
    if is_number != pa.types.is_integer(kind) or not (is_number or is_text(given.type)):
        wrong = given.drop_null()[0].as_py()
        raise TypeError(f"keys must be of type {kind}, as the key's column, not {wrong!r}")
    if not is_number and pa.types.is_large_binary(kind) != _is_bytes(given.type):
        wanted = "bytes" if pa.types.is_large_binary(kind) else "strings"
        raise TypeError(f"keys must be {wanted}, not {given.drop_null()[0].as_py()!r}")
    if pa.types.is_uint64(given.type) and kind == pa.int64():  # those beyond are keys of no row
        given = pc.if_else(pc.greater(given, 2**63 - 1), None, given)
    if kind == pa.uint64() and pa.types.is_signed_integer(given.type):
        given = pc.if_else(pc.less(given, 0), None, given)
    return given.cast(kind)


def _array(keys: Any, kind: pa.DataType) -> pa.Array:
    """Keys as an array; whole numbers that the type of the key's column has not are None."""
    try:
        return pa.array(keys)
    except OverflowError:
        least, most = (0, 2**64) if kind == pa.uint64() else (-(2**63), 2**63)
        return pa.array([key if key is None or least <= key < most else None for key in keys], kind)


def _decoded(keys: pa.Array) -> pa.Array:
    return keys.dictionary_decode() if pa.types.is_dictionary(keys.type) else keys


def _listed(keys: Any) -> Any:
    if isinstance(keys, np.ndarray):
        if keys.ndim != 1:
            raise TypeError(f"they have shape {keys.shape}, and one dimension is needed")
        return keys.tolist() if keys.dtype.kind in "USO" else keys
    return list(keys)


def is_text(kind: pa.DataType) -> bool:
    """Whether values are strings or bytes, however they are stored."""
    types = pa.types
    is_string = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return is_string or _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    is_binary = types.is_binary(kind) or types.is_large_binary(kind)
    return is_binary or types.is_binary_view(kind) or types.is_fixed_size_binary(kind)


def _search(keys: pa.Array, wanted: pa.Array) -> np.ndarray:
    """Where each key would be put into sorted ones."""
    if pa.types.is_integer(keys.type):
        return np.searchsorted(keys.to_numpy(), wanted.to_numpy())
    low, high = np.zeros(len(wanted), np.int64), np.full(len(wanted), len(keys))
    while (low < high).any():
        middle = np.minimum((low + high) // 2, len(keys) - 1)
        less = pc.less(keys.take(pa.array(middle)), wanted).to_numpy(zero_copy_only=False)
        is_open = low < high
        low, high = (
            np.where(is_open & less, middle + 1, low),
            np.where(is_open & ~less, middle, high),
        )
    return low


def _zero(kind: pa.DataType) -> Any:
    return 0 if pa.types.is_integer(kind) else ""


def _dropped() -> None:
    """In place of an index that is not sent: it is read again where it is needed."""


def _opened(data: torch.Tensor) -> KeyIndex:
    index = KeyIndex.__new__(KeyIndex)
    index._data = data
    index._open()
    return index


def _shared(index: KeyIndex) -> Any:
    index._data = shared(index._data)
    index._open()
    return _opened, (index._data,)


send_to_new_processes(KeyIndex, _shared)
