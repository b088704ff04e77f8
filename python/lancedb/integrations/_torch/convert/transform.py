# SPDX-License-Identifier: Apache-2.0
"""The output of a dataset: record batches in its format, then the user's transform."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrow.origins import Origins, without_origins
from ..arrow.take import slices, take
from ..common.counters import Stats
from ..common.pickling import check_sendable, name_of
from ..frameworks.hugging_face import MASK, TOKENS, makes_masks
from . import formats as convert
from .blob_files import BlobSource, with_files
from .collate import JoinLists, is_column, join
from .context import TransformContext, takes_context
from .nulls import NullPolicy, with_those_of
from .on_error import OnError, Trial, check_policy, make_what_can_be
from .one_row import note_if_written_for_one_row
from .packed import PackedRows, make_packed_converter
from .padding import RaggedPolicy
from .ragged import join_lists
from .tensors import is_ragged
from .torch_columns import holds_lists, nests_lists


@dataclass
class Failed:
    """Stands for a batch that could not be converted, so that those before it are delivered."""

    error: Exception


@dataclass
class Converted:
    """A batch that waits for the transform: in its format, and its rows if they may be needed."""

    value: Any
    rows: pa.RecordBatch | None
    origins: Origins | None = None

    def take(self) -> Any:
        """The value, which is released here; raises what converting it raised."""
        value, self.value = self.value, None
        if isinstance(value, Failed):
            raise value.error
        return value


class Output:
    """Turns record batches into what the user asked for.

    Parameters
    ----------
    format : str, optional
        One of `convert.FORMATS`. None is ``"python"``, or the record batch itself when there is
        a `transform`.
    transform : callable, optional
        Called with each batch in that format, and with a `TransformContext` if it takes two
        arguments; what it returns is the batch.
    fill_null, ragged, pad_value, pad_to
        As in `convert.make_converter`.
    on_error : {"raise", "skip"} or callable
        With anything but "raise", rows on which `transform` fails are left out: see `__call__`.
    files : mapping of str to BlobSource, optional
        The columns of row ids that are to be files.
    packed : PackedRows, optional
        What documents are packed into: then record batches say what was planned for each.
    """

    is_for_workers = False  # whether batches are transferred to worker processes as they are

    def __init__(
        self,
        format: str | None,
        transform: Callable[..., Any] | None,
        fill_null: Any = None,
        ragged: str = "jagged",
        pad_value: Any = 0,
        pad_to: Any = None,
        on_error: OnError = "raise",
        files: Mapping[str, BlobSource] | None = None,
        packed: PackedRows | None = None,
    ):
        if transform is not None and not callable(transform):
            raise TypeError(f"transform must be callable, not {type(transform).__name__}")
        if format is None:
            format = "python" if transform is None else "arrow"
        self.format: str = format
        self.transform = transform
        self.takes_context = takes_context(transform)
        self.on_error = check_policy(on_error)
        if transform is None and on_error != "raise":
            raise ValueError(f"on_error={on_error!r} is about transform, and there is none")
        self._trial = Trial()
        self.files = files or {}
        make: Any = functools.partial(convert.make_converter, files=files)
        if packed is not None:
            make = functools.partial(make_packed_converter, packed)
            if files:
                raise ValueError(
                    f"blobs='file' opens {', '.join(map(repr, files))} row by row, and Packing has "
                    "documents: leave them out with columns=, or use blobs='bytes'"
                )
        self._is_packed = packed is not None
        self._convert: Any = make(
            self.format, fill_null=fill_null, ragged=ragged, pad_value=pad_value, pad_to=pad_to
        )

    @property
    def ragged(self) -> RaggedPolicy:
        """What lists of numbers become."""
        return self._convert.ragged

    @property
    def nulls(self) -> NullPolicy:
        """What stands in for nulls."""
        return self._convert.nulls

    @property
    def pads(self) -> bool:
        """Whether converted batches may be many times as large as their rows: one long list."""
        return self._convert.ragged.pads

    def refuse_padding_twice(self, collate_fn: Any, schema: pa.Schema) -> None:
        """Raise a ValueError if a loader's collator would take padding for tokens."""
        if not self.pads or self.transform is not None or not makes_masks(collate_fn):
            return
        at = schema.get_field_index(TOKENS)
        if at >= 0 and is_ragged(schema.field(at).type) and MASK not in schema.names:
            raise ValueError(
                f"{type(collate_fn).__name__} pads {TOKENS!r} and makes their {MASK!r} itself, and "
                f"would take the padding of ragged={self.ragged.mode!r} for tokens: use "
                "ragged='list', or leave collate_fn out and have the dataset pad, by ragged='mask' "
                "and pad_value="
            )

    @property
    def makes_tensors(self) -> bool:
        """Whether columns have to be such as tensors can hold."""
        return self._is_packed or convert.FORMATS[self.format].makes_tensors

    @property
    def join_lists(self) -> JoinLists | None:
        """How columns of lists of numbers are joined; None where a transform may have made them."""
        ragged = self._convert.ragged
        if self.transform is not None and not ragged.pads:
            return None
        return functools.partial(join_lists, ragged=ragged)

    def schema_of(self, schema: pa.Schema) -> pa.Schema:
        """The schema of what is converted, where `schema` is that of what is read."""
        columns = [pa.nulls(0, of.type) for of in schema]
        return with_files(pa.RecordBatch.from_arrays(columns, schema=schema), self.files).schema

    def described(self) -> dict[str, Any]:
        """What decides how batches are made, by the names of a dataset's arguments."""
        ragged = self._convert.ragged
        return {
            "format": self.format,
            "transform": self.transform,
            "on_error": self.on_error,
            "fill_null": self._convert.nulls.fill_null,
            "ragged": ragged.mode,
            "pad_value": ragged.pad_value,
            "pad_to": ragged.pad_to,
        }

    def makes_rows_alone(self, schema: pa.Schema) -> bool:
        """Whether a row of a batch is what a batch of this row alone would hold.

        A transform sees how many rows there are, padding is as long as the longest row, and what
        lists in lists become depends on all of a batch.
        """
        if self.transform is not None or self.format not in ("python", "torch") or self.pads:
            return False
        return not any(map(nests_lists, schema.types))

    def __call__(self, batch: pa.RecordBatch, stats: Stats) -> Any:
        """The batch in its format, after the transform; a `Partial` if rows were left out."""
        if self.on_error == "raise":
            return self._make(batch, stats)
        return self._make_what_can_be(batch, stats)

    def convert(self, batch: pa.RecordBatch, counts: Sequence[int], stats: Stats) -> list[Any]:
        """What can be done ahead for consecutive slices of a batch: all but the transform."""
        if self.transform is None:
            return self._each(batch, counts, stats)
        rows: list[Any] = [None] * len(counts)
        alone, origins = self._without_origins(batch)
        if self.on_error != "raise":
            rows = slices(batch, counts)
            # The transform may change what it is given, before it fails.
            alone = take(alone, np.arange(batch.num_rows))
        values = self._each(alone, counts, stats)
        of_each = [None] * len(counts) if origins is None else origins.slices(counts)
        return list(map(Converted, values, rows, of_each))

    def converts_parts(self, schema: pa.Schema) -> bool:
        """Whether a batch may be converted part by part: where each value is one of its row."""
        plain = self.format in ("python", "python_col", "torch") and not self._is_packed
        alone = not self.takes_context and self.on_error == "raise" and not self.files
        return plain and alone and not any(map(holds_lists, schema.types))

    def convert_parts(self, parts: Iterator[pa.RecordBatch], stats: Stats) -> Any:
        """As `convert`, of one batch in parts, of which each is dropped as soon as it was used."""
        with stats.timed("converting"):
            try:
                made: Any = join([self._convert(part) for part in parts])
            except Exception as error:
                made = Failed(with_those_of(error, parts, self._convert))
        return made if self.transform is None else Converted(made, None)

    def complete(self, converted: Any, stats: Stats) -> Any:
        """As the call, of one that `convert` began; raises what went wrong with this very one."""
        if isinstance(converted, Failed):
            raise converted.error
        if not isinstance(converted, Converted):
            return converted

        def transformed() -> Any:
            return self._transform(converted.take(), stats, converted.origins)

        if converted.rows is None:
            return transformed()
        return self._make_what_can_be(converted.rows, stats, transformed)

    def _each(self, batch: pa.RecordBatch, counts: Sequence[int], stats: Stats) -> list[Any]:
        """Consecutive slices in their format, or in their place what converting them raised."""
        with stats.timed("converting"):
            try:
                return self._convert.each(batch, counts)
            except Exception:  # then it is found out which of them it is
                return [self._attempt(part) for part in slices(batch, counts)]

    def _attempt(self, batch: pa.RecordBatch) -> Any:
        try:
            return self._convert(batch)
        except Exception as error:
            return Failed(error)

    def _make_what_can_be(
        self, batch: pa.RecordBatch, stats: Stats, first: Callable[[], Any] | None = None
    ) -> Any:
        make = functools.partial(self._make, stats=stats)
        made = make_what_can_be(batch, make, self._make_empty, first)
        self._trial.note(made, batch.num_rows)
        return made

    def _make(self, batch: pa.RecordBatch, stats: Stats) -> Any:
        batch, origins = self._without_origins(batch)
        with stats.timed("converting"):
            value = self._convert(batch)
        return value if self.transform is None else self._transform(value, stats, origins)

    def _make_empty(self, batch: pa.RecordBatch) -> Any:
        return self._convert(self._without_origins(batch)[0])

    def _without_origins(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Origins | None]:
        """A batch that was read, and where its rows come from if the transform is to know."""
        return without_origins(batch) if self.takes_context else (batch, None)

    def _transform(self, value: Any, stats: Stats, origins: Origins | None) -> Any:
        assert self.transform is not None
        arguments = (value,) if origins is None else (value, TransformContext(origins))
        with stats.timed("transforming"):
            try:
                made = self.transform(*arguments)
            except Exception as error:
                note_if_written_for_one_row(error, value)
                raise
        if made is None:
            name = name_of(self.transform)
            warnings.warn(f"transform {name} returned None, and that is the batch", stacklevel=2)
        return made

    def check(self, batch: pa.RecordBatch) -> None:
        """Raise if the format cannot carry the columns of an empty batch."""
        self._convert.check(batch)

    def check_sendable(self) -> None:
        """Raise a TypeError that says what to do if a callable cannot reach a worker."""
        for name, function in (("transform", self.transform), ("on_error", self.on_error)):
            check_sendable(name, function)


def count_rows(batch: Any) -> int | None:
    """How many rows a batch has in whatever form it is; None where that is not clear."""
    if isinstance(batch, (dict, tuple)):
        columns = batch.values() if isinstance(batch, dict) else batch
        counts = {count_rows(column) for column in columns if is_column(column)}
        return counts.pop() if len(counts) == 1 else None
    if isinstance(batch, pa.RecordBatch):
        return batch.num_rows
    try:
        return len(batch)
    except TypeError:
        return None


def only_row(batch: Any, format: str) -> Any:
    """The row of a batch of one row; a batch that a transform made another of, as it is."""
    return convert.FORMATS[format].row(batch) if count_rows(batch) == 1 else batch
