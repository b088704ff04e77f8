# SPDX-License-Identifier: Apache-2.0
"""The nearest rows of several vectors: which of those found are wanted, and the batch's shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..convert.tensors import is_list
from ..convert.transform import Output


def chosen(
    found: pa.RecordBatch, excluded: list[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The offsets and distances of the first `k` rows of each vector that are not excluded.

    Returns
    -------
    numpy.ndarray of int64 and numpy.ndarray of float32, shape (len(excluded), k)
        -1 and infinity where there are too few.
    """
    queries, rows, distances = (column.to_numpy() for column in found.columns)
    offsets = np.full((len(excluded), k), -1, np.int64)
    away = np.full((len(excluded), k), np.inf, np.float32)
    edges = np.searchsorted(queries, np.arange(len(excluded) + 1))
    for number, unwanted in enumerate(excluded):
        here = slice(edges[number], edges[number + 1])
        wanted = np.flatnonzero(~np.isin(rows[here], unwanted))[:k]
        offsets[number, : len(wanted)] = rows[here][wanted]
        away[number, : len(wanted)] = distances[here][wanted]
    return offsets, away


def nested(batch: Any, format: str, count: int, k: int) -> Any:
    """A batch of `count` times `k` rows, so that each vector's are together."""
    if format not in ("torch", "python", "python_col"):
        return batch
    if isinstance(batch, dict):
        return {name: nested(column, format, count, k) for name, column in batch.items()}
    if isinstance(batch, torch.Tensor):
        return batch.reshape(count, k, *batch.shape[1:])
    return [batch[start : start + k] for start in range(0, count * k, k)]


def refuse_jagged(format: str, output: Output, schema: pa.Schema) -> None:
    """Raise for nested tensors, which cannot be cut into `k` rows for each vector."""
    if format != "torch" or output.described()["ragged"] != "jagged":
        return
    lists = [field.name for field in schema if is_list(field.type)]
    if lists:
        raise ValueError(
            f"column {lists[0]!r} has lists of different lengths, which nearest() cannot give as "
            "nested tensors: make the lookup with ragged='pad' or 'list', or leave the column out"
        )
