# SPDX-License-Identifier: Apache-2.0
"""Python, numpy and torch scalars as values of an Arrow type, refused where they would change."""

from __future__ import annotations

import datetime
import decimal
import math
import numbers
import uuid
from typing import Any

import numpy as np
import pyarrow as pa

_MOMENTS = (np.datetime64, np.timedelta64)


def plain_value(value: Any) -> Any:
    """A scalar of numpy, pandas or torch as the Python value that it holds, if there is one.

    Raises
    ------
    TypeError
        If it is an array of several values.
    """
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if getattr(value, "ndim", 0):
        raise TypeError(f"{value!r} is an array")
    if isinstance(value, np.ndarray):
        value = value[()]
    for as_numpy in ("to_datetime64", "to_timedelta64"):  # pandas' know nanoseconds
        value = getattr(value, as_numpy, lambda value=value: value)()
    if isinstance(value, _MOMENTS):
        return value  # Python has none of nanoseconds
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    if isinstance(value, np.void):
        return value.tobytes()
    if isinstance(value, uuid.UUID):
        return value.bytes
    if type(value).__module__ == "torch" and hasattr(value, "item"):
        return value.item()
    return value


def fitting_scalar(value: Any, kind: pa.DataType) -> pa.Scalar | None:
    """A value in an Arrow type; None if the type has no such value."""
    try:
        value = plain_value(value)
        scalar = _scalar(value, kind)
        fits = scalar.is_valid and not _is_changed(value, scalar)
    except (ValueError, TypeError, ArithmeticError, NotImplementedError):
        return None
    return scalar if fits else None


def _scalar(value: Any, kind: pa.DataType) -> pa.Scalar:
    if isinstance(value, pa.Scalar):
        return value.cast(kind)
    if isinstance(value, _MOMENTS) and pa.types.is_temporal(kind):
        return _moment(value).cast(kind)
    if isinstance(value, datetime.date) and pa.types.is_timestamp(kind):
        return pa.scalar(value).cast(kind)
    if isinstance(value, float) and pa.types.is_decimal(kind):
        return pa.scalar(decimal.Decimal(repr(value)), kind)
    if isinstance(value, decimal.Decimal) and pa.types.is_floating(kind):
        return _scalar(float(value), kind)
    if isinstance(value, decimal.Decimal) and pa.types.is_integer(kind):
        return pa.scalar(int(value), kind)
    if pa.types.is_float16(kind):  # pyarrow makes few of these
        return pa.scalar(value, pa.float64()).cast(kind)
    return pa.scalar(value, kind)


def _moment(value: np.datetime64 | np.timedelta64) -> pa.Scalar:
    """As Arrow has it: days, and seconds and what they are divided into."""
    letter = "M" if isinstance(value, np.datetime64) else "m"
    unit = np.datetime_data(value.dtype)[0]
    if unit in ("generic", "ps", "fs", "as") or np.isnat(value):
        raise ValueError(f"{value!r} is no moment in a unit of Arrow's")
    if unit not in ("s", "ms", "us", "ns"):
        value = value.astype(f"{letter}8[s]")
    return pa.scalar(value.astype(f"{letter}8[{np.datetime_data(value.dtype)[0]}]"))


def _is_changed(value: Any, scalar: pa.Scalar) -> bool:
    """Whether a value became another one: Arrow cuts fractions of numbers and of seconds off."""
    if isinstance(value, _MOMENTS):
        given = _moment(value)
        return scalar.cast(given.type) != given
    if isinstance(value, numbers.Number) and not isinstance(value, bool):
        if pa.types.is_floating(scalar.type):
            return math.isinf(scalar.as_py()) and not math.isinf(float(value))  # type: ignore[arg-type]
        return int(value) != value and not pa.types.is_decimal(scalar.type)  # type: ignore[arg-type]
    if isinstance(value, pa.Scalar):
        return scalar.cast(value.type) != value
    if pa.types.is_temporal(scalar.type):
        given = pa.scalar(value)
        return scalar.cast(given.type) != given
    return False
