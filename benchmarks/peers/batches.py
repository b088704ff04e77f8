# SPDX-License-Identifier: Apache-2.0
"""Batches made by hand, as a careful user does where a peer delivers rows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from workloads import SIDE


def decode(files: Sequence[Any]) -> torch.Tensor:
    """JPEG files as one tensor of uint8, decoded by Pillow into place."""
    pixels = np.empty((len(files), SIDE, SIDE, 3), np.uint8)
    for number, file in enumerate(files):
        pixels[number] = Image.open(io.BytesIO(file))
    return torch.from_numpy(pixels)


def decode_column(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with its JPEG files decoded."""
    return {**batch, "image": decode(batch["image"])}


def jagged(documents: Sequence[Any]) -> torch.Tensor:
    """Documents as one jagged tensor."""
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.concatenate([np.asarray(document) for document in documents])
    return jagged_of(values, offsets)


def jagged_of(values: np.ndarray, offsets: np.ndarray) -> torch.Tensor:
    return torch.nested.nested_tensor_from_jagged(
        torch.from_numpy(values), torch.from_numpy(offsets)
    )


def of_rows(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows as a batch of tensors."""
    return of_lists({name: [row[name] for row in rows] for name in rows[0]})


class Chosen:
    """Collates the columns that the workload reads, where rows come with all there are."""

    def __init__(self, columns: list[str]):
        self.columns = columns

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return of_lists({name: [row[name] for row in rows] for name in self.columns})


def of_lists(columns: dict[str, Sequence[Any]]) -> dict[str, torch.Tensor]:
    """Columns of single values as a batch of tensors."""
    return {name: _of_values(name, values) for name, values in columns.items()}


def _of_values(name: str, values: Sequence[Any]) -> torch.Tensor:
    if name == "tokens":
        return jagged(values)
    if isinstance(values[0], bytes):
        return decode(values)
    return _stack(values)


def _stack(values: Sequence[Any]) -> torch.Tensor:
    if isinstance(values[0], torch.Tensor):
        return torch.stack(list(values))
    return torch.from_numpy(np.asarray(values))


def of_arrow(batch: pa.RecordBatch) -> dict[str, torch.Tensor]:
    """An Arrow batch as a batch of tensors, without a step per row where there need be none."""
    return {
        name: _of_array(column)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def _of_array(column: pa.Array) -> torch.Tensor:
    if pa.types.is_binary(column.type):
        return decode(column.to_pylist())
    if pa.types.is_fixed_size_list(column.type):
        values = column.flatten().to_numpy().reshape(len(column), -1)
        return torch.from_numpy(values.copy())
    if pa.types.is_list(column.type):
        offsets = column.offsets.to_numpy().astype(np.int64)
        return jagged_of(column.flatten().to_numpy().copy(), offsets - offsets[0])
    return torch.from_numpy(column.to_numpy().copy())


class ShuffledBatches:
    """Batches of row numbers in a true shuffle, with the next order in each epoch.

    A seeded sampler is how a map-style dataset resumes: it is told where to begin.
    """

    def __init__(self, rows: int, batch_size: int, start: int = 0):
        self.rows, self.batch_size, self.start, self.epoch = rows, batch_size, start, 0

    def __len__(self) -> int:
        return (self.rows - self.start) // self.batch_size

    def __iter__(self) -> Iterator[torch.Tensor]:
        order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.epoch))
        first, self.epoch, self.start = self.start, self.epoch + 1, 0
        for row in range(first, self.rows - self.batch_size + 1, self.batch_size):
            yield order[row : row + self.batch_size]


class ShuffledLists(ShuffledBatches):
    """The same as lists, for datasets that want no tensor."""

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        return (batch.tolist() for batch in super().__iter__())


def rows_of(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of an Arrow batch for loaders that store row by row: numpy values and bytes."""
    values = {}
    for name in columns:
        column = batch[name]
        if pa.types.is_fixed_size_list(column.type):
            values[name] = column.flatten().to_numpy().reshape(len(column), -1)
        elif pa.types.is_binary(column.type):
            values[name] = column.to_pylist()
        elif pa.types.is_list(column.type):
            offsets = column.offsets.to_numpy()
            values[name] = np.split(column.flatten().to_numpy(), offsets[1:-1] - offsets[0])
        else:
            values[name] = column.to_numpy()
    for row in zip(*values.values(), strict=True):
        yield dict(zip(values, row, strict=True))
