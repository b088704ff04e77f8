# SPDX-License-Identifier: Apache-2.0
"""Record batches in each format, wherever they came from.

torch is imported when a tensor is first made, so that the other formats do without it.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..arrow.take import slices
from .nulls import NullPolicy

if TYPE_CHECKING:
    import numpy as np
    import torch

FORMATS = (
    "python",
    "python_col",
    "numpy",
    "pandas",
    "polars",
    "arrow",
    "torch",
    "torch_row",
    "torch_col",
)
_NO_NULLS = NullPolicy()
_RAGGED = ("jagged", "pad", "list")


@dataclass(frozen=True)
class Converter:
    """A picklable function from `pyarrow.RecordBatch` to a format; see `make_converter`."""

    format: str
    nulls: NullPolicy = field(default_factory=NullPolicy)
    ragged: str = "jagged"

    def __call__(self, batch: pa.RecordBatch) -> Any:
        if self.format == "torch":
            return torch_columns(batch, self.nulls, self.ragged)
        if self.format == "torch_row":
            return torch_rows(batch, self.nulls)
        if self.format == "torch_col":
            return torch_matrix(batch, self.nulls)
        return _PLAIN[self.format](batch)

    def check(self, batch: pa.RecordBatch) -> None:
        """Raise if the format cannot carry the columns of an empty batch, or one's `fill_null`."""
        self(batch)
        for path, of in self.nulls.named(batch.schema).items():
            value = self.nulls.value_for(path)
            # A null list becomes an empty one: any other value is for nulls in lists.
            is_empty_list = isinstance(value, (list, tuple)) and not value and _is_list(of.type)
            if value is not None and not is_empty_list:
                _put_null(of.with_name(path), self.nulls, self.ragged)

    def each(self, batch: pa.RecordBatch, counts: Sequence[int]) -> list[Any]:
        """Consecutive slices of a batch, `counts` rows each, every one converted."""
        if self.format == "torch":
            return torch_batches(batch, counts, self.nulls, self.ragged)
        return [self(part) for part in slices(batch, counts)]


def make_converter(format: str, *, fill_null: Any = None, ragged: str = "jagged") -> Converter:
    """The conversion to a format.

    Parameters
    ----------
    format : str
        One of `FORMATS`.
    fill_null : scalar or dict, optional
        What stands in for nulls in tensors: for every column, or by column name.
    ragged : {"jagged", "pad", "list"}
        What a column of variable-length lists of numbers becomes in ``"torch"``.

    Raises
    ------
    ValueError
        If there is no such format or ragged mode, or the format has no use for an argument.

    Examples
    --------
    >>> batch = pa.record_batch({"x": [1, 2], "s": ["a", "b"]})
    >>> make_converter("torch")(batch)
    {'x': tensor([1, 2]), 's': ['a', 'b']}
    """
    if format not in FORMATS:
        near = difflib.get_close_matches(str(format), FORMATS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown format {format!r}: {hint}there are {', '.join(FORMATS)}")
    if ragged not in _RAGGED:
        raise ValueError(f"ragged must be one of {', '.join(_RAGGED)}, not {ragged!r}")
    if fill_null is not None and not format.startswith("torch"):
        raise ValueError(
            f"fill_null is for tensors, and format={format!r} makes none: leave it out, use "
            "format='torch', or fill nulls with columns={'name': \"coalesce(name, 0)\"}"
        )
    if ragged != "jagged" and format != "torch":
        raise ValueError(
            f"ragged={ragged!r} is for format='torch', and format={format!r} keeps lists as they "
            "are: leave it out"
        )
    return Converter(format, NullPolicy(fill_null), ragged)


def torch_columns(
    batch: pa.RecordBatch | pa.Table, nulls: NullPolicy = _NO_NULLS, ragged: str = "jagged"
) -> dict[str, Any]:
    """A dict of batched columns: tensors where there are numbers, lists of values elsewhere.

    Raises
    ------
    ValueError
        If numbers are null and `nulls` says nothing for them, or do not fit a tensor.
    """
    out: dict[str, Any] = {}
    for of, column in zip(batch.schema, _columns_of(batch), strict=True):
        _put(out, of, column, (), batch.schema.names, nulls, ragged)
    return out


def torch_batches(
    batch: pa.RecordBatch, counts: Sequence[int], nulls: NullPolicy, ragged: str
) -> list[dict[str, Any]]:
    """As `torch_columns` of consecutive slices of a batch, `counts` rows each.

    Most columns are converted once and cut; the slices' tensors then share one allocation. Only
    lists inside of other columns are converted slice by slice.
    """
    from .ragged import list_batches
    from .tensors import has_dense_elements

    edges = [0, *itertools.accumulate(counts)]
    outs: list[dict[str, Any]] = [{} for _ in counts]
    for of, column in zip(batch.schema, _columns_of(batch), strict=True):
        if _is_list(of.type) and has_dense_elements(of.type):
            made = list_batches(column, edges, of.name, nulls, ragged)
            for out, (values, lengths) in zip(outs, made, strict=True):
                _put_lists(out, of.name, values, lengths, batch.schema.names)
        elif not _holds_lists(of.type):
            whole: dict[str, Any] = {}
            _put(whole, of, column, (), batch.schema.names, nulls, ragged)
            for out, part in zip(outs, _cuts(whole[of.name], edges), strict=True):
                out[of.name] = part
        else:
            for out, start, count in zip(outs, edges, counts, strict=False):
                part = column.slice(start, count)
                _put(out, of, part, (), batch.schema.names, nulls, ragged)
    return outs


def torch_rows(batch: pa.RecordBatch, nulls: NullPolicy = _NO_NULLS) -> list[torch.Tensor]:
    """A tensor for each row: its numbers in the order of the columns, promoted as numpy does.

    A fixed-size list adds its elements, and bfloat16 counts as float32. Nulls become NaN unless
    `nulls` fills them.
    """
    import numpy as np
    import torch

    columns = [_row_numbers(batch, number, nulls) for number in range(batch.num_columns)]
    flat = [column.reshape(len(column), math.prod(column.shape[1:])) for column in columns]
    return list(torch.from_numpy(np.concatenate(flat, axis=1)).unbind(0))


def torch_matrix(batch: pa.RecordBatch, nulls: NullPolicy = _NO_NULLS) -> torch.Tensor:
    """One tensor whose first dimension is the columns and whose second is the rows."""
    import torch

    columns = [_tensor(batch, name, nulls, "torch_col") for name in batch.schema.names]
    shapes = {tuple(column.shape[1:]) for column in columns}
    if len(shapes) > 1:
        found = [tuple(column.shape[1:]) for column in columns]
        raise ValueError(
            f"format 'torch_col' stacks the columns, which must have one shape, not {found}; "
            "choose some with columns=, or use format='torch'"
        )
    return torch.stack(columns)


def batch_to_tensor_dict(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """A dict of tensors (or Python values) for each row, as ``with_format("torch")`` gives."""
    _require_torch()
    return split_rows(torch_columns(batch), batch.num_rows)


def batch_to_tensor_rows(batch: pa.RecordBatch) -> list[torch.Tensor]:
    """A tensor for each row, as ``with_format("torch_row")`` gives."""
    _require_torch()
    return torch_rows(batch)


def batch_to_tensor(batch: pa.RecordBatch) -> torch.Tensor:
    """A tensor with a row for each column, as ``with_format("torch_col")`` gives."""
    _require_torch()
    return torch_matrix(batch)


def split_rows(columns: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    """Batched columns as a list of row dicts."""
    split = {}
    for name, column in columns.items():
        if isinstance(column, dict):
            split[name] = split_rows(column, rows)
        else:
            split[name] = column if isinstance(column, list) else column.unbind(0)
    return [{name: column[i] for name, column in split.items()} for i in range(rows)]


def _put(
    out: dict[str, Any],
    of: pa.Field,
    column: Any,
    path: tuple[str, ...],
    siblings: list[str],
    nulls: NullPolicy,
    ragged: str,
) -> None:
    """Add a column to the batched columns, with its lengths if it was padded."""
    from . import tensors
    from .ragged import lists

    path = (*path, of.name)
    name = ".".join(path)
    array = tensors.plain(column)
    if isinstance(column.type, pa.FixedShapeTensorType):
        out[of.name] = tensors.shaped(column, name, nulls)
    elif tensors.is_bfloat16(of):
        out[of.name] = tensors.bfloat16(array, name, nulls)
    elif tensors.is_dense(array.type):
        out[of.name] = tensors.dense(array, name, nulls)
    elif pa.types.is_fixed_size_binary(array.type):
        out[of.name] = tensors.fixed_bytes(array, name, nulls)
    elif pa.types.is_struct(array.type):
        fields: dict[str, Any] = {}
        names = [child.name for child in array.type]
        for child, values in zip(array.type, array.flatten(), strict=True):
            _put(fields, child, values, path, names, nulls, ragged)
        out[of.name] = fields
    elif _is_list(array.type) and tensors.has_dense_elements(array.type):
        _put_lists(out, of.name, *lists(array, name, nulls, ragged), siblings)
    else:
        out[of.name] = nulls.values(array, name)


def _put_null(of: pa.Field, nulls: NullPolicy, ragged: str) -> None:
    """Convert a null of a column, or of the lists in it: raises if its value does not fit."""
    from .tensors import has_dense_elements

    while _is_list(of.type) and has_dense_elements(of.type):
        of = of.type.value_field.with_name(of.name)
    _put({}, of, pa.nulls(1, of.type), (), [], nulls, ragged)


def _columns_of(batch: pa.RecordBatch | pa.Table) -> list[pa.Array]:
    """The columns in one piece each, none of them in memory of another's."""
    from .tensors import apart

    if isinstance(batch, pa.Table):
        return apart([column.combine_chunks() for column in batch.columns])
    return apart(batch.columns)


def _put_lists(
    out: dict[str, Any], name: str, values: Any, lengths: torch.Tensor | None, siblings: list[str]
) -> None:
    out[name] = values
    if lengths is None:
        return
    added = name + "_length"
    if added in siblings:
        raise ValueError(
            f"ragged='pad' adds {added!r}, and there is a column of that name: leave it out or "
            f"rename it with columns={{'other_name': {added!r}}}"
        )
    out[added] = lengths


def _cuts(column: Any, edges: Sequence[int]) -> list[Any]:
    """Consecutive rows of a batched column, from edge to edge.

    A tensor is not copied, and yet no view: with a storage and a version counter of its own it
    may be changed in place, saved or sent without touching its neighbours.
    """
    from .tensors import cuts

    if isinstance(column, dict):
        fields = {name: _cuts(child, edges) for name, child in column.items()}
        batches = range(len(edges) - 1)
        return [{name: parts[number] for name, parts in fields.items()} for number in batches]
    if isinstance(column, list):
        return [column[start:stop] for start, stop in itertools.pairwise(edges)]
    return cuts(column, edges)


def _holds_lists(kind: pa.DataType) -> bool:
    """Whether lists of different lengths are somewhere in a type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _holds_lists(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _holds_lists(kind.value_type)
    children = (kind.field(number) for number in range(kind.num_fields))
    return _is_list(kind) or any(_holds_lists(child.type) for child in children)


def _tensor(batch: pa.RecordBatch, name: str, nulls: NullPolicy, format: str) -> torch.Tensor:
    import torch

    value = torch_columns(batch.select([name]), NullPolicy(nulls.value_for(name)))[name]
    if not isinstance(value, torch.Tensor) or value.is_nested:
        raise ValueError(
            f"column {name!r} of type {batch.schema.field(name).type} has no place in format "
            f"{format!r}: leave it out with columns=, or use format='torch'"
        )
    return value


def _row_numbers(batch: pa.RecordBatch, number: int, nulls: NullPolicy) -> np.ndarray:
    import torch

    from .tensors import is_bfloat16

    field, column = batch.schema.field(number), batch.column(number)
    if column.null_count and nulls.value_for(field.name) is None:
        if _is_real(field.type):
            return column.to_numpy(zero_copy_only=False)
        if is_bfloat16(field):
            nulls = NullPolicy(math.nan)
    tensor = _tensor(batch, field.name, nulls, "torch_row")
    # numpy has no bfloat16, and float32 holds every value of it.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _is_list(kind: pa.DataType) -> bool:
    return any(
        check(kind)
        for check in (
            pa.types.is_list,
            pa.types.is_large_list,
            pa.types.is_list_view,
            pa.types.is_large_list_view,
        )
    )


def _is_real(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ImportError("the torch formats need PyTorch: pip install 'torch>=2.4'") from error


def _to_polars(batch: pa.RecordBatch) -> Any:
    import polars

    return polars.from_arrow(batch)


def _to_itself(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch


_PLAIN: dict[str, Callable[[pa.RecordBatch], Any]] = {
    "python": pa.RecordBatch.to_pylist,
    "python_col": pa.RecordBatch.to_pydict,
    "numpy": lambda batch: batch.to_pandas().to_numpy(),
    "pandas": pa.RecordBatch.to_pandas,
    "polars": _to_polars,
    "arrow": _to_itself,
}
