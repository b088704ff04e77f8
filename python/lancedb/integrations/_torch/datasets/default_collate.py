# SPDX-License-Identifier: Apache-2.0
"""What torch's `default_collate` can make a batch of, and what to do about the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

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
    for of, column in zip(batch.schema, batch.columns, strict=True):
        kind, name = of.type, of.name
        if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
            what, fix = f"{kind}", "take format='torch', which makes numbers of it"
        elif _is_number(kind) and column.null_count:
            count = column.null_count
            what = f"{count} null{'s' if count > 1 else ''}"
            fix = f"take format='torch' with fill_null=, or filter={name + ' IS NOT NULL'!r}"
        else:
            continue
        raise TypeError(
            f"column {name!r} holds {what}, of which torch's default_collate makes no tensor: "
            f"{fix}, leave it out with columns=, or pass collate_fn= (list gives the rows)"
        )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
