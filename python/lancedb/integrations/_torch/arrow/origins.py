# SPDX-License-Identifier: Apache-2.0
"""The origins of rows, as columns of their own beside what was read of them.

They go wherever the rows go, cut and taken alike: into the threads and processes that transform.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_OFFSETS = "__offset_in_table__"
_KEYS = "__row_key__"
_SOURCES = "__source__"
_EPOCH = b"epoch"


@dataclass(frozen=True)
class Origins:
    """Where the rows of a batch come from.

    Parameters
    ----------
    offsets : numpy.ndarray of int64
        Where they stand in their table version.
    keys : numpy.ndarray of uint64, optional
        What their random numbers are made of, see `row_keys`; None where no seed is known.
    epoch : int, optional
        The epoch under way, None where it is not known.
    sources : numpy.ndarray of int64, optional
        The number of each row's table among several; None for one.
    """

    offsets: np.ndarray
    keys: np.ndarray | None = None
    epoch: int | None = None
    sources: np.ndarray | None = None

    def slices(self, counts: Sequence[int]) -> list[Origins]:
        """Those of consecutive rows, `counts` each."""
        ends = np.cumsum(counts)
        return [self._between(*each) for each in zip(ends - counts, ends, strict=True)]

    def _between(self, start: int, stop: int) -> Origins:
        return dataclasses.replace(
            self,
            offsets=self.offsets[start:stop],
            keys=None if self.keys is None else self.keys[start:stop],
            sources=None if self.sources is None else self.sources[start:stop],
        )


def with_origins(batch: pa.RecordBatch, origins: Origins) -> pa.RecordBatch:
    """A batch with columns that say where its rows come from."""
    known = {_OFFSETS: origins.offsets, _KEYS: origins.keys, _SOURCES: origins.sources}
    epoch = {} if origins.epoch is None else {_EPOCH: str(origins.epoch).encode()}
    columns, fields = list(batch.columns), list(batch.schema)
    for name, values in known.items():
        if values is not None:
            columns.append(pa.array(values))
            fields.append(pa.field(name, columns[-1].type, metadata=epoch))
    schema = pa.schema(fields, batch.schema.metadata)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def without_origins(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Origins | None]:
    """A batch as it was before `with_origins`, and what was put beside it, if anything was."""
    first = batch.schema.get_field_index(_OFFSETS)
    if first < 0:
        return batch, None
    beside = {name: batch.column(name).to_numpy() for name in batch.schema.names[first:]}
    epoch = (batch.schema.field(first).metadata or {}).get(_EPOCH)
    origins = Origins(
        beside[_OFFSETS],
        beside.get(_KEYS),
        None if epoch is None else int(epoch),
        beside.get(_SOURCES),
    )
    return batch.select(range(first)), origins
