# SPDX-License-Identifier: Apache-2.0
"""Sources of planned batches: groups of a shard's rows, from which batches are taken.

A group of a block shuffle comes out of the windows of its shard's lanes, each block of which is
read once. It stays in memory, in the order of its shard, until its last batch was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..arrow import take
from ..arrow.buffer_pool import WindowMemory
from ..arrow.documents import Planned, with_plan
from ..order.batch_sequence import BatchSequence
from ..order.epoch_order import EpochOrder
from ..order.mixed_shards import MixedShardWindows
from ..order.read_schedule import RowOrder, WindowRows, in_reads
from ..order.shard_windows import ShardWindows
from ..order.shards import Shards
from ..order.window_slices import WindowSlices
from ..table.reader import PendingRead
from .sources import Label, LabelledSource, Reads, RunSource, Source, WindowSource


def rows_plan_of(plan: RowOrder) -> EpochOrder:
    """The order of one table's rows, of which planned batches are made."""
    return _shards_of(plan).plan if isinstance(plan, BatchSequence) else plan


def plan_to_read(plan: RowOrder) -> RowOrder | Shards:
    """Whose windows are read: those of the shards where groups come out of them."""
    if isinstance(plan, BatchSequence):
        shards = _shards_of(plan)
        return shards if shards.plan.has_windows and shards.body_rows else plan
    return plan


def _shards_of(sequence: BatchSequence) -> Shards:
    assert isinstance(sequence.shards, Shards)
    return sequence.shards


def source_of(
    sequence: BatchSequence, reads: Reads, memory: WindowMemory, read_rows: int
) -> Source:
    """Where the rows of planned batches come from, if not out of memory.

    Parameters
    ----------
    sequence : BatchSequence
        The epoch's batches.
    reads : Reads
        Of the windows of the rows' plan if groups come out of them; else of the sequence's.
    memory : WindowMemory
        For rows of windows.
    read_rows : int
        Rows of one call to the reader.
    """
    shards = _shards_of(sequence)
    if plan_to_read(sequence) is shards:
        windows = WindowSource(reads, memory)
        return GroupSource(sequence, windows, ShardWindows(shards), read_rows)
    if shards.plan.has_windows:
        return WholeSource(sequence, reads)
    return RunSource(reads)


class _Coming(NamedTuple):
    """A group whose windows are being read: their pieces, and those that it is the last of."""

    pieces: WindowSlices
    spent: Sequence[int]


class GroupSource:
    """As `Source`, whose windows are groups in the order of their batches.

    Parameters
    ----------
    sequence : BatchSequence
        The epoch's batches.
    windows : WindowSource
        Where the rows of groups come from.
    schedule : ShardWindows or MixedShardWindows
        Which windows these are.
    read_rows : int
        Rows of one call to the reader.
    """

    def __init__(
        self,
        sequence: BatchSequence,
        windows: WindowSource,
        schedule: ShardWindows | MixedShardWindows,
        read_rows: int,
    ):
        self._sequence = sequence
        self._windows = windows
        self._read_rows = read_rows
        self._schedule = schedule
        self._coming: dict[int, _Coming] = {}
        self._open: dict[int, pa.RecordBatch] = {}

    def begin(self, windows: Sequence[WindowRows]) -> None:
        for group in windows:
            shard = self._sequence.lane_of(group.window)
            span = self._sequence.group_span(group.window)
            pieces, opened, spent = self._schedule.next(shard, *span)
            for read in in_reads(opened, self._read_rows):
                self._windows.begin(read)
            self._coming[group.window] = _Coming(pieces, spent)

    def batch(self, pieces: WindowSlices) -> pa.RecordBatch:
        parts = []
        for window, begin, count in pieces.joined():
            places = self._sequence.window(window).places[begin : begin + count]
            parts.append(take.take(self._group(window), places))
        return take.concatenate(parts)

    def _group(self, window: int) -> pa.RecordBatch:
        if window in self._coming:
            coming = self._coming.pop(window)
            self._open[window] = self._windows.batch(coming.pieces)
            for spent in coming.spent:
                self._windows.drop(spent)
        return self._open[window]

    def drop(self, window: int) -> None:
        self._open.pop(window, None)

    def close(self) -> None:
        self._open.clear()
        self._coming.clear()
        self._windows.close()


class WholeSource:
    """As `Source`, over a table that is one window: read as a whole, in the order of the table."""

    def __init__(self, sequence: BatchSequence, reads: Reads):
        self._sequence = sequence
        self._reads = reads
        self._reading: PendingRead | None = None

    def begin(self, windows: Sequence[WindowRows]) -> None:
        if self._reading is None:
            self._reading = self._reads.begin_rows(np.arange(self._reads.rows))

    def batch(self, pieces: WindowSlices) -> pa.RecordBatch:
        assert self._reading is not None
        rows, order = self._sequence.rows_of(pieces), self._reading.order
        return take.take(self._reading.rows(), rows if order is None else order[rows])

    def drop(self, window: int) -> None:
        """Nothing: the other groups need it."""

    def close(self) -> None:
        self._reading = None


def planned_source(sequence: BatchSequence, source: Source) -> Source:
    """A source whose batches say what was planned for the documents in them.

    Parameters
    ----------
    sequence : BatchSequence
        The epoch's batches.
    source : Source
        Where their rows come from.
    """

    def label(pieces: WindowSlices) -> Label | None:
        planned = sequence.planned(pieces)
        return None if planned is None else partial(with_plan, planned=Planned(*planned))

    return LabelledSource(source, label)
