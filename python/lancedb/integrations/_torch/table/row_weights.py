# SPDX-License-Identifier: Apache-2.0
"""Weights by which rows are drawn: those of a column, or each value of a column alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..common.checks import shown
from ..common.shared_memory import SharedArray
from ..order.weighted import cumulative, drawn
from .reader import Reader
from .recipe import Recipe
from .selection import Selection
from .sql import names_in_backticks, reason
from .whole_column import whole_column

_NULL = -1


class RowWeights:
    """The rows that the points of an epoch draw; eight bytes a row, shared by all processes.

    Parameters
    ----------
    weights : numpy.ndarray of float64
        Of each row of a selection, in its base order.
    points : int
        How many rows are drawn in an epoch.
    """

    def __init__(self, weights: np.ndarray, points: int):
        self._ends = SharedArray(cumulative(weights, points))

    def rows(self, points: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """The row that each of some points draws."""
        return drawn(self._ends.array, points, seed, epoch)


def read_weights(
    recipe: Recipe, selection: Selection, sample_weights: str | None, balance_by: str | None
) -> np.ndarray:
    """The weight of each row of a selection.

    Raises
    ------
    ValueError
        If the column or expression cannot be read, or its values are no weights; the message names
        the first row that is wrong.
    TypeError
        If it is no string.
    """
    is_balanced = balance_by is not None
    name, column = ("balance_by", balance_by) if is_balanced else ("sample_weights", sample_weights)
    if not isinstance(column, str) or not column.strip():
        said = shown(column)
        raise TypeError(f"{name} must be a column's name or an SQL expression, not {said}")
    reader = Reader(recipe, selection, {name: names_in_backticks(column)})
    try:
        kind = reader.schema.field(0).type
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{name}={column!r} cannot be read: {reason(error)}") from error
    read = _Column(name, column, kind, reader)
    return read.balanced() if is_balanced else read.weights()


class _Column:
    """A column by which rows are drawn, and how its errors name it."""

    def __init__(self, name: str, column: str, kind: pa.DataType, reader: Reader):
        self._argument = f"{name}={column!r}"
        self._column = column
        self._kind = kind
        self._reader = reader

    def weights(self) -> np.ndarray:
        """The column's own values."""
        if not _is_number(self._kind):
            raise ValueError(f"{self._argument} is of type {self._kind}, and weights are numbers")
        weights = whole_column(self._reader, np.float64, _as_floats)
        bad = np.flatnonzero(~(weights >= 0) | np.isinf(weights))  # nulls are NaN
        if len(bad):
            value = weights[bad[0]]
            said = "null or NaN" if np.isnan(value) else repr(float(value))
            raise ValueError(
                f"{self._argument} is {said} in {self._named(bad[0])}, and weights must be finite "
                f"and not negative: {len(bad)} of {len(weights)} rows are so. Leave them out with "
                f"filter=, or give an expression such as {self._fixed(float(value))!r}"
            )
        if len(weights) and not weights.any():
            raise ValueError(f"{self._argument} is 0 in every row: none can be drawn")
        return weights

    def _fixed(self, bad: float) -> str:
        """An expression in place of the column that has no such weights."""
        if np.isnan(bad):
            if pa.types.is_boolean(self._kind):
                return f"COALESCE({self._column}, false)"
            number = (
                f"NANVL({self._column}, 0)" if pa.types.is_floating(self._kind) else self._column
            )
            return f"COALESCE({number}, 0)"
        return f"LEAST({self._column}, 1000)" if bad > 0 else f"GREATEST({self._column}, 0)"

    def balanced(self) -> np.ndarray:
        """Weights by which each value of the column comes as often as any other."""
        numbers: dict[Any, int] = {None: _NULL}

        def numbered(part: pa.Array, start: int) -> np.ndarray:
            found = part if pa.types.is_dictionary(part.type) else part.dictionary_encode()
            known = [
                numbers.setdefault(each, len(numbers) - 1) for each in found.dictionary.to_pylist()
            ]
            codes = pc.fill_null(found.indices.cast(pa.int64()), _NULL).to_numpy()
            return np.where(codes == _NULL, _NULL, np.array([*known, _NULL])[codes])

        if pa.types.is_nested(self._kind):
            raise ValueError(
                f"{self._argument} is of type {self._kind}, and values to balance are numbers, "
                "strings or the like"
            )
        codes = whole_column(self._reader, np.int64, numbered)
        nulls = np.flatnonzero(codes == _NULL)
        if len(nulls):
            raise ValueError(
                f"{self._argument} is null in {self._named(nulls[0])}, and in {len(nulls)} of "
                f"{len(codes)} rows: leave them out with "
                f"filter={f'{self._column} IS NOT NULL'!r}, or name them with an expression such "
                f"as {f'COALESCE({self._column}, ...)'!r}"
            )
        return (1 / np.bincount(codes))[codes] if len(codes) else np.zeros(0)

    def _named(self, row: np.integer) -> str:
        offset = int(self._reader.selection.offsets(np.array([row]))[0])
        return f"row {offset} of {self._reader.recipe.describe()}"


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
    )


def _as_floats(part: pa.Array, start: int) -> np.ndarray:
    return pc.fill_null(part.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False)
