# SPDX-License-Identifier: Apache-2.0
"""The makers of a loader's batches: this process, or torch's iterator over worker processes.

A pool is asked to `start` an epoch at a place, and gives an iterator of batches; `stop` ends the
workers of one that failed. All else about workers, persistent or new, late or dead, is in here.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from ..datasets.base import warn_of_new_workers
from ..datasets.cursor import EpochTracker
from ..frameworks.private import part_of
from ..workers.processes import WorkerProcesses, as_it_is
from ..workers.signals import end_by_killing, spared_from_handled_signals
from ..workers.start import without_a_main_that_is_no_file
from ..workers.watchdog import describe_worker, first_ended, kill_workers
from .adapters import Adapter, IterableAdapter, MappedAdapter
from .in_process import InProcess, draw_seed, on_the_cpu

_log = logging.getLogger("lancedb.integrations.torch")


class WorkerPool:
    """Makes the batches of one loader's epochs.

    Parameters
    ----------
    loader : DataLoader
        Whose options and workers these are. It owns the pool, which has a weak reference to it.
    adapter : Adapter
        Of its dataset.
    """

    def __init__(self, loader: DataLoader, adapter: Adapter):
        self._loader_ref = weakref.ref(loader)
        self._adapter = adapter
        self._processes: WorkerProcesses | None = None
        self._started = 0
        if loader.num_workers and isinstance(adapter, IterableAdapter):
            self._processes = WorkerProcesses(adapter.worker_dataset)

    @property
    def _loader(self) -> Any:
        return self._loader_ref()

    def persistent(self) -> Iterator[Any] | None:
        """torch's iterator over the workers that persist; None if there are to be new ones.

        For one that has died since the last epoch torch would raise, at every epoch to come. Those
        of the process that this one was forked from are not ours.
        """
        found = part_of(self._loader, "_iterator")
        if found is None or part_of(found, "_shutdown", False):
            self._loader._iterator = None
            return None
        gone = first_ended(found)
        if gone is None:
            return found
        worker = describe_worker(found, gone).worker
        _log.warning(
            "%s: %s between epochs; all are started anew", type(self._loader).__name__, worker
        )
        self.stop(found)
        return None

    def start(self, tracker: EpochTracker) -> Iterator[Any]:
        """The batches of an epoch from where a tracker begins."""
        with spared_from_handled_signals(), without_a_main_that_is_no_file(), on_the_cpu():
            batches = self._start(tracker)
        end_by_killing(batches)
        return batches

    def _start(self, tracker: EpochTracker) -> Iterator[Any]:
        if not tracker.has_more():
            return iter(())  # as where an epoch that has ended is named: no worker is needed
        if isinstance(self._adapter, MappedAdapter):
            self._warn_if_rows_are_read_anew()
            self._adapter.sampler.begin_at(tracker.at)
            return DataLoader.__iter__(self._loader)
        if self._processes is not None:
            batches = self._adapter.record_batches(tracker, self._batches_are_whole)
            return self._processes.start(self._loader, batches)
        if self._needs_no_torch:
            draw_seed(self._loader.generator)
            return InProcess(self._adapter.batches(tracker), self._loader.collate_fn)
        with self._adapter.iterated(tracker):
            return DataLoader.__iter__(self._loader)

    def _warn_if_rows_are_read_anew(self) -> None:
        loader, self._started = self._loader, self._started + 1
        ends = loader.num_workers and not loader.persistent_workers
        if self._started == 2 and ends and loader.dataset.cache is True:
            warn_of_new_workers(stacklevel=10)

    def stop(self, batches: Iterator[Any] | None) -> None:
        """End the workers of an iterator that failed; the next `start` makes them anew."""
        self._loader._iterator = None
        by_torch = getattr(batches, "by_torch", batches)
        if part_of(by_torch, "_workers"):
            kill_workers(by_torch)  # torch would wait five seconds for each that is busy
            part_of(by_torch, "_shutdown_workers", tuple)()

    @property
    def _batches_are_whole(self) -> bool:
        """Whether a batch is delivered as the dataset makes it."""
        return self._loader.collate_fn is as_it_is and not self._loader.pin_memory

    @property
    def _needs_no_torch(self) -> bool:
        """Whether nothing is left to do for a batch but to deliver it."""
        loader = self._loader
        return not (loader.num_workers or loader.pin_memory or loader.timeout)
