# SPDX-License-Identifier: Apache-2.0
"""Checks that torch's `default_collate` can make a batch, which say what to do if it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..convert.tensors import is_list, plain
from ..table.key_index import is_text

# numpy's kinds of dtypes of which torch makes tensors: bool, whole numbers, floats and complex.
_OF_NUMBERS = "biufc"


def may_be_collated(batch: Any) -> bool:
    """Whether a batch consists of rows that torch can put together; others stay as they are.

    Examples
    --------
    >>> may_be_collated([{"x": 1}]), may_be_collated(np.zeros((2, 3)))
    (True, True)
    >>> may_be_collated(np.array([[1, "a"]], object)), may_be_collated({"x": [1]})
    (False, False)
    """
    if isinstance(batch, np.ndarray):
        return batch.dtype.kind in _OF_NUMBERS
    return isinstance(batch, Sequence)


def refuse_what_has_no_tensor(batch: pa.RecordBatch) -> None:
    """Raise if torch has nothing to make of a column's Python values, once they are rows.

    Raises
    ------
    TypeError
        The message names the column, and what to do.
    """
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        found = _without_tensor(name, column, column[:1])
        if found is not None:
            path, what, fix = found
            raise TypeError(
                f"column {path!r} holds {what}, of which torch's default_collate makes no tensor: "
                f"{fix}, leave it out with columns=, or pass collate_fn= (list gives the rows)"
            )


def _without_tensor(
    path: str, column: pa.Array, first: pa.Array, in_list: bool = False
) -> tuple[str, str, str] | None:
    """Which part of a column torch makes nothing of, what that is, and what to do; None if none.

    `first` is the part of the first row, by which torch chooses what to make of all.
    """
    column, first = plain(column), plain(first)
    kind = column.type
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return path, f"{kind}", "take format='torch', which makes numbers of it"
    if is_text(kind):  # a list of them stays as it is, unless a null is seen first
        fix = "take format='torch', which has None for them"
        return (path, _nulls(column), fix) if first.null_count else None
    if column.null_count:
        fix = "take format='torch' with fill_null="
        where = "" if in_list else f", or filter={path + ' IS NOT NULL'!r}"
        return path, _nulls(column), fix + where
    if pa.types.is_uint64(kind) and _largest(column) >= 2**63:
        return path, "numbers from 2**63 on", "take format='numpy', or cast it in columns="
    if pa.types.is_struct(kind):
        parts = zip(kind, column.flatten(), first.flatten(), strict=True)
        found = (_without_tensor(f"{path}.{of.name}", a, b, in_list) for of, a, b in parts)
        return next((part for part in found if part is not None), None)
    if is_list(kind) and len(pc.call_function("list_value_length", [column]).unique()) > 1:
        fix = "take format='torch', where ragged= says how they are batched"
        return path, "lists of different lengths", fix
    if is_list(kind) or pa.types.is_fixed_size_list(kind):
        return _without_tensor(path, column.flatten(), first.flatten(), in_list=True)
    return None


def _largest(column: pa.Array) -> int:
    return pc.call_function("min_max", [column]).as_py()["max"] or 0


def _nulls(column: pa.Array) -> str:
    return f"{column.null_count} null{'s' if column.null_count > 1 else ''}"
