# SPDX-License-Identifier: Apache-2.0
"""The two kinds of mixtures: batches with rows of all sources, and batches of one source each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrow.large_rows import with_column
from ..convert.by_source import SourceOutputs, of_source
from ..convert.on_error import OnError
from ..convert.transform import Output
from ..order.mixed_layout import MixedLayout
from ..order.mixture import FIRST, Mixture
from ..order.step_mixture import StepMixture
from ..order.window_slices import WindowSlices
from ..table.handle import empty_batch
from .mixture_arguments import check_source_column, common_schema
from .mixture_source import MixtureSource

Sources = Mapping[str, MixtureSource]


class MixedRowsKind:
    """Batches that have rows of all sources, and so one schema and one format.

    Parameters
    ----------
    sources : mapping of str to MixtureSource
        By name.
    output : Output
        What becomes of the mixed batches.
    column : str, optional
        The name of the column of sources.
    """

    whole_steps = False

    def __init__(self, sources: Sources, output: Output, column: Any):
        read = common_schema(sources)
        self.column = check_source_column(column, read)
        self.schemas = dict.fromkeys(sources, read)  # of what is read
        self.schema = _with_column(read, self.column)
        self.output: Any = output
        if output.makes_tensors:
            output.check(empty_batch(self.schema))

    @property
    def column_names(self) -> Any:
        """Those of the batches."""
        return self.schema.names

    def described(self, global_batch: int) -> dict[str, Any]:
        """What of it stands in a state."""
        return {"mix": "rows"}

    def mixture(self, sources: Sources, layout: MixedLayout, stop: Any, global_batch: int) -> Any:
        """Which source comes when."""
        return Mixture(_sizes(sources, layout), layout.changes, layout.shards, stop)

    def labelled(
        self, batch: pa.RecordBatch, pieces: WindowSlices, names: tuple[str, ...]
    ) -> pa.RecordBatch:
        """A batch with what is known of its rows; windows are numbered by source."""
        return _numbered(batch, pieces, self.column, len(names))


class MixedBatchesKind:
    """Batches of one source each, with its own schema and format.

    Parameters
    ----------
    sources : mapping of str to MixtureSource
        By name.
    on_error : {"raise", "skip"} or callable
        What becomes of rows on which a transform fails.
    column : str, optional
        The name of the column of sources.
    """

    whole_steps = True

    def __init__(self, sources: Sources, on_error: OnError, column: Any):
        self.schemas = {name: source.view.schema for name, source in sources.items()}
        for schema in self.schemas.values():
            self.column = check_source_column(column, schema)
        self.schema: Any = {
            name: _with_column(schema, self.column) for name, schema in self.schemas.items()
        }
        outputs = ((name, source.output) for name, source in sources.items())
        self.output: Any = SourceOutputs({n: each for n, each in outputs if each}, on_error)

    @property
    def column_names(self) -> Any:
        """Those of each source's batches."""
        return {name: schema.names for name, schema in self.schema.items()}

    def described(self, global_batch: int) -> dict[str, Any]:
        """What of it stands in a state: with other steps other rows would be of each source."""
        return {"mix": "batches", "global_batch": global_batch}

    def mixture(self, sources: Sources, layout: MixedLayout, stop: Any, global_batch: int) -> Any:
        """Which source comes when."""
        sizes = _sizes(sources, layout)
        for number, name in enumerate(layout.names):
            weighted = any(change.weights[number] for change in layout.changes)
            if stop == FIRST and weighted and sizes[number] < global_batch:
                raise ValueError(
                    f"source {name!r} has {sizes[number]} rows, which are less than one step of "
                    f"{global_batch}, so that an epoch would end before it: take "
                    'stop="all_exhausted" or a number of rows, or a smaller batch_size'
                )
        return StepMixture(sizes, layout.changes, layout.shards, stop, global_batch)

    def labelled(
        self, batch: pa.RecordBatch, pieces: WindowSlices, names: tuple[str, ...]
    ) -> pa.RecordBatch:
        """A batch with what is known of its rows; windows are numbered by source."""
        batch = _numbered(batch, pieces, self.column, len(names))
        return of_source(batch, names[int(pieces.windows[0]) % len(names)])


def _sizes(sources: Sources, layout: MixedLayout) -> tuple[int, ...]:
    return tuple(sources[name].size.rows for name in layout.names)


def _with_column(schema: pa.Schema, column: str | None) -> pa.Schema:
    return schema if column is None else schema.append(pa.field(column, pa.int64()))


def _numbered(
    batch: pa.RecordBatch, pieces: WindowSlices, column: str | None, sources: int
) -> pa.RecordBatch:
    """A batch with a column of the number of each row's source, if that is wanted."""
    if column is None:
        return batch
    return with_column(batch, column, np.repeat(pieces.windows % sources, pieces.counts))
