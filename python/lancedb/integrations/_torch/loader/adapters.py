# SPDX-License-Identifier: Apache-2.0
"""A loader's dataset, of either kind, put in order and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..datasets.base import positive
from ..datasets.iterable import LanceIterableTorchDataset
from ..datasets.map_style import LanceTorchDataset
from ..order.shuffle import Order
from ..order.state import Position, make_state, read_state
from ..order.steps import Steps
from ..workers.rank import resolve_rank
from ..workers.shared_epoch import EpochClock
from .sampler import OrderedBatchSampler


class IterableProgress:
    """One loader's place in the epochs of an iterable dataset, and states of it.

    Two loaders may have the same dataset, and each is at an epoch and a layout of its own.
    """

    def __init__(self, dataset: LanceIterableTorchDataset):
        self._dataset = dataset
        self._clock = EpochClock()
        self._layout = dataset.layout

    @property
    def shuffle(self) -> str:
        return self._dataset.shuffle

    def rank_and_world_size(self) -> tuple[int, int]:
        return self._dataset.rank_and_world_size()

    def steps(self, start: int = 0) -> Steps:
        return self._dataset.steps(start)

    def told(self) -> Position | None:
        """Where the dataset itself was told to begin, since any loader began."""
        at = self._dataset.told
        if at is not None:
            self._layout = self._dataset.layout
        return at

    def begin_at(self, at: Position) -> None:
        self._dataset.begin_at(at, self._layout, self._clock)

    def has_begun(self, worker: int) -> bool:
        """Whether a worker has looked where its epoch begins."""
        return self._clock.has_begun(worker)

    def state_at(self, at: Position) -> dict[str, Any]:
        return self._dataset.state_at(at, self._layout)

    def adopt_state(self, state: Mapping[str, Any]) -> Position:
        """Check a state, and take over the layout of its order."""
        at, self._layout = self._dataset.read_state(state)
        return at


class MappedProgress:
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
        size = dataset.batch_size if batch_size is None else positive("batch_size", batch_size)
        order = Order(
            rows=dataset.num_rows,
            row_bytes=1,
            shuffle="global" if shuffle else False,
            seed=seed,
        )
        self._dataset = dataset
        dataset.describe_data()  # while the table is there: a state must not need it any more
        self.sampler = OrderedBatchSampler(order, size, drop_last)

    @property
    def shuffle(self) -> str:
        """ "sampler": rows are asked for one batch at a time, whatever their order."""
        return "sampler"

    def rank_and_world_size(self) -> tuple[int, int]:
        return resolve_rank(None, None)

    def steps(self, start: int = 0) -> Steps:
        return self.sampler.steps(start)

    def told(self) -> None:
        """None: the dataset itself has no epochs."""
        return None

    def begin_at(self, at: Position) -> None:
        self.sampler.begin_at(at)

    def has_begun(self, worker: int) -> bool:
        """True: a worker is told rows, and need not look where to begin."""
        return True

    def state_at(self, at: Position) -> dict[str, Any]:
        if at.position and self.steps(at.position).num_steps == 0:
            at = Position(at.epoch + 1)
        return make_state(at, self._described_order())

    def adopt_state(self, state: Mapping[str, Any]) -> Position:
        at = read_state(state, self._described_order())[0]
        self.steps(at.position)  # what cannot be iterated is refused here
        return at

    def _described_order(self) -> dict[str, Any]:
        order = self.sampler.order
        return {**self._dataset.describe_data(), **order.describe(self.sampler.batch_size)}
