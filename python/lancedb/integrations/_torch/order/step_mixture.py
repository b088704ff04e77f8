# SPDX-License-Identifier: Apache-2.0
"""The order of a mixture of whole steps: each global step is of one source.

Sources follow each other from step to step as `mixture` says of rows: its one shard has a step
for each row. The n-th step of a source is the next so many rows of it, of each of its parts alike,
so that no row of it comes again before all have come.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .mixture import FIRST, Change, Drawn, Mixture
from .window_slices import WindowSlices


@dataclass(frozen=True)
class StepMixture:
    """Steps of sources in sequence, through all epochs; as `Mixture`, and in whole steps.

    Parameters
    ----------
    sizes, changes, shards, stop
        As of `Mixture`, in rows. Weights change with the first step that begins at their row or
        after it; an epoch ends where a step does.
    global_batch : int
        Rows of a step, a multiple of `shards`.

    Raises
    ------
    ValueError
        If an epoch would have no step.

    Examples
    --------
    >>> mixture = StepMixture((60, 40), (Change(0, (3, 1)),), 2, "first_exhausted", 10)
    >>> mixture.rows_of(0)
    80
    >>> mixture.delivered(0, 40).tolist()
    [30, 10]
    """

    sizes: tuple[int, ...]
    changes: tuple[Change, ...]
    shards: int
    stop: Any
    global_batch: int

    def __post_init__(self) -> None:
        if isinstance(self.stop, int) and self.stop < self.global_batch:
            raise ValueError(f"stop={self.stop} is less than one step of {self.global_batch} rows")
        assert self._steps.rows_of(0) > 0

    @cached_property
    def _steps(self) -> Mixture:
        """A row of it is a step."""
        size, is_first = self.global_batch, self.stop == FIRST
        sizes = tuple(rows // size if is_first else -(-rows // size) for rows in self.sizes)
        stop = self.stop // size if isinstance(self.stop, int) else self.stop
        return Mixture(sizes, tuple(_by_step(self.changes, size)), 1, stop)

    def rows_of(self, epoch: int) -> int:
        """How many rows an epoch has."""
        return self._steps.rows_of(epoch) * self.global_batch

    def start_of(self, epoch: int) -> int:
        """How many rows the epochs before have together."""
        return self._steps.start_of(epoch) * self.global_batch

    def weights_at(self, row: int) -> tuple[int, ...]:
        """The weights in force at a row, counted through all epochs."""
        return self._steps.weights_at(row // self.global_batch)

    def draws(self, epoch: int, shards: np.ndarray, rows: np.ndarray) -> Drawn:
        """What stands at some rows of shards in an epoch, as of `Mixture`."""
        steps, within = np.divmod(rows, self._of_a_shard)
        drawn = self._steps.draws(epoch, np.zeros_like(steps), steps)
        return Drawn(drawn.sources, shards, drawn.numbers * self._of_a_shard + within)

    def parts_of(self, epoch: int) -> np.ndarray:
        """As of `Mixture`: the part of its own number, in every epoch."""
        return np.arange(self.shards)

    def sources_of(self, epoch: int, rows: WindowSlices) -> np.ndarray:
        """The source of each of some rows, as of `Mixture`."""
        return self.draws(epoch, rows.windows_of_rows(), rows.indices()).sources

    def before(self, epoch: int) -> np.ndarray:
        """How many rows each part has given of each source before an epoch, (parts, sources)."""
        return np.repeat(self._steps.before(epoch) * self._of_a_shard, self.shards, axis=0)

    def delivered(self, epoch: int, position: int) -> np.ndarray:
        """How many rows of each source come in the first positions of an epoch."""
        return self._steps.delivered(epoch, position // self.global_batch) * self.global_batch

    @property
    def _of_a_shard(self) -> int:
        """Rows of a shard's part of a step."""
        return self.global_batch // self.shards


def _by_step(changes: Iterable[Change], size: int) -> Iterable[Change]:
    """Weights from a step on; of several within one step the last."""
    by_step = {-(-change.row // size): change.weights for change in changes}
    return itertools.starmap(Change, by_step.items())
