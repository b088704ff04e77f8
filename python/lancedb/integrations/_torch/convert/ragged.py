# SPDX-License-Identifier: Apache-2.0
"""Lists of different lengths as nested tensors, padded tensors, or lists of tensors."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from . import nested_tensor as nested
from .nulls import NullPolicy
from .padding import RaggedPolicy
from .tensors import cuts, elements, has_dense_elements, plain

# A column, and the columns that are added to it: what their names end in, and their values.
Made = tuple[Any, dict[str, torch.Tensor]]


def lists(array: pa.Array, name: str, nulls: NullPolicy, ragged: RaggedPolicy) -> Made:
    """A column of lists of numbers, however deep, as `ragged` says.

    Where lists in lists all have one length, over the batch, that length is a dimension of the
    tensors. A list that is null counts as a null; where `fill_null` says something for the column,
    it becomes an empty list.
    """
    return _made(*_parts(array, name, nulls), name, ragged)


def list_batches(
    array: pa.Array, edges: Sequence[int], name: str, nulls: NullPolicy, ragged: RaggedPolicy
) -> Iterator[Made]:
    """As `lists` of consecutive rows, from edge to edge; the values are converted once."""
    values, levels = _parts(array, name, nulls)
    bounds = [np.asarray(edges)]
    for level in levels:
        bounds.append(level[bounds[-1]])
    for number, part in enumerate(cuts(values, bounds[-1].tolist())):
        ends = [slice(at[number], at[number + 1] + 1) for at in bounds[:-1]]
        parts = [level[end] - level[end.start] for level, end in zip(levels, ends, strict=True)]
        yield _made(part, parts, name, ragged)


def flattened(array: pa.Array, name: str, nulls: NullPolicy) -> tuple[torch.Tensor, np.ndarray]:
    """The values of all lists in a row, and where each list begins and the last ends.

    Raises
    ------
    ValueError
        If there are lists in the lists.
    """
    values, levels = _parts(plain(array), name, nulls)
    if len(levels) > 1:
        raise ValueError(f"column {name!r} of type {array.type} has lists in lists")
    return values, levels[0]


def join_lists(
    parts: Sequence[Any], path: tuple[str, ...], siblings: Collection[str], ragged: RaggedPolicy
) -> Any:
    """Columns of `lists` that were made apart, in other shapes or forms, as one column.

    Parameters
    ----------
    parts : sequence of tensors or lists
        The column in each batch.
    path : tuple of str
        Its name, below those of the structs that it is in.
    siblings : collection of str
        The names beside it.
    ragged : RaggedPolicy
        What they were made by.
    """
    if ragged.pads:
        return _padded_alike(parts, ragged.fill_for(path, siblings))
    rows = [row for part in parts for row in _rows(part)]
    depth = max(map(_depth, rows))
    filled = [row for row in rows if isinstance(row, torch.Tensor) and len(row)]
    while len({row.shape[depth + 1 :] for row in filled}) > 1:
        depth += 1
    if depth:
        return [_as_lists(row, depth) for row in rows]
    shape = (filled or rows)[0].shape[1:]
    rows = [row.reshape(len(row), *shape) for row in rows]
    if ragged.mode == "list":
        return rows
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def _padded_alike(parts: Sequence[torch.Tensor], fill: Any) -> torch.Tensor:
    if fill is None:  # a transform's, which has to see to it itself
        return torch.cat(list(parts))
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    out = parts[0].new_full((sum(map(len, parts)), *shape), fill)
    for part, rows in zip(parts, out.split([len(part) for part in parts]), strict=True):
        rows[tuple(map(slice, part.shape))] = part
    return out


def _rows(column: Any) -> Sequence[Any]:
    return column.unbind() if isinstance(column, torch.Tensor) else column


def _depth(row: Any) -> int:
    return 0 if isinstance(row, torch.Tensor) else 1 + max(map(_depth, row), default=0)


def _as_lists(row: Any, depth: int) -> Any:
    return [_as_lists(inner, depth - 1) for inner in _rows(row)] if depth else row


def _parts(array: pa.Array, name: str, nulls: NullPolicy) -> tuple[torch.Tensor, list[np.ndarray]]:
    """The values of all lists in a row, and for each depth where lists begin and the last ends."""
    levels = []
    while True:
        lengths = pc.call_function("list_value_length", [array])
        if array.null_count:
            nulls.require_value(name, array.null_count, array.type)
            lengths = pc.fill_null(lengths, 0)
        edges = np.zeros(len(array) + 1, np.int64)
        lengths.to_numpy().cumsum(out=edges[1:])
        levels.append(edges)
        # What stands under a null is left out, and views come in the order of their rows.
        inside = array.flatten()
        if has_dense_elements(array.type):
            return elements(inside, array.type.value_field, name, nulls), levels
        array, nulls = plain(inside), nulls.in_lists()


def _made(values: torch.Tensor, levels: list[np.ndarray], name: str, ragged: RaggedPolicy) -> Made:
    if ragged.pads:
        return _padded(values, [np.diff(edges) for edges in levels], name, ragged)
    if len(levels) > 1:
        values, levels = _folded(values, levels)
    if not levels:
        return values, {}
    lengths = np.diff(levels[-1])
    if ragged.mode == "jagged" and len(levels) == 1:
        return nested.make(values, torch.from_numpy(levels[0]), lengths), {}
    rows: list[Any] = list(values.split(lengths.tolist()))
    for edges in reversed(levels[:-1]):
        rows = [rows[start:stop] for start, stop in itertools.pairwise(edges.tolist())]
    return rows, {}


def _folded(
    values: torch.Tensor, levels: list[np.ndarray]
) -> tuple[torch.Tensor, list[np.ndarray]]:
    """The innermost depths at which all lists have one length as dimensions of the values."""
    levels = list(levels)
    while levels:
        lengths = np.diff(levels[-1])
        size = int(lengths[0]) if len(lengths) else 0
        if (lengths != size).any():
            break
        values = values.reshape(len(lengths), size, *values.shape[1:])
        levels.pop()
    return values, levels


def _padded(
    values: torch.Tensor, depths: list[np.ndarray], name: str, ragged: RaggedPolicy
) -> Made:
    """One tensor, each depth of lists a dimension; and how long they are, or where values are."""
    fill = ragged.value_for(name)
    longest = [int(lengths.max(initial=0)) for lengths in depths]
    longest[-1] = ragged.length_for(name, longest[-1])
    is_value = torch.from_numpy(np.ones(int(depths[-1].sum()), bool))
    counts = [torch.from_numpy(lengths) for lengths in depths]
    for depth in reversed(range(len(depths))):
        lengths, width = depths[depth], longest[depth]
        values = _pad(values, lengths, width, fill)
        if ragged.mode == "mask":
            is_value = _pad(is_value, lengths, width, False)
        else:
            counts[depth + 1 :] = [_pad(count, lengths, width, 0) for count in counts[depth + 1 :]]
    if ragged.mode == "mask":
        return values, {"_mask": is_value}
    return values, {f"_length_{depth}" if depth else "_length": n for depth, n in enumerate(counts)}


def _pad(values: torch.Tensor, lengths: np.ndarray, width: int, fill: Any) -> torch.Tensor:
    """Lists whose elements stand one after the other as rows of one tensor."""
    shape = (len(lengths), width, *values.shape[1:])
    if (lengths == width).all():
        return values.reshape(shape)
    if values.dtype == torch.bfloat16:  # of which numpy has none
        bits = values.new_full((), fill).view(torch.int16).item()
        return _pad(values.view(torch.int16), lengths, width, bits).view(torch.bfloat16)
    # By numpy: torch starts threads for this, which wait for each other and for those that train.
    out = np.full(shape, fill, values.numpy().dtype)
    out[np.arange(width) < lengths[:, None]] = values.numpy()
    return torch.from_numpy(out)
