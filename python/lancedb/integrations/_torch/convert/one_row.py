# SPDX-License-Identifier: Apache-2.0
"""Transforms that were written for one row: their errors, and what they are given."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from ..common.error_notes import add_note

# What Python, numpy, torch and PIL say where many values come in place of one.
_MANY_FOR_ONE = re.compile(
    r"elements? cannot be converted"
    r"|only (one|integer tensors of a single) element"
    r"|(size|length)-1 arrays can be"
    r"|(truth value of an array|Boolean value of Tensor) with more than one"
    r"|list indices must be integers"
    r"|only integers, slices .* are valid indices"
    r"|'list' object has no attribute"
    r"|\b(not|got|NoneType) '?(list|pyarrow\.lib\.\w+|Tensor|Series)\b"
    r"|truth value of a (Series|DataFrame) is ambiguous"
    r"|'pyarrow\.lib\.\w+' object"
    r"|unhashable type: 'list'"
)
_LISTED = 5


def note_if_written_for_one_row(error: Exception, batch: Any) -> None:
    """Have a transform's error say that it is given a batch, if it seems to expect a row."""
    likely = isinstance(error, (ValueError, TypeError, RuntimeError, AttributeError, IndexError))
    if likely and _MANY_FOR_ONE.search(str(error)):
        given = f"here with {_form(batch)}"
        add_note(error, f"transform is called with a whole batch, not with one row; {given}")


def _form(batch: Any) -> str:
    """What a batch is, in words, and how to go on from it."""
    if isinstance(batch, pa.RecordBatch):
        return (
            f"a pyarrow.RecordBatch of {batch.num_rows} rows, as no format= is given: "
            "batch.to_pylist() are its rows, and format='python' gives them at once"
        )
    if isinstance(batch, dict):
        shown = [f"{name!r}: {_column(value)}" for name, value in batch.items()]
        more = ", ..." if len(shown) > _LISTED else ""
        return (
            f"a dict of batched columns, {{{', '.join(shown[:_LISTED])}{more}}}: work on all rows "
            "at once, or take format='python', whose batch is a list of rows"
        )
    if isinstance(batch, list) and batch and isinstance(batch[0], dict):
        return f"a list of {len(batch)} row dicts: [one(row) for row in batch] is a batch again"
    return f"{_column(batch)}: what it returns is the batch"


def _column(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {tuple(shape)}" if shape is not None else "")
