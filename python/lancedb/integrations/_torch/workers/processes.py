# SPDX-License-Identifier: Apache-2.0
"""A loader's worker processes: started by torch, and sent record batches as their indices."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from ..frameworks.private import part_of
from .batch_slots import BatchSlots, LocalBatch
from .epoch_feed import EpochFeed, RecordBatches, Ticket
from .worker_dataset import Unread, WorkerDataset


class WorkerProcesses:
    """The workers of one loader, which may persist from epoch to epoch.

    Parameters
    ----------
    make_dataset : callable
        What workers have in place of a dataset, given the slots and the loader's ``collate_fn``.
    """

    def __init__(self, make_dataset: Callable[[BatchSlots, Any], WorkerDataset]):
        self._make_dataset = make_dataset
        self._persistent: _Loader | None = None

    def start(self, loader: DataLoader, batches: RecordBatches) -> WorkerBatches:
        """The batches of an epoch, made by workers with the options of a loader.

        Workers that persist are known, as with any loader, by its ``_iterator``: where that was
        reset there are new ones.
        """
        inner = None if part_of(loader, "_iterator") is None else self._persistent
        if inner is None:
            slots = BatchSlots()
            inner = _Loader(loader, self._make_dataset(slots, loader.collate_fn), slots)
        begun = inner.start(batches)
        if loader.persistent_workers:
            self._persistent, loader._iterator = inner, inner._iterator
        return begun


class WorkerBatches:
    """An epoch's batches as workers make them.

    Parameters
    ----------
    by_torch : iterator
        torch's own, over the workers.
    feed : EpochFeed
        What they are sent.
    """

    def __init__(self, by_torch: Any, feed: EpochFeed):
        self.by_torch = by_torch
        self._feed = feed
        self._delivered = 0
        # Before torch ends its workers: the threads that send to them may be waiting for a read.
        self._close = weakref.finalize(self, feed.close)

    def __iter__(self) -> WorkerBatches:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self.by_torch)
        except StopIteration:
            self._close()
            raise
        except Exception as error:
            self._feed.note(error, self._delivered)
            raise
        if isinstance(batch, Unread):
            raise self._feed.error or RuntimeError("reading has ended")
        self._delivered += 1
        self._feed.note_delivered()
        return self._feed.take_finished(batch.number) if isinstance(batch, LocalBatch) else batch


class _Loader(DataLoader):
    """torch's loader over what workers have in place of a dataset."""

    def __init__(self, loader: DataLoader, dataset: WorkerDataset, slots: BatchSlots):
        options: dict[str, Any] = {"pin_memory_device": getattr(loader, "pin_memory_device", "")}
        self._slots = slots
        self._tickets = _Tickets()
        self._feed: EpochFeed | None = None
        super().__init__(
            dataset,
            batch_size=None,
            sampler=self._tickets,
            num_workers=loader.num_workers,
            collate_fn=as_it_is,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
            **{name: value for name, value in options.items() if value},
        )

    def check_worker_number_rationality(self) -> None:
        """Left to the loader whose workers these are, which has warned already."""

    def start(self, batches: RecordBatches) -> WorkerBatches:
        """Start the workers, or have those that persist go on, and send them their batches."""
        if self._feed is not None:
            self._feed.close()  # workers that persist have to come to the end of it
        under_way = self.num_workers * (self.prefetch_factor or 1)
        feed = self._feed = EpochFeed(batches, self._slots, under_way)
        self._tickets.of_epoch = feed.tickets()
        try:
            return WorkerBatches(iter(self), feed)
        except BaseException:
            feed.close()
            raise


class _Tickets:
    """What torch takes for a sampler: the tickets of the epoch that begins."""

    def __init__(self) -> None:
        self.of_epoch: Iterator[Ticket] = iter(())

    def __iter__(self) -> Iterator[Ticket]:
        return self.of_epoch


def as_it_is(batch: Any) -> Any:
    """The collate function for batches that are whole already."""
    return batch
