# SPDX-License-Identifier: Apache-2.0
"""The dataset of a loader's worker processes: a record batch in, a batch out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lancedb_torch_worker
import pyarrow as pa
from torch.utils.data import Dataset

from ..arrow.origins import without_origins
from ..common.counters import Stats
from ..common.shared_records import SharedRecords
from ..convert.on_error import Partial, SkippedRows
from ..convert.transform import Output, only_row
from ..frameworks.torch_loader import process_number
from .batch_slots import BatchSlots, LocalBatch
from .start import begin_worker


class Unread:
    """Stands for a batch that the loader could not read: it knows why."""


class WorkerDataset(Dataset):
    """Makes batches of the record batches that the loader has read.

    Parameters
    ----------
    output : Output
        What becomes of each record batch.
    collate : callable
        The loader's ``collate_fn``; None for batches that are whole already.
    unwrap : bool
        Whether a batch of one row is that row.
    counts : SharedRecords
        Where workers count, see `Stats`.
    skipped : SkippedRows
        Where they list the rows that were left out.
    slots : BatchSlots
        Where the record batches are.
    """

    def __init__(
        self,
        output: Output,
        collate: Callable[[Any], Any] | None,
        unwrap: bool,
        counts: SharedRecords | None,
        skipped: SkippedRows,
        slots: BatchSlots,
    ):
        self._output = output
        self._collate = collate
        self._unwrap = unwrap
        self._counts = counts
        self._skipped = skipped
        self._slots = slots
        self._stats: Stats | None = None

    def __reduce__(self) -> Any:
        self._output.check_sendable()
        return lancedb_torch_worker.restore, (type(self), self.__dict__)

    def __getitem__(self, place: tuple[Any]) -> Any:
        stats = self._begun()
        if place[0] is None:
            return Unread()
        if isinstance(place[0], LocalBatch):
            return place[0]
        # What a user's function refers to of a batch must not change with the slot.
        is_shared = self._output.transform is None and self._collate is None
        batch = self._slots.get(place[0], copy=not is_shared)
        made = self._made_of(batch, stats)
        if self._unwrap:
            made = only_row(made, self._output.format)
        return made if self._collate is None else self._collate(made)

    def _made_of(self, batch: pa.RecordBatch, stats: Stats) -> Any:
        alone, origins = without_origins(batch)
        made = self._output(batch if self._output.takes_context else alone, stats)
        if not isinstance(made, Partial) or origins is None:
            return made
        stats.add(skipped=len(made.bad))
        on_error = self._output.on_error
        numbers = getattr(on_error, "numbers", None)  # of a mixture, which has several tables
        rows = origins.offsets if numbers is None else numbers(origins)
        self._skipped.report(made, rows, on_error, process_number())
        return made.batch

    def _begun(self) -> Stats:
        """What this process counts with; at its first batch it is made a worker of ours."""
        if self._stats is None:
            begin_worker()
            self._stats = Stats(self._counts, process_number())
        return self._stats
