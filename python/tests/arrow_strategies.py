# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for Arrow columns of every type a table may have."""

from __future__ import annotations

import datetime
import decimal

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
TEXT_TYPES = [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()]

_DAY = datetime.date(2001, 2, 3)
_TIME = datetime.datetime(2001, 2, 3, 4, 5, 6)


def values_of(kind: pa.DataType) -> st.SearchStrategy:
    """Python values of a type, none of them None."""
    if kind in _INTEGERS:
        top = 2 ** _INTEGERS[kind] - 1
        low = -top - 1 if pa.types.is_signed_integer(kind) else 0
        return st.integers(low, top)
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
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return st.text(max_size=8)
    if pa.types.is_fixed_size_binary(kind):
        return st.binary(min_size=kind.byte_width, max_size=kind.byte_width)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return st.binary(max_size=8)
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        return st.lists(values_of(kind.value_type), min_size=size, max_size=size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return st.lists(values_of(kind.value_type), max_size=4)
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({field.name: values_of(field.type) for field in kind})
    if pa.types.is_dictionary(kind):
        return values_of(kind.value_type)
    raise NotImplementedError(str(kind))


def kinds() -> st.SearchStrategy:
    """Types, nested up to twice."""
    numbers = st.sampled_from([*NUMBER_TYPES, pa.binary(3)])
    plain = st.one_of(numbers, st.sampled_from(TEXT_TYPES))
    lists = st.one_of(
        st.builds(pa.list_, st.sampled_from(NUMBER_TYPES), st.integers(1, 3)),
        st.builds(pa.list_, st.sampled_from(NUMBER_TYPES)),
        st.builds(pa.large_list, st.sampled_from(INTEGER_TYPES)),
        st.builds(lambda kind: pa.list_(pa.list_(kind, 2), 2), st.sampled_from(FLOAT_TYPES)),
        st.just(pa.dictionary(pa.int8(), pa.string())),
        st.just(pa.dictionary(pa.int16(), pa.int64())),
    )
    structs = st.builds(
        lambda a, b: pa.struct([("a", a), ("b", b)]), st.one_of(plain, lists), plain
    )
    return st.one_of(plain, lists, structs)


@st.composite
def record_batches(draw, min_rows=0, max_rows=12, nulls=False) -> pa.RecordBatch:
    """Batches of a few columns of any type, cut out of larger ones (so that offsets are not 0)."""
    columns = draw(st.lists(kinds(), min_size=1, max_size=4))
    before, rows, after = draw(
        st.tuples(st.integers(0, 3), st.integers(min_rows, max_rows), st.integers(0, 3))
    )
    arrays = []
    for kind in columns:
        value = values_of(kind)
        value = st.one_of(st.none(), value) if nulls else value
        total = before + rows + after
        arrays.append(pa.array(draw(st.lists(value, min_size=total, max_size=total)), kind))
    names = [f"c{number}" for number in range(len(columns))]
    return pa.RecordBatch.from_arrays(arrays, names=names).slice(before, rows)
