# SPDX-License-Identifier: Apache-2.0
"""Documents packed into rows of one length, with all that attention must know to keep them apart.

::

    documents           a1 a2 a3   b1 b2   c1 c2 c3 c4      rows of length 6

    tokens              a1 a2 a3 b1 b2  .     c1 c2 c3 c4  .  .
    position_ids         0  1  2  0  1  0      0  1  2  3  0  1
    document_ids         1  1  1  2  2  0      1  1  1  1  0  0
    cu_seqlens           0        3     5      6           10    12
    max_seqlen           4
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..arrow.documents import Planned, planned_of
from ..arrow.take import slices
from ..common.checks import did_you_mean
from ..order.window_slices import runs
from .formats import check_fill_null
from .nulls import NullPolicy
from .padding import RaggedPolicy
from .ragged import flattened
from .tensors import has_dense_elements, is_list, is_ragged
from .torch_columns import torch_columns

FORMATS = ("torch", "numpy")
ADDED = ("position_ids", "document_ids", "cu_seqlens", "max_seqlen")


@dataclass(frozen=True)
class PackedRows:
    """The rows that documents are packed into.

    Parameters
    ----------
    column : str
        The lists that are packed.
    length : int
        How many of their elements a row has.
    """

    column: str
    length: int


@dataclass(frozen=True)
class PackedConverter:
    """A picklable function from record batches of planned documents to packed batches.

    Parameters
    ----------
    rows : PackedRows
        What documents are packed into.
    format : {"torch", "numpy"}
        What the columns are of.
    nulls : NullPolicy
        What stands in for nulls.
    padding : RaggedPolicy
        What stands where a row has ended.
    """

    rows: PackedRows
    format: str
    nulls: NullPolicy
    padding: RaggedPolicy
    # Lists that are not packed, as those in structs.
    ragged: RaggedPolicy = field(default_factory=lambda: RaggedPolicy("list"))

    def __call__(self, batch: pa.RecordBatch) -> dict[str, Any]:
        planned, batch = planned_of(batch)
        places = _Places(planned, self.rows.length)
        others = [name for name in batch.schema.names if not self._is_packed(batch.schema, name)]
        unpacked = torch_columns(batch.select(others), self.nulls, self.ragged)
        out: dict[str, Any] = {}
        for name in batch.schema.names:
            if name in unpacked:
                out[name] = unpacked[name]
            else:
                out[name] = self._packed(batch[name], name, planned, places)
        out.update(places.described())
        return out if self.format == "torch" else _as_numpy(out)

    def each(self, batch: pa.RecordBatch, counts: Sequence[int]) -> list[dict[str, Any]]:
        """Consecutive slices of a batch, `counts` documents each, every one packed."""
        return [self(part) for part in slices(batch, counts)]

    def check(self, batch: pa.RecordBatch) -> None:
        """Raise unless the columns of an empty batch can be packed."""
        schema, column = batch.schema, self.rows.column
        if column not in schema.names:
            others = f"name one with column=, of {schema.names}"
            hint = did_you_mean(column, schema.names, others)
            raise ValueError(f"Packing packs column {column!r}, which is not there: {hint}")
        kind = schema.field(column).type
        is_any_list = is_list(kind) or pa.types.is_fixed_size_list(kind)
        if not (is_any_list and has_dense_elements(kind)):
            raise ValueError(
                f"Packing packs lists of numbers, and column {column!r} is of type {kind}: name "
                "another one with column="
            )
        taken = [name for name in ADDED if name in schema.names]
        if taken:
            raise ValueError(
                f"Packing adds {', '.join(map(repr, taken))}, and there is a column of that name: "
                f"leave it out or rename it with columns={{'other_name': {taken[0]!r}}}"
            )
        made = self(batch)
        packed = {name: made[name] for name in schema.names if self._is_packed(schema, name)}
        tensors = {name: torch.as_tensor(values).dtype for name, values in packed.items()}
        self.padding.check(tensors, schema)
        check_fill_null(schema, self.nulls, self.ragged)

    def _is_packed(self, schema: pa.Schema, name: str) -> bool:
        return name == self.rows.column or is_ragged(schema.field(name).type)

    def _packed(self, column: pa.Array, name: str, planned: Planned, places: _Places) -> Any:
        """The values of a column of lists in their places, ``(rows, length, ...)``."""
        if pa.types.is_fixed_size_list(column.type):
            column = column.cast(pa.list_(column.type.value_field))
        values, edges = flattened(column, name, self.nulls)
        lengths = np.diff(edges)
        wrong = np.flatnonzero(lengths != planned.lengths)
        if len(wrong):
            self._refuse(name, int(lengths[wrong[0]]), int(planned.lengths[wrong[0]]))
        return places.put(values, edges, self.padding.value_for(name))

    def _refuse(self, name: str, found: int, planned: int) -> None:
        if name == self.rows.column:
            raise ValueError(
                f"a list of column {name!r} has {found} values, and Packing(lengths=...) counts "
                f"{planned}: have it say how many there are, or leave it out to have them counted"
            )
        raise ValueError(
            f"column {name!r} has a list of {found} values beside {planned} of column "
            f"{self.rows.column!r}: Packing takes lists of the same lengths. Leave it out with "
            "columns="
        )


def make_packed_converter(
    rows: PackedRows, format: str, *, fill_null: Any, ragged: str, pad_value: Any, pad_to: Any
) -> PackedConverter:
    """The conversion to packed batches; the arguments are as of `make_converter`.

    Raises
    ------
    ValueError
        If the format has no packed batches, or an argument is about lists that are not packed.
    """
    if format not in FORMATS:
        raise ValueError(
            f"Packing makes batches of format 'torch' or 'numpy', not {format!r}: pass one of them"
        )
    if ragged != "jagged" or pad_to is not None:
        given = f"pad_to={pad_to!r}" if ragged == "jagged" else f"ragged={ragged!r}"
        raise ValueError(
            f"{given} is for lists that stay apart, and Packing packs them into rows of "
            f"{rows.length}: leave it out"
        )
    return PackedConverter(rows, format, NullPolicy(fill_null), RaggedPolicy("pad", pad_value))


class _Places:
    """Where the documents of a batch are: which row, from where on, how much of them.

    Parameters
    ----------
    planned : Planned
        For each document.
    length : int
        Of a row.
    """

    def __init__(self, planned: Planned, length: int):
        self.counts = np.minimum(planned.lengths - planned.starts, length)
        self._starts = planned.starts
        self._length = length
        self._firsts = np.flatnonzero(np.diff(planned.units, prepend=-1))  # of each row
        self._documents = np.diff(self._firsts, append=len(self.counts))
        self._used = np.add.reduceat(self.counts, self._firsts) if len(self._firsts) else _NONE
        self._mask = np.arange(length) < self._used[:, None]

    def put(self, values: torch.Tensor, edges: np.ndarray, fill: Any) -> torch.Tensor:
        """The values of lists, of which each begins and the last ends at an edge, in their rows."""
        if values.dtype == torch.bfloat16:  # of which numpy has none
            bits = values.new_full((), fill).view(torch.int16).item()
            return self.put(values.view(torch.int16), edges, bits).view(torch.bfloat16)
        # By numpy: torch starts threads for this, which wait for each other and for those that
        # train.
        found = values.numpy()
        if self._starts.any() or (self.counts != np.diff(edges)).any():
            found = found[runs(edges[:-1] + self._starts, self.counts)]
        out = np.full((*self._mask.shape, *found.shape[1:]), fill, found.dtype)
        out[self._mask] = found
        return torch.from_numpy(out)

    def described(self) -> dict[str, Any]:
        """The columns of `ADDED`."""
        rows, columns = len(self._used), np.arange(self._length)
        positions = columns - self._used[:, None]  # of what is left, which counts by itself
        positions[self._mask] = runs(np.zeros(len(self.counts), np.int64), self.counts)
        numbers = runs(np.ones(rows, np.int64), self._documents)
        documents = np.zeros((rows, self._length), np.int64)
        documents[self._mask] = np.repeat(numbers, self.counts)
        edges = self._edges()
        return {
            "position_ids": torch.from_numpy(positions),
            "document_ids": torch.from_numpy(documents),
            "cu_seqlens": torch.from_numpy(edges),
            "max_seqlen": int(np.diff(edges).max(initial=0)),
        }

    def _edges(self) -> np.ndarray:
        """Where in all rows documents start, and what is left of a row does; and the end."""
        begins = np.arange(len(self._used)) * self._length
        ends = (begins + self._used)[self._used < self._length]
        before = np.cumsum(self.counts) - self.counts
        starts = before + np.repeat(begins - before[self._firsts], self._documents)
        total = len(self._used) * self._length
        return np.sort(np.concatenate([starts, ends, [total]])).astype(np.int32)


_NONE = np.zeros(0, np.int64)


def _as_numpy(value: Any) -> Any:
    """The same columns as numpy arrays."""
    if isinstance(value, dict):
        return {name: _as_numpy(column) for name, column in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value
