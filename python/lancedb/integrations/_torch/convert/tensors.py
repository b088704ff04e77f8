# SPDX-License-Identifier: Apache-2.0
"""One Arrow column as a tensor, or as the Python values that no tensor can hold."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from .nulls import NullPolicy

_BFLOAT16 = ("lance.bfloat16", "bfloat16")


def apart(columns: Sequence[pa.Array]) -> list[pa.Array]:
    """The columns, copied where one shares memory with one before it.

    A column that was selected twice, or as a field of a struct that is there too, comes in one
    piece of memory, and tensors over it would be changed together.
    """
    seen: set[int] = set()
    out = []
    for column in columns:
        memory = {data.address for data in column.buffers() if data is not None and data.size}
        if seen.isdisjoint(memory):
            seen |= memory
        else:
            column = pa.concat_arrays([column, column.slice(0, 0)])
        out.append(column)
    return out


def is_number(kind: pa.DataType) -> bool:
    """Whether values of a type become elements of a tensor."""
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind))
    )


def is_dense(kind: pa.DataType) -> bool:
    """Whether every value of a type has the same shape: numbers, fixed-size lists of them."""
    if pa.types.is_fixed_size_list(kind):
        return has_dense_elements(kind)
    return is_number(kind)


def has_dense_elements(kind: pa.DataType) -> bool:
    """Whether every element of a type of lists has the same shape."""
    return is_bfloat16(kind.value_field) or is_dense(_plain_type(kind.value_type))


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is of lists that may differ in length."""
    checks = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(check(kind) for check in checks)


def is_ragged(kind: pa.DataType) -> bool:
    """Whether a type is of lists of numbers that may differ in length, however deep they are."""
    varies = False
    while is_list(kind) or pa.types.is_fixed_size_list(kind):
        varies |= is_list(kind)
        if has_dense_elements(kind):
            return varies
        kind = _plain_type(kind.value_type)
    return False


def plain(array: pa.Array) -> pa.Array:
    """The values of a dictionary, run-end or extension column in their ordinary form."""
    while True:
        if isinstance(array.type, pa.Bool8Type):
            array = array.storage.cast(pa.bool_())
        elif isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        elif pa.types.is_run_end_encoded(array.type):
            array = pc.call_function("run_end_decode", [array])
        else:
            return array


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of `plain` values of a type."""
    while True:
        if isinstance(kind, pa.Bool8Type):
            return pa.bool_()
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def is_bfloat16(field: pa.Field) -> bool:
    """Whether a column holds Lance's bfloat16, with its extension type registered or not."""
    name = getattr(field.type, "extension_name", None)
    if name is None:
        name = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode()
    return name in _BFLOAT16


def numbers(array: pa.Array, name: str, nulls: NullPolicy) -> torch.Tensor:
    """A 1-D tensor of a column of numbers, without a copy where the types allow it."""
    array = nulls.filled(array, name)
    kind = array.type
    if pa.types.is_boolean(kind):
        return torch.from_numpy(array.to_numpy(zero_copy_only=False))
    if pa.types.is_decimal(kind):
        return from_buffer(array.cast(pa.float64()))
    if pa.types.is_temporal(kind):
        whole = pa.int32() if kind.bit_width == 32 else pa.int64()
        return from_buffer(array.view(whole)).to(torch.int64)
    if pa.types.is_uint64(kind):
        return from_buffer(_signed(array, name))
    if pa.types.is_uint16(kind):
        return from_buffer(array.cast(pa.int32()))
    if pa.types.is_uint32(kind):
        return from_buffer(array.cast(pa.int64()))
    return from_buffer(array)


def from_buffer(array: pa.Array) -> torch.Tensor:
    """A tensor over the memory of a column of numbers, which it keeps alive."""
    if len(array) == 0:
        return torch.from_numpy(np.array(array.to_numpy(zero_copy_only=False)))
    start = array.buffers()[1].address + array.offset * array.type.bit_width // 8
    if start % (array.type.bit_width // 8):
        return torch.from_numpy(np.array(array.to_numpy()))
    return torch.from_dlpack(array)


def dense(array: pa.Array, name: str, nulls: NullPolicy) -> torch.Tensor:
    """A tensor ``(n, d, ...)`` of a column of (nested) fixed-size lists of numbers."""
    if not pa.types.is_fixed_size_list(array.type):
        return numbers(array, name, nulls)
    size, count = array.type.list_size, len(array)
    if array.null_count:
        return _dense_with_null_rows(array, name, nulls)
    values = array.values.slice(array.offset * size, count * size)
    inner = elements(values, array.type.value_field, name, nulls)
    return inner.reshape(count, size, *inner.shape[1:])


def elements(array: pa.Array, field: pa.Field, name: str, nulls: NullPolicy) -> torch.Tensor:
    """A tensor of the elements of lists, given the field that says what they are."""
    if isinstance(array.type, pa.FixedShapeTensorType):
        return shaped(array, name, nulls.in_lists())
    if is_bfloat16(field):  # of which SQL finds no nulls, as in lists of lists
        return bfloat16(plain(array), name, nulls.in_lists(2))
    return dense(plain(array), name, nulls.in_lists())


def bfloat16(array: pa.Array, name: str, nulls: NullPolicy) -> torch.Tensor:
    """A bfloat16 tensor of Lance's two-byte storage."""
    raw = fixed_bytes(array, name, nulls, fill=b"\0\0")
    values = (
        raw.reshape(-1).view(torch.bfloat16)
        if len(raw)
        else torch.empty(0, dtype=torch.bfloat16, device="cpu")
    )
    if array.null_count:
        values = values.clone()
        valid = torch.from_numpy(array.is_valid().to_numpy(zero_copy_only=False))
        values[~valid] = nulls.require_scalar(name, array.null_count, pa.float32()).as_py()
    return values


def fixed_bytes(
    array: pa.Array, name: str, nulls: NullPolicy, fill: bytes | None = None
) -> torch.Tensor:
    """A uint8 tensor ``(n, width)`` of a fixed-size binary column."""
    width = array.type.byte_width
    if array.null_count and fill is not None:
        array = pc.fill_null(array, pa.scalar(fill, array.type))
    array = nulls.filled(array, name)
    data = array.buffers()[1]
    if data is None or width == 0 or len(array) == 0:
        return torch.zeros(len(array), width, dtype=torch.uint8, device="cpu")
    count, offset = len(array) * width, array.offset * width
    flat = pa.Array.from_buffers(pa.uint8(), count, [None, data], 0, offset)
    return torch.from_dlpack(flat).reshape(len(array), width)


def shaped(array: pa.ExtensionArray, name: str, nulls: NullPolicy) -> torch.Tensor:
    """A tensor of an ``arrow.fixed_shape_tensor`` column, in its logical dimensions."""
    flat = dense(array.storage, name, nulls)
    order = array.type.permutation or list(range(len(array.type.shape)))
    stored = flat.reshape(len(array), *array.type.shape)
    return stored.permute(0, *(dimension + 1 for dimension in order))


def cuts(tensor: torch.Tensor, edges: Sequence[int]) -> list[torch.Tensor]:
    """Rows of a tensor from edge to edge, in storages of their own over the same memory."""
    if tensor.dtype == torch.bfloat16:
        return [part.view(torch.bfloat16) for part in cuts(tensor.view(torch.int16), edges)]
    rows = tensor.numpy()
    return [torch.from_numpy(rows[start:stop]) for start, stop in itertools.pairwise(edges)]


def _dense_with_null_rows(array: pa.Array, name: str, nulls: NullPolicy) -> torch.Tensor:
    leaf = pa.field("", array.type)
    while pa.types.is_fixed_size_list(leaf.type):
        leaf = leaf.type.value_field
    kind = pa.float32() if is_bfloat16(leaf) else leaf.type
    asked = nulls.in_lists() if nulls.depth else nulls  # in lists they are lists
    value = asked.require_value(name, array.null_count, kind)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    filled = dense(array.filter(pa.array(valid)), name, nulls)
    filler = elements(pa.nulls(1, leaf.type), leaf, name, NullPolicy(value))
    out = filler.reshape([1] * filled.dim()).expand(len(array), *filled.shape[1:]).clone()
    out[torch.from_numpy(valid)] = filled
    return out


def _signed(array: pa.Array, name: str) -> pa.Array:
    largest = int(array.to_numpy().max(initial=0))
    if largest >= 1 << 63:
        raise ValueError(
            f"column {name!r} holds {largest}, and torch has no unsigned 64-bit tensors that go "
            "so far; read it in another format, or cast it with columns={'name': 'SQL'}"
        )
    return array.view(pa.int64())
