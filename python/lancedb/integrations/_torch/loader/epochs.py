# SPDX-License-Identifier: Apache-2.0
"""The epochs of one loader: where each begins, who iterates it, and what is measured of it."""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

from ..common.counters import SECONDS
from ..datasets.cursor import EpochTracker
from ..datasets.step_orders import StepOrder
from ..frameworks.lightning import refuse_late_state
from ..workers.agreement import Agreement
from . import lightning_epochs
from .adapters import Adapter
from .throughput import Meters, Pace, hint
from .under_way import UnderWay

if TYPE_CHECKING:
    from .epoch_iterator import EpochIterator

_log = logging.getLogger("lancedb.integrations.torch")


class LoaderEpochs:
    """Begins the epochs of a loader, and passes on those of which nothing was taken.

    Parameters
    ----------
    dataset : ShardedDataset or LanceTorchDataset
        What is loaded.
    adapter : Adapter
        Of it.
    num_workers : int
        The loader's.
    name : str
        The loader's class, for what is logged.

    Attributes
    ----------
    cursor : EpochCursor
        Where the epoch stands.
    total : Pace
        Of all epochs.
    meters : Meters or None
        Of the iteration that was begun last.
    prepared : UnderWay or None
        An epoch whose first batch was looked at.
    is_ahead : bool
        Whether batches are asked for before they are used.
    is_restored : bool
        Whether a state was loaded.
    """

    def __init__(self, dataset: Any, adapter: Adapter, num_workers: int, name: str):
        self._dataset = dataset
        self._adapter = adapter
        self._num_workers = num_workers
        self._name = name
        self._agreement = Agreement()
        self._hints: set[str | None] = set()
        self.cursor = adapter.cursor
        self.total = Pace()
        self.meters: Meters | None = None
        self._latest: weakref.ref[EpochIterator] | None = None
        self.prepared: UnderWay | None = None
        self.is_ahead = self.is_restored = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_latest": None, "prepared": None}

    @property
    def latest(self) -> EpochIterator | None:
        """The iterator that was begun last; None if it is gone."""
        return None if self._latest is None else self._latest()

    def stats(self) -> dict[str, Any]:
        """As the dataset's, of this loader alone."""
        return self._dataset._stats_for(self)

    def order(self) -> StepOrder:
        """The order of the epoch under way, or else to come."""
        tracker = self.cursor.under_way
        if tracker is not None and tracker.is_under_way:
            return tracker.order
        standing = self._adapter.standing()
        return self._adapter.order(standing.layout).of(standing.place.epoch, standing.layout)

    def begin(self, iterator: EpochIterator) -> UnderWay | tuple[EpochTracker, Meters]:
        """What an iterator goes on with from now on: begun before and not taken from, or new.

        A new one begins where the next epoch is to begin.
        """
        before, self._latest = self.latest, weakref.ref(iterator)
        prepared, self.prepared = self.prepared, None
        tracker = self.cursor.under_way
        if tracker is not None and tracker.is_to_come:
            if prepared is None or prepared.tracker is not tracker or not prepared.is_here:
                prepared = None if before is None else before._pass_on()
            if prepared is not None:
                return prepared
        return self._begin()

    def begins_in(self, loop: Any) -> bool:
        """Heed a loop of Lightning's that asks for its first batch; whether one is to come.

        Raises
        ------
        RuntimeError
            If it begins to train without the state that it has for this loader.
        """
        if not self.is_restored:
            refuse_late_state(loop)
        return lightning_epochs.begins_in(self.cursor, loop)

    def advise(self, meters: Meters) -> None:
        """Log, once each, who waits for whom in an epoch and what to do about it."""
        now = self.stats()
        spent = {name: now[name] - meters.spent[name] for name in SECONDS}
        advice = hint(
            meters.steady,
            spent,
            self._adapter.order_name,
            self._num_workers,
            transform_threads=getattr(self._dataset, "transform_threads", None),
            cache_bytes=self._adapter.bytes_to_cache(),
        )
        remedy = advice.rpartition(": ")[2] if advice is not None else None
        if advice is not None and remedy not in self._hints:
            self._hints.add(remedy)
            _log.warning("%s: %s", self._name, advice)

    def _begin(self) -> tuple[EpochTracker, Meters]:
        self.cursor.take_back()
        order = self._adapter.order()
        layout = self.cursor.layout
        world_size = self._adapter.rank_and_world_size()[1]
        begins = self.cursor.begins.settled()
        self._agreement.check(world_size, lambda: self._dataset._arguments(order, layout), begins)
        tracker = self.cursor.begin(order)
        self._adapter.withdraw()
        self._dataset._counts.begin_for(self)
        self.meters = Meters(self.stats())
        return tracker, self.meters
