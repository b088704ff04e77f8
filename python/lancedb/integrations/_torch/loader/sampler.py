# SPDX-License-Identifier: Apache-2.0
"""Batches of indices for a map-style dataset: seeded, sharded, from any position."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized
from typing import Any, cast

import numpy as np
from torch.utils.data import DistributedSampler

from ..datasets.epoch_seed import EpochRows
from ..datasets.origins import RandomSeed
from ..order.read_schedule import in_batches
from ..order.shuffle import ShuffleSpec
from ..order.state import Position
from ..order.steps import Steps
from ..workers.rank import resolve_rank

_PLANNED_ROWS = 4096


class OrderedBatchSampler:
    """Batches of indices of one rank, in the order of an epoch; memory does not grow with rows.

    Parameters
    ----------
    order : ShuffleSpec
        "none" or "global".
    batch_size : int
        Rows of one rank's batch.
    drop_last : bool
        Whether to leave out what fills no full step of all ranks.
    """

    def __init__(self, order: ShuffleSpec, batch_size: int, drop_last: bool):
        self.order = order
        self.batch_size = batch_size
        self.drop_last = drop_last
        self._begin: Position | None = None

    def steps(self, start: int = 0) -> Steps:
        """The global steps of an epoch from a position on."""
        world_size = resolve_rank(None, None)[1]
        return Steps(self.order.rows, self.batch_size, world_size, self.drop_last, start)

    def __len__(self) -> int:
        return self.steps().num_steps

    def begin_at(self, at: Position) -> None:
        """Let the next ``iter()`` begin at a position of an epoch."""
        self._begin = at

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, so that an iterator that is never asked, as DataLoader makes, uses up none.
        if self._begin is None:
            raise RuntimeError(
                "another loader has taken this order from a LanceDataLoader, and would repeat "
                "one epoch, or shard the rows of one rank over all ranks once more. Iterate the "
                "LanceDataLoader itself; to skip batches, load a state, or set_epoch() first. "
                "transformers.Trainer skips right if its train_dataset is the LanceTorchDataset"
            )
        at, self._begin = self._begin, None
        rank, world_size = resolve_rank(None, None)
        steps = self.steps(at.position)
        plan = self.order.plan(at.epoch, self.batch_size * world_size)
        random = RandomSeed(plan.seed, plan.epoch)
        spans = (steps.slice_of(step, rank) for step in range(steps.num_steps))
        for some in in_batches(spans, _PLANNED_ROWS):  # each call costs as much as many rows
            rows = iter(plan.rows_at(np.concatenate([np.arange(*span) for span in some])).tolist())
            for start, stop in some:
                yield EpochRows(itertools.islice(rows, stop - start), random)


class RankSampler(DistributedSampler):
    """Stands in a loader's ``sampler`` for batches of indices that are sharded over ranks already.

    Lightning and Ray look for this class there, and put one in where they find another. The
    loader asks it for nothing.
    """

    def __init__(self, dataset: Sized):
        rank, world_size = resolve_rank(None, None)
        super().__init__(cast(Any, dataset), num_replicas=world_size, rank=rank)
