# SPDX-License-Identifier: Apache-2.0
"""What tests of conversions share: values of every type, and what tensors of them should read."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import torch
from arrow_strategies import (
    TEMPORAL_TYPES,
)
from lancedb.integrations._torch.convert.formats import make_converter

DTYPES = {
    pa.int8(): torch.int8,
    pa.int16(): torch.int16,
    pa.int32(): torch.int32,
    pa.int64(): torch.int64,
    pa.uint8(): torch.uint8,
    pa.uint16(): torch.int32,
    pa.uint32(): torch.int64,
    pa.uint64(): torch.int64,
    pa.float16(): torch.float16,
    pa.float32(): torch.float32,
    pa.float64(): torch.float64,
    pa.bool_(): torch.bool,
    pa.decimal128(9, 2): torch.float64,
    **dict.fromkeys(TEMPORAL_TYPES, torch.int64),
}
MOMENTS = {
    pa.date32(): (datetime.date(1970, 1, 3), 2),
    pa.date64(): (datetime.date(1970, 1, 2), 86_400_000),
    pa.time32("s"): (datetime.time(0, 1, 1), 61),
    pa.time32("ms"): (datetime.time(0, 0, 2), 2000),
    pa.time64("us"): (datetime.time(0, 0, 0, 7), 7),
    pa.time64("ns"): (datetime.time(0, 0, 0, 7), 7000),
    pa.timestamp("s"): (datetime.datetime(1970, 1, 1, 0, 1), 60),
    pa.timestamp("us"): (datetime.datetime(1970, 1, 1, 0, 0, 1), 1_000_000),
    pa.timestamp("ms", tz="UTC"): (datetime.datetime(1970, 1, 1, 0, 0, 1), 1000),
    pa.duration("ms"): (datetime.timedelta(seconds=3), 3000),
}


def example_of(kind):
    """Three values of a type, and the numbers that stand for them in a tensor."""
    if kind in MOMENTS:
        value, number = MOMENTS[kind]
        return [value] * 3, [number] * 3
    if pa.types.is_decimal(kind):
        return [decimal.Decimal("1.25"), decimal.Decimal("-3.50"), decimal.Decimal(0)], [
            1.25,
            -3.5,
            0,
        ]
    if pa.types.is_boolean(kind):
        return [True, False, True], [True, False, True]
    if pa.types.is_float16(kind):
        return list(np.array([1, 2, 3], np.float16)), [1, 2, 3]  # pyarrow before 21 takes no others
    return [1, 2, 3], [1, 2, 3]


def column(values, kind, **options):
    """One column converted to torch, by name."""
    batch = pa.record_batch([pa.array(values, kind)], names=["c"])
    return make_converter("torch", **options)(batch)


def plain(value):
    """Whatever a conversion gave, as Python values."""
    if isinstance(value, torch.Tensor):
        return [plain(row) for row in value.unbind()] if value.is_nested else value.tolist()
    if isinstance(value, dict):
        return {name: plain(field) for name, field in value.items()}
    return [plain(each) if isinstance(each, torch.Tensor) else each for each in value]
