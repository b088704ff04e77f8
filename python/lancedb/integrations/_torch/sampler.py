# SPDX-License-Identifier: Apache-2.0
"""Knows the batches of indices for a map-style dataset: seeded, sharded, from any position."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .order import Order
from .steps import Steps
from .topology import resolve_rank


class OrderedBatchSampler:
    """Batches of indices of one rank, in the order of an epoch; memory does not grow with rows.

    Parameters
    ----------
    order : Order
        "none" or "global".
    batch_size : int
        Rows of one rank's batch.
    drop_last : bool
        Whether to leave out what fills no full step of all ranks.
    """

    def __init__(self, order: Order, batch_size: int, drop_last: bool):
        self.order = order
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.epoch = 0
        self.position = 0

    def steps(self, start: int = 0) -> Steps:
        """The global steps of an epoch from a position on."""
        world_size = resolve_rank(None, None)[1]
        return Steps(self.order.rows, self.batch_size, world_size, self.drop_last, start)

    def __len__(self) -> int:
        return self.steps().num_steps

    def __iter__(self) -> Iterator[list[int]]:
        rank, world_size = resolve_rank(None, None)
        steps = self.steps(self.position)
        plan = self.order.plan(self.epoch, self.batch_size * world_size)
        for step in range(steps.num_steps):
            yield plan.rows_at(np.arange(*steps.slice_of(step, rank))).tolist()
