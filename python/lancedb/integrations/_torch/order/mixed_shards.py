# SPDX-License-Identifier: Apache-2.0
"""One epoch of a mixture as documents in canonical shards, of which batches are planned.

A document is known by its position in the epoch: row n of shard s is position ``n * D + s``. Which
row of which source that is, `mixed_order` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .index_shuffle import derive_key
from .mixed_order import MixedEpochOrder, MixedRows
from .read_schedule import WindowRows
from .window_slices import WindowSlices

_BATCHES = 3  # beside the parts of an order of rows


class MixedShards:
    """As `Shards`, of a mixture.

    Parameters
    ----------
    order : MixedEpochOrder
        Of the epoch.
    """

    def __init__(self, order: MixedEpochOrder):
        self.order = order
        self.count = order.mixture.shards
        self.sizes = -(-(order.steps.rows - np.arange(self.count)) // self.count)

    @property
    def key(self) -> int:
        """What decides the order of the units of batches."""
        return derive_key(self.order.seed, self.order.epoch, _BATCHES)

    def rows_at(self, shard: int | np.ndarray, indices: np.ndarray) -> np.ndarray:
        """The positions of some rows of a shard."""
        return self.positions(shard, indices)

    def positions(self, shard: int | np.ndarray, indices: np.ndarray) -> np.ndarray:
        """As `rows_at`: there is nothing else that they could be known by."""
        return np.asarray(indices, np.int64) * self.count + shard

    def at(self, positions: np.ndarray) -> MixedRows:
        """The source, row and source's epoch of some positions."""
        return self.order.rows_at(positions)

    def by_source(self, rows: np.ndarray) -> Iterator[tuple[str, Any, np.ndarray]]:
        """The name of each source, which of some positions are its, and their rows in it."""
        found = self.at(rows)
        for number in np.flatnonzero(np.bincount(found.sources)).tolist():
            here = np.flatnonzero(found.sources == number)
            yield self.order.sources[number].name, here, found.rows[here]


class MixedShardWindows:
    """As `ShardWindows`, of a mixture.

    Parameters
    ----------
    order : MixedEpochOrder
        Of the epoch.
    """

    def __init__(self, order: MixedEpochOrder):
        self._order = order
        self._windows = order.windows()

    def next(
        self, shard: int, start: int, stop: int
    ) -> tuple[WindowSlices, list[WindowRows], list[int]]:
        """What a span is made of; those of a shard are asked for from first to last."""
        rows = np.arange(start, stop)
        drawn = self._order.drawn_at(np.full_like(rows, shard), rows)
        pieces, [(step, opened)] = self._windows.planned_at_once([(start, stop)], drawn)
        return pieces, opened, list(step.spent)
