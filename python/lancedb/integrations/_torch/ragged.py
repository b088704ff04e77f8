# SPDX-License-Identifier: Apache-2.0
"""Knows the three ways to hand out lists of different lengths: nested, padded, a list."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

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
        return _nested(values, torch.from_numpy(offsets), lengths), None
    if mode == "list":
        return list(values.split(lengths.tolist())), None
    counted = torch.from_numpy(lengths)
    return _padded(values, counted), counted


def _nested(values: torch.Tensor, offsets: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
    """A nested tensor that knows its longest list: torch pads to all values together if not."""
    if len(lengths) == 0:
        return torch.nested.nested_tensor_from_jagged(values, offsets=offsets)
    make = _made_at_once if _can_be_made_at_once() else _made_by_torch
    return make(values, offsets, int(lengths.min()), int(lengths.max()))


def _made_by_torch(
    values: torch.Tensor, offsets: torch.Tensor, shortest: int, longest: int
) -> torch.Tensor:
    make = torch.nested.nested_tensor_from_jagged
    if not _can_be_told_lengths():
        return make(values, offsets=offsets)
    return make(values, offsets=offsets, min_seqlen=shortest, max_seqlen=longest)


def _made_at_once(
    values: torch.Tensor, offsets: torch.Tensor, shortest: int, longest: int
) -> torch.Tensor:
    """As `_made_by_torch` in a third of the time: as torch's operations make their results."""
    from torch.nested._internal.nested_tensor import NestedTensor

    ends = {"min_seqlen": torch.zeros(shortest, 0), "max_seqlen": torch.zeros(longest, 0)}
    return NestedTensor(values, offsets, _metadata_cache=ends)


@functools.cache
def _can_be_told_lengths() -> bool:
    """Whether torch takes the shortest and the longest length, as from 2.5 on."""
    return "max_seqlen" in inspect.signature(torch.nested.nested_tensor_from_jagged).parameters


@functools.cache
def _can_be_made_at_once() -> bool:
    """Whether this torch's class is as expected, which is no part of its public interface."""
    values, offsets = torch.arange(5), torch.tensor([0, 2, 5])
    try:
        one, other = (vars(make(values, offsets, 2, 3)) for make in (_made_at_once, _made_by_torch))
        knows = [
            {name: end.shape for name, end in of["_metadata_cache"].items()} for of in (one, other)
        ]
        return one.keys() == other.keys() and knows[0] == knows[1]
    except Exception:
        return False


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
