# SPDX-License-Identifier: Apache-2.0
"""Adapters of the two kinds of datasets for a loader: their order, and states of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..common.checks import whole_number
from ..datasets.cursor import EpochCursor, EpochTracker
from ..datasets.map_style import LanceTorchDataset
from ..datasets.sharded import ShardedDataset
from ..datasets.step_orders import RankOrder, StepOrder
from ..order.shuffle import ShuffleSpec
from ..order.state import Position, read_state, refuse_allowances
from ..order.steps import Steps
from ..workers.batch_slots import BatchSlots
from ..workers.epoch_feed import RecordBatches
from ..workers.rank import resolve_rank
from ..workers.worker_dataset import WorkerDataset
from .sampler import OrderedBatchSampler


class IterableAdapter:
    """One loader's place in the epochs of an iterable dataset, and states of it.

    Two loaders may have the same dataset, and each is at an epoch and a layout of its own. Where
    the dataset itself is set, each of them begins there.
    """

    def __init__(self, dataset: ShardedDataset):
        self._dataset = dataset
        self.cursor = EpochCursor()
        self._replaced: EpochCursor | None = None
        self._synced = -1 if dataset._is_named else dataset._cursor.generation
        self.sync()

    @property
    def order_name(self) -> str:
        """ "none", "block" or "global"."""
        return self._dataset._order_name

    @property
    def batch_size(self) -> int:
        return self._dataset.batch_size

    def rank_and_world_size(self) -> tuple[int, int]:
        return self._dataset.rank_and_world_size()

    def steps(self) -> Steps:
        return self._dataset._steps(0, self.cursor.place.epoch, self.cursor.layout)

    def order(self, layout: Any = None) -> StepOrder:
        return self._dataset._epoch_order(self.cursor.layout if layout is None else layout)

    def standing(self) -> EpochCursor:
        """The cursor as it is once it has gone where the dataset itself was set since."""
        if self._dataset._cursor.generation == self._synced:
            return self.cursor
        there = EpochCursor()
        there.follow(self._dataset._cursor)
        return there

    def sync(self) -> bool:
        """Go where the dataset itself was set since; whether it was."""
        generation = self._dataset._cursor.generation
        if generation == self._synced:
            return False
        self._synced = generation
        self._replaced = None
        self.cursor.follow(self._dataset._cursor)
        return True

    def announce(self) -> None:
        """Have whoever iterates the dataset in place of this loader begin where it would."""
        if self._replaced is None:
            self._replaced = self._dataset._cursor.copy()
        self._dataset._cursor.follow(self.cursor)

    def withdraw(self) -> None:
        """Have the dataset begin where it did before, as this loader has begun; nobody else has."""
        replaced, self._replaced = self._replaced, None
        if replaced is not None and self._dataset._cursor.is_named:
            self._dataset._cursor.go_back(replaced)

    def iterated(self, tracker: EpochTracker) -> Any:
        """A context in which the dataset is iterated, by torch, from where a tracker begins."""
        begins = EpochCursor()
        begins.join(tracker.at, self.cursor.layout)
        return self._dataset._iterated_by(begins)

    def record_batches(self, tracker: EpochTracker, are_whole: bool) -> RecordBatches:
        """What workers are to make batches of, from where a tracker begins; see the dataset's."""
        self._dataset._note_loader()
        return self._dataset._record_batches(tracker.at, self.cursor.layout, are_whole)

    def worker_dataset(self, slots: BatchSlots, collate: Any) -> WorkerDataset:
        """What workers have in place of the dataset."""
        return self._dataset._worker_dataset(slots, collate)

    def batches(self, tracker: EpochTracker) -> Any:
        """The dataset's batches from where a tracker begins, made in this process."""
        self._dataset._note_loader()
        own = EpochTracker(tracker.at, tracker.order)
        return self._dataset._batches(own, self.cursor.layout, EpochCursor())

    def bytes_to_cache(self) -> int | None:
        """What ``cache=True`` would cache; None where it is cached already, or would not fit."""
        return self._dataset._bytes_to_cache()

    def read_state(
        self, state: Mapping[str, Any], allow: Iterable[str] = ()
    ) -> tuple[Position, Any]:
        """Check a state; where it was taken, and the layout of its order."""
        return self._dataset._read_state(state, self.cursor.layout, allow)

    def progress(self, at: Position) -> dict[str, Any]:
        """How far each source of a mixture has come at a place."""
        return self._dataset._progress(at, self.cursor.layout)


class MappedAdapter:
    """The order of a map-style dataset's batches, and states of it."""

    def __init__(
        self,
        dataset: LanceTorchDataset,
        batch_size: int | None,
        shuffle: bool | None,
        seed: int,
        drop_last: bool,
    ):
        if shuffle not in (None, False, True, "global"):
            raise ValueError(
                f"shuffle={shuffle!r} is for LanceIterableTorchDataset: LanceTorchDataset is read "
                "row by row, and shuffled as a whole with shuffle=True"
            )
        size = (
            dataset.batch_size if batch_size is None else whole_number("batch_size", batch_size, 1)
        )
        order = ShuffleSpec(
            rows=dataset.num_rows,
            row_bytes=1,
            shuffle="global" if shuffle else False,
            seed=seed,
        )
        self._dataset = dataset
        dataset._rows.describe()  # while the table is there: a state must not need it any more
        self.sampler = OrderedBatchSampler(order, size, drop_last)
        self.cursor = EpochCursor()

    @property
    def order_name(self) -> str:
        """ "sampler": rows are asked for one batch at a time, whatever their order."""
        return "sampler"

    @property
    def batch_size(self) -> int:
        return self.sampler.batch_size

    def rank_and_world_size(self) -> tuple[int, int]:
        return resolve_rank(None, None)

    def steps(self) -> Steps:
        return self.sampler.steps()

    def order(self, layout: Any = None) -> RankOrder:
        order = {**self._dataset._rows.describe(), **self.sampler.order.describe(self.batch_size)}
        return RankOrder(self.steps(), self.rank_and_world_size()[0], lambda layout: order)

    def standing(self) -> EpochCursor:
        """The cursor: the dataset itself has no epochs."""
        return self.cursor

    def sync(self) -> bool:
        """False: the dataset itself has no epochs."""
        return False

    def announce(self) -> None:
        """Have whoever takes the sampler in place of this loader begin where it would."""
        self.sampler.begin_at(self.cursor.next)

    def withdraw(self) -> None:
        """Nothing: each epoch sets anew where the sampler begins."""

    def bytes_to_cache(self) -> int | None:
        """None: it caches what is worth it by itself."""
        return None

    def progress(self, at: Position) -> dict[str, Any]:
        """Nothing: there is but one table."""
        return {}

    def read_state(
        self, state: Mapping[str, Any], allow: Iterable[str] = ()
    ) -> tuple[Position, Any]:
        """Check a state; where it was taken."""
        refuse_allowances(allow)
        at = read_state(state, self.order().describe(None))[0]
        self.sampler.steps(at.position)  # what cannot be iterated is refused here
        return at, None


Adapter = IterableAdapter | MappedAdapter
