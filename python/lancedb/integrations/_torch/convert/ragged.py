# SPDX-License-Identifier: Apache-2.0
"""Lists of different lengths as a batch: a nested tensor, a padded one, or a list."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from . import nested_tensor as nested
from .nulls import NullPolicy
from .tensors import cuts, elements

MODES = ("jagged", "pad", "list")


def lists(
    array: pa.Array, name: str, nulls: NullPolicy, mode: str
) -> tuple[Any, torch.Tensor | None]:
    """A column of lists of numbers in one of `MODES`, and the lengths if it was padded.

    A list that is null counts as a null; where `fill_null` says something for the column, it
    becomes an empty list.
    """
    return _made(*_parts(array, name, nulls), mode)


def list_batches(
    array: pa.Array, edges: Sequence[int], name: str, nulls: NullPolicy, mode: str
) -> list[tuple[Any, torch.Tensor | None]]:
    """As `lists` of consecutive rows, from edge to edge; the values are converted once."""
    values, offsets = _parts(array, name, nulls)
    ends = offsets[np.asarray(edges)].tolist()
    return [
        _made(part, offsets[start : stop + 1] - first, mode)
        for part, first, (start, stop) in zip(
            cuts(values, ends), ends, itertools.pairwise(edges), strict=False
        )
    ]


def _made(values: torch.Tensor, offsets: np.ndarray, mode: str) -> tuple[Any, torch.Tensor | None]:
    lengths = np.diff(offsets)
    if mode == "jagged":
        return nested.make(values, torch.from_numpy(offsets), lengths), None
    if mode == "list":
        return list(values.split(lengths.tolist())), None
    counted = torch.from_numpy(lengths)
    return _padded(values, counted), counted


def _parts(array: pa.Array, name: str, nulls: NullPolicy) -> tuple[torch.Tensor, np.ndarray]:
    """The values of all lists in a row, and where each list begins and the last one ends."""
    lengths = pc.call_function("list_value_length", [array])
    if array.null_count:
        nulls.require_value(name, array.null_count, array.type)
        lengths = pc.fill_null(lengths, 0)
    edges = np.zeros(len(array) + 1, np.int64)
    lengths.to_numpy().cumsum(out=edges[1:])
    # What stands under a null is left out, and views come in the order of their rows.
    values = elements(array.flatten(), array.type.value_field, name, nulls)
    return values, edges


def _padded(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    longest = int(lengths.max()) if len(lengths) else 0
    out = values.new_zeros(len(lengths), longest, *values.shape[1:])
    out[torch.arange(longest) < lengths[:, None]] = values
    return out
