# SPDX-License-Identifier: Apache-2.0
"""The formats, in one table, and the conversion of record batches to each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ..arrow.take import slices
from ..common.checks import did_you_mean, shown
from .blob_files import BlobSource, to_pandas, to_polars, with_files
from .collate import pick
from .exact import check_exact
from .nulls import NullPolicy, field_paths
from .padding import RaggedPolicy
from .tensors import is_list, is_ragged
from .torch_columns import torch_batches, torch_columns, torch_matrix, torch_rows, try_null


@dataclass(frozen=True)
class Converter:
    """A picklable function from `pyarrow.RecordBatch` to a format; see `make_converter`."""

    format: str
    nulls: NullPolicy = field(default_factory=NullPolicy)
    ragged: RaggedPolicy = field(default_factory=RaggedPolicy)
    files: Mapping[str, BlobSource] = field(default_factory=dict)

    def __call__(self, batch: pa.RecordBatch) -> Any:
        return self._convert(with_files(batch, self.files))

    def _convert(self, batch: pa.RecordBatch) -> Any:
        format = FORMATS[self.format]
        made = format.convert(batch, self.nulls, self.ragged)
        if format.promotes:
            check_exact(batch, self.format, made)
        return made

    def check(self, batch: pa.RecordBatch) -> None:
        """Raise if the format cannot carry the columns of an empty batch, or one's `fill_null`."""
        self._check_padding(self(batch), batch.schema)
        check_fill_null(batch.schema, self.nulls, self.ragged)

    def _check_padding(self, made: Any, schema: pa.Schema) -> None:
        if not self.ragged.pads:
            return
        known = dict(path for of in schema for path in field_paths(of))
        padded = {path: of for path, of in known.items() if is_ragged(of.type)}
        self.ragged.check({path: _at(made, path).dtype for path in padded}, schema)

    def each(self, batch: pa.RecordBatch, counts: Sequence[int]) -> list[Any]:
        """Consecutive slices of a batch, `counts` rows each, every one converted."""
        batch = with_files(batch, self.files)
        convert = FORMATS[self.format].convert_many
        if convert is not None:
            return convert(batch, counts, self.nulls, self.ragged)
        return [self._convert(part) for part in slices(batch, counts)]


def check_fill_null(schema: pa.Schema, nulls: NullPolicy, ragged: RaggedPolicy) -> None:
    """Raise if a value for a column does not fit it, or one for all columns fits none."""
    for path, of in nulls.named(schema).items():
        value = nulls.value_for(path)
        # A null list becomes an empty one: any other value is for nulls in lists.
        is_empty_list = isinstance(value, (list, tuple)) and not value and is_list(of.type)
        if value is not None and not is_empty_list:
            try_null(of.with_name(path), nulls, ragged)
    if nulls.fill_null is None or isinstance(nulls.fill_null, Mapping):
        return
    leaves = [of.with_name(path) for each in schema for path, of in field_paths(each)]
    filled = [of for of in leaves if _error_of_null(of, NullPolicy(), ragged) is not None]
    errors = [_error_of_null(of, nulls, ragged) for of in filled]
    if errors and None not in errors:
        raise errors[0]  # type: ignore[misc]


def _error_of_null(of: pa.Field, nulls: NullPolicy, ragged: RaggedPolicy) -> ValueError | None:
    try:
        try_null(of, nulls, ragged)
    except ValueError as error:
        return error
    return None


def make_converter(
    format: str,
    *,
    fill_null: Any = None,
    ragged: str = "jagged",
    pad_value: Any = 0,
    pad_to: Any = None,
    files: Mapping[str, BlobSource] | None = None,
) -> Converter:
    """The conversion to a format.

    Parameters
    ----------
    format : str
        One of `FORMATS`.
    fill_null : scalar or dict, optional
        What stands in for nulls in tensors: for every column, or by column name.
    ragged, pad_value, pad_to
        What a column of variable-length lists of numbers becomes in ``"torch"``: see
        `RaggedPolicy`.
    files : mapping of str to BlobSource, optional
        The columns of row ids that are to be files.

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
    if not isinstance(format, str) or format not in FORMATS:
        raise ValueError(f"unknown format {shown(format)}: {did_you_mean(format, FORMATS)}")
    if fill_null is not None and not FORMATS[format].makes_tensors:
        raise ValueError(
            f"fill_null is for tensors, and format={format!r} makes none: leave it out, use "
            "format='torch', or fill nulls with columns={'name': \"coalesce(name, 0)\"}"
        )
    about_lists = {"ragged": ragged} if ragged != "jagged" else {}
    about_lists |= {"pad_value": pad_value} if not _is_zero(pad_value) else {}
    about_lists |= {"pad_to": pad_to} if pad_to is not None else {}
    if about_lists and format != "torch":
        name, value = next(iter(about_lists.items()))
        raise ValueError(
            f"{name}={value!r} is for format='torch', and format={format!r} keeps lists as they "
            "are: leave it out"
        )
    padding = RaggedPolicy(ragged, pad_value, pad_to)
    return Converter(format, NullPolicy(fill_null), padding, files or {})


def _at(columns: dict[str, Any], path: str) -> Any:
    """A column by its name, or a field of a struct by ``"struct.field"``."""
    for name, column in columns.items():
        if name == path:
            return column
        if isinstance(column, dict) and path.startswith(name + "."):
            return _at(column, path[len(name) + 1 :])
    raise KeyError(path)


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0


def _any_row(batch: Any) -> Any:
    if isinstance(batch, pa.RecordBatch):
        return batch.to_pylist()[0]
    return pick(batch, 0) if isinstance(batch, (dict, tuple)) else batch[0]


def _row_of(attribute: str, row: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Of a batch that has an attribute: a transform may have made another kind of it."""
    return lambda batch: row(batch) if hasattr(batch, attribute) else _any_row(batch)


@dataclass(frozen=True)
class Format:
    """How batches of a format are made.

    Parameters
    ----------
    convert : callable
        Makes one of a record batch, by what stands for nulls and what lists become.
    convert_many : callable, optional
        Makes consecutive ones, of so many rows each, in less time than one by one.
    makes_tensors : bool
        Whether nulls must be filled, and columns may not fit.
    promotes : bool
        Whether whole numbers may become floats; else each column keeps its type.
    row : callable
        The first row of a batch, also of one that a transform made.
    """

    convert: Callable[[pa.RecordBatch, NullPolicy, RaggedPolicy], Any]
    convert_many: Callable[..., list[Any]] | None = None
    makes_tensors: bool = False
    promotes: bool = False
    row: Callable[[Any], Any] = _any_row


def _plain(convert: Callable[[pa.RecordBatch], Any], **more: Any) -> Format:
    return Format(lambda batch, nulls, ragged: convert(batch), **more)


def _stacked(convert: Callable[[pa.RecordBatch, NullPolicy], Any], **more: Any) -> Format:
    """Of all columns together, as tensors of one type."""
    return Format(lambda batch, nulls, _: convert(batch, nulls), None, True, promotes=True, **more)


FORMATS: dict[str, Format] = {
    "python": _plain(pa.RecordBatch.to_pylist),
    "python_col": _plain(pa.RecordBatch.to_pydict),
    "numpy": _plain(lambda batch: to_pandas(batch).to_numpy(), promotes=True),
    "pandas": _plain(to_pandas, promotes=True, row=_row_of("iloc", lambda batch: batch.iloc[0])),
    "polars": _plain(to_polars, row=_row_of("row", lambda batch: batch.row(0, named=True))),
    "arrow": _plain(lambda batch: batch),
    "torch": Format(torch_columns, torch_batches, makes_tensors=True),
    "torch_row": _stacked(torch_rows),
    "torch_col": _stacked(torch_matrix, row=_row_of("select", lambda batch: batch.select(1, 0))),
}
