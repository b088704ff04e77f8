# SPDX-License-Identifier: Apache-2.0
"""Record batches as tensors: batched columns, rows, or one matrix.

torch is imported when a tensor is first made, so that the other formats do without it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .blob_files import are_files
from .nulls import NullPolicy
from .padding import RaggedPolicy

if TYPE_CHECKING:
    import numpy as np
    import torch

_NO_NULLS = NullPolicy()
_JAGGED = RaggedPolicy()


def torch_columns(
    batch: pa.RecordBatch | pa.Table, nulls: NullPolicy = _NO_NULLS, ragged: RaggedPolicy = _JAGGED
) -> dict[str, Any]:
    """A dict of batched columns: tensors where there are numbers, lists of values elsewhere.

    Raises
    ------
    ValueError
        If numbers are null and `nulls` says nothing for them, or do not fit a tensor.
    """
    out: dict[str, Any] = {}
    names = batch.schema.names  # made anew each time that it is asked for
    for of, column in zip(batch.schema, _columns_of(batch), strict=True):
        _put(out, of, column, (), names, nulls, ragged)
    return out


def torch_batches(
    batch: pa.RecordBatch, counts: Sequence[int], nulls: NullPolicy, ragged: RaggedPolicy
) -> list[dict[str, Any]]:
    """As `torch_columns` of consecutive slices of a batch, `counts` rows each.

    Most columns are converted once and cut; the slices' tensors then share one allocation. Only
    lists inside of other columns are converted slice by slice.
    """
    from .ragged import list_batches
    from .tensors import is_ragged

    edges = [0, *itertools.accumulate(counts)]
    outs: list[dict[str, Any]] = [{} for _ in counts]
    names = batch.schema.names
    for of, column in zip(batch.schema, _columns_of(batch), strict=True):
        if is_ragged(of.type):
            made = list_batches(column, edges, of.name, nulls, ragged)
            for out, (values, added) in zip(outs, made, strict=True):
                _put_lists(out, of.name, values, added, names, ragged)
        elif not holds_lists(of.type):
            whole: dict[str, Any] = {}
            _put(whole, of, column, (), names, nulls, ragged)
            for out, part in zip(outs, _cuts(whole[of.name], edges), strict=True):
                out[of.name] = part
        else:
            for out, start, count in zip(outs, edges, counts, strict=False):
                part = column.slice(start, count)
                _put(out, of, part, (), names, nulls, ragged)
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
    ragged: RaggedPolicy,
) -> None:
    """Add a column to the batched columns, with its lengths if it was padded."""
    from . import tensors
    from .ragged import lists

    path = (*path, of.name)
    name = ".".join(path)
    if are_files(of.type):
        out[of.name] = column.to_pylist()
        return
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
    elif tensors.is_ragged(array.type):
        _put_lists(out, of.name, *lists(array, name, nulls, ragged), siblings, ragged)
    else:
        out[of.name] = nulls.values(array, name)


def try_null(of: pa.Field, nulls: NullPolicy, ragged: RaggedPolicy) -> None:
    """Convert a null of a column, or of the lists in it: raises if its value does not fit."""
    from .tensors import is_ragged

    while is_ragged(of.type):
        of = of.type.value_field.with_name(of.name)
    _put({}, of, pa.nulls(1, of.type), (), [], nulls, ragged)


def _columns_of(batch: pa.RecordBatch | pa.Table) -> list[pa.Array]:
    """The columns in one piece each, none of them in memory of another's."""
    from .tensors import apart

    if isinstance(batch, pa.Table):
        return apart([column.combine_chunks() for column in batch.columns])
    return apart(batch.columns)


def _put_lists(
    out: dict[str, Any],
    name: str,
    values: Any,
    added: dict[str, torch.Tensor],
    siblings: list[str],
    ragged: RaggedPolicy,
) -> None:
    out[name] = values
    for suffix, more in added.items():
        if name + suffix in siblings:
            raise ValueError(
                f"ragged={ragged.mode!r} adds {name + suffix!r}, and there is a column of that "
                f"name: leave it out or rename it with columns={{'other_name': {name + suffix!r}}}"
            )
        out[name + suffix] = more


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


def holds_lists(kind: pa.DataType) -> bool:
    """Whether lists of different lengths are somewhere in a type."""
    from .tensors import is_list

    if isinstance(kind, pa.BaseExtensionType):
        return holds_lists(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return holds_lists(kind.value_type)
    children = (kind.field(number) for number in range(kind.num_fields))
    return is_list(kind) or any(holds_lists(child.type) for child in children)


def nests_lists(kind: pa.DataType) -> bool:
    """Whether lists of different lengths are in other lists, somewhere in a type."""
    from .tensors import is_list

    if isinstance(kind, pa.BaseExtensionType):
        return nests_lists(kind.storage_type)
    children = [kind.field(number).type for number in range(kind.num_fields)]
    is_outer = is_list(kind) or pa.types.is_fixed_size_list(kind)
    return (is_outer and any(map(holds_lists, children))) or any(map(nests_lists, children))


def _tensor(batch: pa.RecordBatch, name: str, nulls: NullPolicy, format: str) -> torch.Tensor:
    import torch

    value = torch_columns(batch.select([name]), NullPolicy(nulls.value_for(name)))[name]
    # Lists of lists are tensors in some batches only.
    if not isinstance(value, torch.Tensor) or holds_lists(batch.schema.field(name).type):
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
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            return column.to_numpy(zero_copy_only=False)
        if is_bfloat16(field):
            nulls = NullPolicy(math.nan)
    tensor = _tensor(batch, field.name, nulls, "torch_row")
    # numpy has no bfloat16, and float32 holds every value of it.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ImportError("the torch formats need PyTorch: pip install 'torch>=2.4'") from error
