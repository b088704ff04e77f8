# SPDX-License-Identifier: Apache-2.0
"""An epoch that was begun, and of which nothing was taken yet."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from typing import Any

from ..datasets.cursor import EpochTracker
from ..workers.watchdog import WorkerWatch
from .throughput import Meters


class UnderWay:
    """An epoch with its workers, for the iterator that comes next; no iterator's own.

    Parameters
    ----------
    tracker : EpochTracker
        To come.
    meters : Meters
        What was measured so far.
    batches : iterator
        Of the pool.
    ahead : list
        The batch that was looked at, if any.
    watching : WorkerWatch, optional
        Over the workers.
    """

    def __init__(
        self,
        tracker: EpochTracker,
        meters: Meters,
        batches: Iterator[Any] | None,
        ahead: list[Any],
        watching: WorkerWatch | None,
    ):
        self.tracker = tracker
        self.meters = meters
        self.batches = batches
        self.ahead = ahead
        self._watch = watching
        self._process = os.getpid()
        self._drop = weakref.finalize(self, stop, watching)

    @property
    def is_here(self) -> bool:
        """Whether it was begun in this process, and not in the one that this was forked from."""
        return self._process == os.getpid()

    def release(self) -> WorkerWatch | None:
        """The watch, which whoever goes on with this stops from now on."""
        self._drop.detach()
        return self._watch


def stop(watching: WorkerWatch | None) -> None:
    """Stop a watch over workers, if there is one."""
    if watching is not None:
        watching.stop()
