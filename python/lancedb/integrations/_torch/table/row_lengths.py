# SPDX-License-Identifier: Apache-2.0
"""The number of tokens of each row of a selection: read once, four bytes a row, for all workers."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..common.per_process import PerProcess
from ..common.pickling import send_to_new_processes
from ..common.shared_memory import SharedArray
from .reader import Reader
from .recipe import Recipe
from .selection import Selection
from .sql import names_in_backticks, reason
from .whole_column import whole_column

CachedNumbers = Callable[[Reader, str, Callable[[], np.ndarray]], np.ndarray]

_NULL = -(2**31) + 1
_COUNTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
    pa.types.is_fixed_size_list,
)


class RowLengths:
    """The lengths of rows, by their place in a selection's base order.

    Parameters
    ----------
    recipe : Recipe
        How to open the table.
    selection : Selection
        Whose rows.
    expression : str
        A column of whole numbers or of lists, which are counted; or an SQL expression for one.
    fill : int, optional
        What stands in for nulls; of a list, any value makes it an empty one.
    check : callable
        Called with all lengths, and what names a row by its place, once they are read.
    kept : callable, optional
        Called with the reader of the column, what its numbers are called and what reads them;
        returns them, also as another process has cached them.
    """

    def __init__(
        self,
        recipe: Recipe,
        selection: Selection,
        expression: str,
        fill: int | None,
        check: Callable[[np.ndarray, Callable[[int], str]], None],
        kept: CachedNumbers | None = None,
    ):
        self.expression = expression
        self._recipe = recipe
        self._selection = selection
        self._fill = fill
        self._check = check
        self._kept = kept
        self._read: SharedArray | None = None
        # A fork may come while another thread reads.
        self._locks: PerProcess[threading.Lock] = PerProcess()
        self._check_type()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": None}

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The lengths of some rows, as int64; all are read when the first are asked for."""
        return self._all().array[rows].astype(np.int64)

    def _all(self) -> SharedArray:
        with self._locks.get(threading.Lock):
            if self._read is None:
                lengths = self._lengths()
                self._refuse_bad(lengths)
                self._check(lengths, self._named)
                self._read = SharedArray(lengths)
            return self._read

    def _lengths(self) -> np.ndarray:
        reader = self._reader()

        def read() -> np.ndarray:
            return whole_column(reader, np.int32, self._counted)

        if self._kept is None:
            return read()
        made = "lengths" if self._fill is None else f"lengths, {self._fill} for null"
        return self._kept(reader, made, read)

    def _reader(self) -> Reader:
        return Reader(
            self._recipe, self._selection, {"length": names_in_backticks(self.expression)}
        )

    def _check_type(self) -> None:
        try:
            kind = self._reader().schema.field(0).type
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"lengths={self.expression!r} cannot be evaluated: {reason(error)}"
            ) from error
        self._counts_lists = any(check(kind) for check in _COUNTS)
        if not (pa.types.is_integer(kind) or self._counts_lists):
            raise ValueError(
                f"lengths={self.expression!r} is of type {kind}: it must be whole numbers, or "
                "lists, which are counted"
            )

    def _counted(self, column: pa.Array, start: int) -> np.ndarray:
        if not pa.types.is_integer(column.type):
            column = pc.call_function("list_value_length", [column])
            fill = None if self._fill is None else 0
        else:
            fill = self._fill
        if column.null_count:
            column = pc.fill_null(column.cast(pa.int64()), _NULL if fill is None else fill)
        return np.clip(column.to_numpy(), _NULL, -_NULL).astype(np.int32)

    def _refuse_bad(self, lengths: np.ndarray) -> None:
        bad = np.flatnonzero(lengths < 1)
        if not len(bad):
            return
        row, length = int(bad[0]), int(lengths[bad[0]])
        if length == _NULL:
            fill = "" if self._counts_lists else "fill_null=, or "
            raise ValueError(
                f"{self._named(row)} has no length, as {self.expression!r} is null there: pass "
                f"{fill}filter={self.expression + ' IS NOT NULL'!r}"
            )
        what = "is empty" if length == 0 else f"has length {length}"
        raise ValueError(
            f"{self._named(row)} {what} by lengths={self.expression!r}, and batches of tokens take "
            "documents of one or more: leave such rows out with filter="
        )

    def _named(self, row: int) -> str:
        offset = int(self._selection.offsets(np.array([row]))[0])
        return f"row {offset} of {self._recipe.describe()}"


def _with_all(lengths: RowLengths) -> Any:
    """So that a process that is started maps what it would read."""
    reduced: Any = lengths.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
    make, arguments, state = reduced[:3]
    return make, arguments, {**state, "_read": lengths._all()}


send_to_new_processes(RowLengths, _with_all)
