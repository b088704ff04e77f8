# SPDX-License-Identifier: Apache-2.0
"""The nearest rows of several vectors, by one search of lancedb's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from lancedb.table import Table


class Nearest(NamedTuple):
    """A search for the nearest rows of vectors.

    Parameters
    ----------
    vectors : numpy.ndarray of float32, shape (n, dimensions)
        Whose neighbours.
    count : int
        How many of each, at most.
    column : str
        The column of vectors.
    filter : str, optional
        An SQL condition on the rows.
    metric : str, optional
        "l2", "cosine" or "dot"; None for the index's own, or "l2".
    """

    vectors: np.ndarray
    count: int
    column: str
    filter: str | None = None
    metric: str | None = None


NONE_FOUND = pa.record_batch(
    [pa.nulls(0, kind) for kind in (pa.int64(), pa.int64(), pa.float32())],
    names=["query", "offset", "distance"],
)


def search(table: Table, asked: Nearest) -> pa.RecordBatch:
    """The rows found: which vector they are for, their offset and distance, nearest first."""
    alone = len(asked.vectors) == 1
    query: Any = table.search(
        asked.vectors[0] if alone else asked.vectors, vector_column_name=asked.column
    )
    query = query.select(["_rowoffset", "_distance"]).limit(asked.count)
    if asked.metric is not None:
        query = query.distance_type(asked.metric)
    if asked.filter is not None:
        query = query.where(asked.filter)
    found = query.to_arrow().combine_chunks()
    queries = np.zeros(len(found), np.int64) if alone else found["query_index"].to_numpy()
    columns = {
        "query": queries.astype(np.int64),
        "offset": found["_rowoffset"].to_numpy().astype(np.int64),
        "distance": found["_distance"].to_numpy().astype(np.float32),
    }
    order = np.lexsort((columns["distance"], columns["query"]))
    return pa.record_batch({name: pa.array(each[order]) for name, each in columns.items()})


def vector_columns(schema: pa.Schema) -> dict[str, int]:
    """The columns of vectors that a table has, and how many dimensions each has."""
    return {field.name: field.type.list_size for field in schema if _is_vector(field.type)}


def check_vectors(known: Mapping[str, int], column: str | None) -> str:
    """The column of vectors that is meant.

    Raises
    ------
    ValueError
        If none is named and there are several or none, or the named one is no column of vectors.
    """
    if column is None and len(known) == 1:
        return next(iter(known))
    if column in known:
        return str(column)
    there = f"the table has {', '.join(map(repr, known))}" if known else "the table has none"
    if column is None:
        if not known:
            raise ValueError("nearest() needs a column of vectors (fixed-size lists): " + there)
        raise ValueError(f"column= must name the column of vectors that is searched: {there}")
    raise ValueError(f"column={column!r} is no column of vectors (fixed-size lists): {there}")


def _is_vector(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)
