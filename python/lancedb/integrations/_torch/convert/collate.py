# SPDX-License-Identifier: Apache-2.0
"""Batched columns that pass through `default_collate` as they are, and as rows if need be.

`default_collate` looks at the type of a batch's first element. Ours is a `Row`, which is
registered there: a whole `RowBatch` collates to its columns at no cost, and loose rows, as
`ConcatDataset` makes lists of them, are put together again column by column.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
import torch.utils.data

from ..frameworks.private import part_of
from . import nested_tensor as nested

JoinLists = Callable[[list[Any], tuple[str, ...], Collection[str]], Any]


class Row(dict):
    """One row as a dict of its values, which remembers the batch that it is a row of."""

    __slots__ = ("batch", "index")

    def __init__(self, batch: RowBatch, index: int):
        super().__init__({name: pick(column, index) for name, column in batch.columns.items()})
        self.batch = batch
        self.index = index

    def __reduce__(self) -> tuple:
        columns = {name: cut(column, self.index) for name, column in self.batch.columns.items()}
        one = RowBatch(columns, 1, self.batch.join_lists)
        return Row, (one, 0)


class OpaqueRow:
    """One row of a batch that is no dict of columns."""

    def __init__(self, batch: RowBatch, index: int):
        self.batch = batch
        self.index = index

    @property
    def value(self) -> Any:
        return pick(self.batch.columns, self.index)


class RowBatch(Sequence):
    """A sequence of rows over columns that stay batched until a row is asked for.

    Parameters
    ----------
    columns : dict of str to batched column
        Tensors, lists or dicts of such; or any other value with a row in each element.
    num_rows : int
        How many rows there are.
    join_lists : callable, optional
        Called with a column of each of several batches where these have other shapes or forms, as
        lists of different lengths have, with the column's path and the names beside it.

    Attributes
    ----------
    columns : dict of str to batched column
        As given: what ``default_collate`` makes of this sequence.

    Examples
    --------
    >>> rows = RowBatch({"x": torch.arange(3), "s": ["a", "b", "c"]}, 3)
    >>> rows[1]
    {'x': tensor(1), 's': 'b'}
    >>> torch.utils.data.default_collate(rows) is rows.columns
    True
    """

    def __init__(self, columns: Any, num_rows: int, join_lists: JoinLists | None = None):
        self.columns = columns
        self.join_lists = join_lists
        self._num_rows = num_rows

    @property
    def __class__(self) -> type:  # type: ignore[override]
        """A list: collators take other sequences for one dict of columns."""
        return list

    def __reduce__(self) -> tuple:
        return type(self), (self.columns, self._num_rows, self.join_lists)

    def __len__(self) -> int:
        """How many rows there are."""
        return self._num_rows

    def __getitem__(self, index: Any) -> Any:
        """One row as a dict of its values, or a list of the rows of a slice.

        Raises
        ------
        IndexError
            If there is no such row.
        TypeError
            If `index` is a column's name, or no whole number.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if isinstance(index, str):
            raise TypeError(
                f"these are {len(self)} rows, and {index!r} is no row number: rows[0][{index!r}] "
                f"is a value of the first, rows.columns[{index!r}] the batched column"
            )
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} is out of range for a batch of {len(self)} rows")
        kind = Row if isinstance(self.columns, dict) else OpaqueRow
        return kind(self, index % len(self))

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        return len(self) == len(other) and all(map(same, self, other))

    def __repr__(self) -> str:
        return f"RowBatch of {len(self)} rows: {list(self[:3])!r}" + (
            " ..." if len(self) > 3 else ""
        )


class WholeBatch(RowBatch):
    """A batch in whatever form, which `default_collate` is to leave as it is."""

    def __getitem__(self, index: Any) -> OpaqueRow:
        return OpaqueRow(self, index)


class NoRows(RowBatch):
    """A batch whose rows were all left out, which `default_collate` takes as any other.

    It asks for the first row to see of what kind they are, and then for no value of it.
    """

    def __getitem__(self, index: Any) -> Any:
        return OpaqueRow(self, 0) if index == 0 else super().__getitem__(index)


def pick(column: Any, index: int) -> Any:
    """One row's value out of a batched column."""
    if isinstance(column, dict):
        return {name: pick(field, index) for name, field in column.items()}
    if isinstance(column, tuple):
        return tuple(pick(field, index) for field in column)
    if isinstance(column, torch.Tensor):
        return _row_of(column, index)
    return column[index] if is_column(column) else column


def is_value_of(value: Any, column: Any, index: int) -> bool:
    """Whether a row's value is still the one that `pick` gave; it may have changed in place."""
    if isinstance(column, dict):
        return (
            isinstance(value, dict)
            and value.keys() == column.keys()
            and all(is_value_of(value[name], column[name], index) for name in column)
        )
    if not isinstance(column, torch.Tensor):
        return value is pick(column, index)
    own = _row_of(column, index)
    return (
        isinstance(value, torch.Tensor)
        and value.data_ptr() == own.data_ptr()
        and (value.shape, value.dtype, value.stride()) == (own.shape, own.dtype, own.stride())
    )


def _row_of(column: torch.Tensor, index: int) -> torch.Tensor:
    return nested.row(column, index) if column.is_nested else column[index]


def is_column(value: Any) -> bool:
    """Whether something in a batch has a value for each row: a transform may add what has none."""
    return hasattr(value, "__getitem__") and not isinstance(value, (str, bytes))


def cut(column: Any, index: int) -> Any:
    """One row of a batched column, still batched, in memory of its own."""
    if isinstance(column, dict):
        return {name: cut(field, index) for name, field in column.items()}
    if isinstance(column, torch.Tensor) and column.is_nested:
        return torch.nested.as_nested_tensor([_row_of(column, index)], layout=torch.jagged)
    one = column[index : index + 1]
    return one.clone() if isinstance(one, torch.Tensor) else one


def join(
    parts: list[Any],
    join_lists: JoinLists | None = None,
    path: tuple[str, ...] = (),
    siblings: Collection[str] = (),
) -> Any:
    """Batched columns of the same kind, one after the other."""
    first = parts[0]
    if isinstance(first, dict):
        return {
            name: join([part[name] for part in parts], join_lists, (*path, name), first)
            for name in first
        }
    if not any(isinstance(part, torch.Tensor) for part in parts):
        return [value for part in parts for value in part]
    if all(isinstance(part, torch.Tensor) and not part.is_nested for part in parts) and (
        join_lists is None or len({part.shape[1:] for part in parts}) == 1
    ):
        return torch.cat(parts)
    if join_lists is not None:
        return join_lists(parts, path, siblings)
    rows = [row for part in parts for row in part.unbind()]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def same(a: Any, b: Any) -> bool:
    """Whether two rows' values are equal, tensors element by element."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        a, b = torch.as_tensor(a, device="cpu"), torch.as_tensor(b, device="cpu")
        return a.shape == b.shape and bool((a == b).all())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def collate_rows(batch: Any, *, collate_fn_map: Any = None) -> Any:
    """The columns of a row batch as they are; of loose rows, put together again."""
    if isinstance(batch, RowBatch):
        return batch.columns
    if all(isinstance(row, Row) and row.keys() == batch[0].keys() for row in batch):
        return {name: _collated(name, batch, collate_fn_map) for name in batch[0]}
    return _collated_by_torch([dict(row) for row in batch], collate_fn_map)


def _collated(name: str, rows: list[Row], collate_fn_map: Any) -> Any:
    """One column of loose rows: as their batches have it, or what its new values collate to."""
    if not all(
        name in row.batch.columns and is_value_of(row[name], row.batch.columns[name], row.index)
        for row in rows
    ):
        values = [row[name] for row in rows]
        return _collated_by_torch(values, collate_fn_map)
    columns = [row.batch.columns[name] for row in rows]
    first = columns[0]
    if isinstance(first, torch.Tensor) and not first.is_nested and all(c is first for c in columns):
        return first[torch.tensor([row.index for row in rows], device=first.device)]
    parts = [cut(column, row.index) for row, column in zip(rows, columns, strict=True)]
    return join(parts, rows[0].batch.join_lists, (name,), rows[0])


def _collated_by_torch(values: list[Any], collate_fn_map: Any) -> Any:
    """What torch makes of values, by the functions that its caller has for each type."""
    collate = part_of(torch.utils.data, "_utils.collate.collate")
    if collate is None:
        return torch.utils.data.default_collate(values)
    return collate(values, collate_fn_map=collate_fn_map)


def register() -> None:
    """Make `default_collate` know rows; does nothing the second time.

    Raises
    ------
    ImportError
        If this version of torch has no such registry.
    """
    known = part_of(torch.utils.data, "_utils.collate.default_collate_fn_map")
    if known is None:
        raise ImportError(
            "this version of PyTorch cannot collate rows lazily: lancedb-torch needs torch>=2.4"
        )
    known.update({Row: collate_rows, OpaqueRow: collate_rows})


register()
