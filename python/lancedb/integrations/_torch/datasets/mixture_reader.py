# SPDX-License-Identifier: Apache-2.0
"""The reader of a mixture: which rows it caches, how far ahead it reads, what stays open."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ..arrow.buffer_pool import keep_freed
from ..arrow.large_rows import Limits
from ..cache.columns import Cache
from ..cache.tables import most_cached
from ..common.counters import Stats
from ..frameworks.torch_loader import in_worker
from ..order.batch_sequence import BatchSequence
from ..order.layout import Layout
from ..order.read_schedule import Group, Span, schedule
from ..order.shuffle import READ_BYTES, read_rows
from ..pipeline.mixed_sources import MixedInput
from ..pipeline.mixture_windows import MixtureWindows
from ..pipeline.prefetch import ReadAhead
from ..table.sources import is_in_object_store
from .iterable import FAR_READS
from .mixing import MixedBatchesKind, MixedRowsKind
from .mixture_batches import MixedPlan, labelled_documents, rows_order_of
from .mixture_source import MixtureSource

_READS_TOGETHER = 3


class MixtureReader:
    """What reads the sources of a mixture in this process, epoch after epoch.

    Parameters
    ----------
    sources : mapping of str to MixtureSource
        By name.
    kind : MixedRowsKind or MixedBatchesKind
        What their batches have in common.
    cache : bool or "auto"
        Whether rows are cached in memory.
    """

    def __init__(
        self,
        sources: Mapping[str, MixtureSource],
        kind: MixedRowsKind | MixedBatchesKind,
        cache: Cache,
    ):
        self._sources = sources
        self._kind = kind
        self.cache: Cache = cache
        self._windows: MixtureWindows | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_windows": None}

    def caches(self, name: str, layout: Layout, is_alone: bool) -> bool:
        """Whether the rows of a source are read once, and cached in memory.

        Parameters
        ----------
        name : str
            The source.
        layout : Layout
            Its layout.
        is_alone : bool
            Whether no other process reads for the same batches.
        """
        source = self._sources[name]
        if self.cache is True:
            return True
        if self.cache is False or not source.may_be_cached:
            return False
        rows = max(source.size.rows, source.view.selection.num_rows)  # of which it may draw a few
        is_read_at_once = layout.lanes == 1 and layout.window_rows >= rows
        return is_read_at_once or (is_alone and self._all_fit)

    @property
    def _all_fit(self) -> bool:
        return sum(source.bytes_to_cache for source in self._sources.values()) <= most_cached()

    @contextlib.contextmanager
    def windows(self, plan: MixedPlan, rank: int) -> Iterator[MixtureWindows]:
        """The windows of an epoch, for this rank; a stream beside another has its own."""
        plan = rows_order_of(plan)
        before, self._windows = self._windows, None
        # Most workers end with the epoch.
        lasting = () if in_worker() else plan.parts_of(rank, plan.epoch + 1)
        windows = MixtureWindows(plan, lasting, self._kind.whole_steps, before)
        try:
            yield windows
        finally:
            windows.leave()
            self._windows = windows

    def opened(
        self,
        plan: MixedPlan,
        spans: Iterator[Span],
        windows: MixtureWindows,
        ahead: ReadAhead,
        stats: Stats,
        limits: Limits,
    ) -> tuple[MixedInput, Iterator[Group], ReadAhead]:
        """What a `Prefetcher` needs to know of the rows of some spans.

        Parameters
        ----------
        plan : MixedEpochOrder or BatchSequence
            The order of the rows, or the batches planned of them.
        spans : iterator of (int, int)
            The positions of each batch.
        windows : MixtureWindows
            Of the epoch.
        ahead : ReadAhead
            How far to read, from `read_ahead`.
        stats : Stats
            What is counted.
        limits : Limits
            What may be in memory beyond what the layout says.

        Returns
        -------
        rows : MixedInput
            Reads them, and makes record batches.
        groups : iterator
            What is read together, in sequence.
        ahead : ReadAhead
            How far.
        """
        sequence = plan if isinstance(plan, BatchSequence) else None
        plan = rows_order_of(plan)
        sources, one_call = [self._sources[order.name] for order in plan.sources], asyncio.Lock()
        of_sources = [
            source.rows(self._kind.schemas[order.name], order.in_memory, limits, one_call)
            for source, order in zip(sources, plan.sources, strict=True)
        ]
        for source, order in zip(sources, plan.sources, strict=True):
            if not order.in_memory or self.cache is True:
                source.fill_cache()
        names = tuple(order.name for order in plan.sources)
        labelled = partial(self._kind.labelled, names=names)
        if sequence is not None:
            labelled = partial(labelled_documents, self._kind.column, sequence)
        rows = MixedInput(
            plan, of_sources, labelled, stats, ahead.reads, windows, sequence, ahead.read_rows
        )
        # Rows that are wanted together are read in a call for each source: small calls cost more.
        reads = _READS_TOGETHER if sequence is None and len(plan.sources) > 1 else 1
        read = windows.planner if sequence is None else sequence
        groups = schedule(read, spans, ahead.read_rows, reads)
        keep_freed(reads * READ_BYTES)
        return rows, groups, dataclasses.replace(ahead, reads=-(-ahead.reads // reads))

    def read_ahead(self, plan: MixedPlan, reads: int, threads: int) -> ReadAhead:
        """How far to read: so many reads ahead of a store nearby, and threads to transform."""
        plan = rows_order_of(plan)
        weights = plan.mixture.weights_at(plan.mixture.start_of(plan.epoch))
        sizes = [self._sources[order.name].size.row_bytes for order in plan.sources]
        row_bytes = sum(w * size for w, size in zip(weights, sizes, strict=True)) // sum(weights)
        is_far = any(is_in_object_store(s.view.recipe.source) for s in self._sources.values())
        read, job = read_rows(max(1, row_bytes))
        return ReadAhead(read, job, reads * (FAR_READS if is_far else 1), threads)
