# SPDX-License-Identifier: Apache-2.0
"""Knows the three ways to hand out lists of different lengths: nested, padded, a list."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from .nulls import NullPolicy
from .tensors import cuts, dense

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
    ends = offsets[list(edges)].tolist()
    return [
        _made(part, offsets[start : stop + 1] - first, mode)
        for part, first, (start, stop) in zip(
            cuts(values, ends), ends, itertools.pairwise(edges), strict=False
        )
    ]


def _made(
    values: torch.Tensor, offsets: torch.Tensor, mode: str
) -> tuple[Any, torch.Tensor | None]:
    lengths = offsets.diff()
    if mode == "jagged":
        return _nested(values, offsets, lengths), None
    if mode == "list":
        return list(values.split(lengths.tolist())), None
    return _padded(values, lengths), lengths


def _nested(values: torch.Tensor, offsets: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """A nested tensor that knows its longest list: torch pads to all values together if not."""
    if len(lengths) == 0:
        return torch.nested.nested_tensor_from_jagged(values, offsets=offsets)
    shortest, longest = (int(end) for end in lengths.aminmax())
    return torch.nested.nested_tensor_from_jagged(
        values, offsets=offsets, min_seqlen=shortest, max_seqlen=longest
    )


def _parts(array: pa.Array, name: str, nulls: NullPolicy) -> tuple[torch.Tensor, torch.Tensor]:
    """The values of all lists in a row, and where each list begins and the last one ends."""
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        array = array.cast(pa.large_list(array.type.value_type))
    if array.null_count:
        nulls.require_value(name, array.null_count)
        array = pa.array([row or [] for row in array.to_pylist()], array.type)
    edges = array.offsets.to_numpy().astype(np.int64)
    first, last = (int(edges[0]), int(edges[-1])) if len(edges) else (0, 0)
    values = dense(array.values.slice(first, last - first), name, nulls)
    offsets = torch.from_numpy(edges - first if len(edges) else np.zeros(1, np.int64))
    return values, offsets


def _padded(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    longest = int(lengths.max()) if len(lengths) else 0
    out = values.new_zeros(len(lengths), longest, *values.shape[1:])
    out[torch.arange(longest) < lengths[:, None]] = values
    return out
