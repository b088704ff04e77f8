# SPDX-License-Identifier: Apache-2.0
"""Whole numbers that a format would round.

numpy and torch promote whole numbers to floats where one array holds both, and pandas where
nulls are among them. Ids and hashes beyond the digits of a float then become others, unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# Formats that are made by pandas, which has no nulls among whole numbers.
_BY_PANDAS = ("numpy", "pandas")
_DOUBLE = 53  # binary digits of a float64


def check_exact(batch: pa.RecordBatch, format: str, made: Any) -> None:
    """Raise if what was made of a batch has rounded a whole number.

    Raises
    ------
    ValueError
        The message names the column and the number.
    """
    of_all = _digits_of_all(format, made)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        for values in _whole_numbers(column):
            by_nulls = _DOUBLE if format in _BY_PANDAS and values.null_count else None
            digits = of_all or by_nulls
            large = 0 if digits is None else _largest(values, digits)
            if digits is not None and abs(large) > 1 << digits:
                why = "with nulls among them" if by_nulls else "beside other columns"
                fill = (
                    "coalesce({0}, 0)" if by_nulls and values is column else "CAST({0} AS DOUBLE)"
                )
                raise ValueError(
                    f"column {field.name!r} holds {large}, and format {format!r} makes floats of "
                    f"whole numbers {why}, which round beyond 2**{digits}: take format='torch' or "
                    "'arrow', leave the column out, or say what to make of it, with "
                    f"columns={{{field.name!r}: {fill.format(field.name)!r}}}"
                )


def _digits_of_all(format: str, made: Any) -> int | None:
    """The binary digits of the floats that all numbers became, None if they did not."""
    if format == "numpy":
        return _DOUBLE if made.dtype.kind == "f" else None
    if format in ("torch_row", "torch_col") and len(made):
        import torch

        kind = made[0].dtype
        return 1 - round(math.log2(torch.finfo(kind).eps)) if kind.is_floating_point else None
    return None


def _whole_numbers(column: pa.Array) -> Iterator[pa.Array]:
    """The whole numbers in a column, also those in lists, structs and dictionaries."""
    if isinstance(column, pa.ExtensionArray):
        yield from _whole_numbers(column.storage)
    elif isinstance(column, pa.DictionaryArray):
        yield from _whole_numbers(column.dictionary)
    elif isinstance(column, pa.StructArray):
        for child in column.flatten():
            yield from _whole_numbers(child)
    elif isinstance(column, (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)):
        yield from _whole_numbers(column.flatten())
    elif pa.types.is_integer(column.type):
        yield column


def _largest(values: pa.Array, digits: int) -> int:
    """The number farthest from zero, 0 if all numbers of the type have so few digits."""
    if values.type.bit_width <= digits or len(values) == values.null_count:
        return 0
    return max(pc.call_function("min_max", [values]).as_py().values(), key=abs)
