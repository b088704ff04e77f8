# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for Arrow columns of every type a table may have."""

from __future__ import annotations

import datetime
import decimal
import struct

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

_INTEGERS = {
    pa.int8(): 7,
    pa.int16(): 15,
    pa.int32(): 31,
    pa.int64(): 63,
    pa.uint8(): 8,
    pa.uint16(): 16,
    pa.uint32(): 32,
    pa.uint64(): 63,
}
INTEGER_TYPES = list(_INTEGERS)
FLOAT_TYPES = [pa.float16(), pa.float32(), pa.float64()]
TEMPORAL_TYPES = [
    pa.date32(),
    pa.date64(),
    pa.time32("s"),
    pa.time32("ms"),
    pa.time64("us"),
    pa.time64("ns"),
    pa.timestamp("s"),
    pa.timestamp("us"),
    pa.timestamp("ms", tz="UTC"),
    pa.duration("ms"),
]
NUMBER_TYPES = [*INTEGER_TYPES, *FLOAT_TYPES, pa.bool_(), pa.decimal128(9, 2), *TEMPORAL_TYPES]
TEXT_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
]


class BFloat16(pa.ExtensionType):
    """Lance's type, as pylance registers it."""

    def __init__(self):
        super().__init__(pa.binary(2), "lance.bfloat16")

    def __hash__(self):
        return hash(self.extension_name)

    def __arrow_ext_serialize__(self):
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage, serialized):
        return cls()


pa.register_extension_type(BFloat16())  # so that it comes back from another process


def bfloat16_bytes(value: float) -> bytes:
    """A number that bfloat16 holds exactly, as Lance stores it: the upper half of a float32."""
    return struct.pack("<f", value)[2:]


LIST_TYPES = (pa.ListType, pa.LargeListType, pa.ListViewType, pa.LargeListViewType)

_DAY = datetime.date(2001, 2, 3)
_TIME = datetime.datetime(2001, 2, 3, 4, 5, 6)


def values_of(kind: pa.DataType) -> st.SearchStrategy:
    """Python values of a type, none of them None."""
    if kind in _INTEGERS:
        top = 2 ** _INTEGERS[kind] - 1
        low = -top - 1 if pa.types.is_signed_integer(kind) else 0
        return st.integers(low, top)
    if pa.types.is_float16(kind):  # pyarrow before 21 takes no others
        return st.floats(allow_nan=False, width=16).map(np.float16)
    if pa.types.is_floating(kind):
        return st.floats(allow_nan=False, width=kind.bit_width)
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_decimal(kind):
        return st.decimals(-9999, 9999, places=2).map(decimal.Decimal)
    if pa.types.is_date(kind):
        return st.dates(datetime.date(1950, 1, 1), datetime.date(2050, 1, 1))
    if pa.types.is_time(kind):
        return st.times().map(lambda time: time.replace(microsecond=0))
    if pa.types.is_timestamp(kind):
        seconds = st.integers(-(10**9), 2 * 10**9)
        zone = datetime.timezone.utc if kind.tz else None
        return seconds.map(lambda s: datetime.datetime.fromtimestamp(s, datetime.timezone.utc)).map(
            lambda moment: moment.replace(tzinfo=zone)
        )
    if pa.types.is_duration(kind):
        return st.integers(-(10**6), 10**6).map(lambda s: datetime.timedelta(seconds=s))
    if isinstance(kind, BFloat16):
        return st.integers(-255, 255).map(bfloat16_bytes)
    if isinstance(kind, pa.BaseExtensionType):
        return values_of(kind.storage_type)
    if kind in (pa.string(), pa.large_string(), pa.string_view()):
        return st.text(max_size=8)
    if pa.types.is_fixed_size_binary(kind):
        return st.binary(min_size=kind.byte_width, max_size=kind.byte_width)
    if kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        return st.binary(max_size=8)
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        return st.lists(values_of(kind.value_type), min_size=size, max_size=size)
    if pa.types.is_map(kind):
        return st.dictionaries(values_of(kind.key_type), values_of(kind.item_type), max_size=3).map(
            lambda entries: list(entries.items())
        )
    if any(isinstance(kind, lists) for lists in LIST_TYPES):
        return st.lists(values_of(kind.value_type), max_size=4)
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({field.name: values_of(field.type) for field in kind})
    if pa.types.is_dictionary(kind):
        return values_of(kind.value_type)
    raise NotImplementedError(str(kind))


def kinds(views: bool) -> st.SearchStrategy:
    """Types, nested up to three times."""
    numbers = st.sampled_from([*NUMBER_TYPES, pa.binary(3)])
    texts = [
        kind for kind in TEXT_TYPES if views or kind not in (pa.string_view(), pa.binary_view())
    ]
    plain = st.one_of(numbers, st.sampled_from(texts))
    lists = st.one_of(
        st.builds(pa.list_, st.sampled_from(NUMBER_TYPES), st.integers(1, 3)),
        st.builds(pa.list_, st.sampled_from(NUMBER_TYPES)),
        st.builds(pa.large_list, st.sampled_from(INTEGER_TYPES)),
        st.builds(lambda kind: pa.list_(pa.list_(kind, 2)), st.sampled_from(NUMBER_TYPES)),
        st.just(pa.map_(pa.string(), pa.int32())),
        st.just(BFloat16()),
        st.builds(
            lambda kind: pa.fixed_shape_tensor(kind, [2, 1, 3]), st.sampled_from(FLOAT_TYPES)
        ),
        st.builds(lambda kind: pa.list_(pa.list_(kind, 2), 2), st.sampled_from(FLOAT_TYPES)),
        st.just(pa.dictionary(pa.int8(), pa.string())),
        st.just(pa.dictionary(pa.int16(), pa.int64())),
    )
    if views:
        lists |= st.builds(pa.list_view, st.sampled_from(FLOAT_TYPES))
        lists |= st.builds(pa.large_list_view, st.sampled_from(INTEGER_TYPES))
    structs = st.builds(
        lambda a, b: pa.struct([("a", a), ("b", b)]), st.one_of(plain, lists), plain
    )
    nested = st.builds(lambda kind: pa.struct([("s", kind), ("n", pa.int32())]), structs)
    return st.one_of(plain, lists, structs, nested)


def array_of(values: list, kind: pa.DataType) -> pa.Array:
    """A column of Python values, of extension types too, for which pyarrow has no builders."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    if pa.types.is_fixed_size_list(kind) and isinstance(kind.value_type, pa.BaseExtensionType):
        flat = [each for row in values for each in row or [None] * kind.list_size]
        empty = pa.array([row is None for row in values], pa.bool_())
        inner = array_of(flat, kind.value_type)
        return pa.FixedSizeListArray.from_arrays(inner, type=kind, mask=empty)
    if pa.types.is_struct(kind):
        fields = [
            array_of([None if row is None else row[field.name] for row in values], field.type)
            for field in kind
        ]
        empty = pa.array([row is None for row in values], pa.bool_())
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=empty)
    return pa.array(values, kind)


@st.composite
def record_batches(draw, min_rows=0, max_rows=12, nulls=False, views=False) -> pa.RecordBatch:
    """Batches of a few columns of any type, cut out of larger ones (so that offsets are not 0).

    Views are left out unless asked for: Arrow cannot take rows of them, and Lance stores none.
    """
    columns = draw(st.lists(kinds(views), min_size=1, max_size=4))
    before, rows, after = draw(
        st.tuples(st.integers(0, 3), st.integers(min_rows, max_rows), st.integers(0, 3))
    )
    arrays = []
    for kind in columns:
        value = values_of(kind)
        value = st.one_of(st.none(), value) if nulls else value
        total = before + rows + after
        arrays.append(array_of(draw(st.lists(value, min_size=total, max_size=total)), kind))
    names = [f"c{number}" for number in range(len(columns))]
    return pa.RecordBatch.from_arrays(arrays, names=names).slice(before, rows)
