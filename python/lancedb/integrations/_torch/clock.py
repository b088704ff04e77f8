# SPDX-License-Identifier: Apache-2.0
"""Knows the epoch that each process is to run next, in memory that the processes share.

Every ``iter()`` is the next epoch. DataLoader workers, persistent or made anew, count their own
``iter()`` calls here, so that they agree on the epoch without speaking to each other.
"""

from __future__ import annotations

import torch

from .position import Position

_EPOCH, _POSITION, _COUNTS = 0, 1, 2
MAX_WORKERS = 64


class EpochClock:
    """Hands out where each ``iter()`` begins.

    The row of numbers in shared memory is: the epoch and the position to begin at, then how many
    times the main process and each worker have begun since that was set.
    """

    def __init__(self) -> None:
        self._shared = torch.zeros(_COUNTS + 1 + MAX_WORKERS, dtype=torch.int64).share_memory_()
        self._was_set = False

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._shared.share_memory_()

    def set(self, at: Position) -> None:
        """Let the next ``iter()`` of every process begin here."""
        self._was_set = True
        self._shared[_COUNTS:] = 0
        self._shared[_EPOCH] = at.epoch
        self._shared[_POSITION] = at.position

    def rejoin(self, process: int, at: Position) -> None:
        """Let the next ``iter()`` of one process begin here; the others are told the same."""
        self._shared[_EPOCH] = at.epoch
        self._shared[_POSITION] = at.position
        self._shared[_COUNTS + process] = 0

    def begin(self, process: int) -> Position:
        """Where the ``iter()`` of a process begins now: 0 is the main one, w + 1 worker w.

        Raises
        ------
        ValueError
            If there are more than `MAX_WORKERS` workers.
        """
        at = self.peek(process)
        self._shared[_COUNTS + process] += 1
        return at

    def peek(self, process: int) -> Position:
        """Where the next ``iter()`` of a process will begin."""
        if process > MAX_WORKERS:
            raise ValueError(f"at most {MAX_WORKERS} workers a DataLoader are supported")
        begun = int(self._shared[_COUNTS + process])
        epoch, position = int(self._shared[_EPOCH]), int(self._shared[_POSITION])
        return Position(epoch + begun, 0 if begun else position)

    @property
    def is_set(self) -> bool:
        """Whether it was said where to begin, and no process has begun since."""
        return self._was_set and not self._shared[_COUNTS:].any()

    def is_within(self, epoch: int) -> bool:
        """Whether the next ``iter()`` was set to begin in the middle of this epoch."""
        return self.is_set and self.peek(0).epoch == epoch and self.peek(0).position > 0

    def has_begun(self, worker: int) -> bool:
        """Whether a worker has begun an epoch since the clock was set."""
        return bool(self._shared[_COUNTS + 1 + worker])

    @property
    def ran_in_workers(self) -> bool:
        """Whether a worker has begun an epoch since the clock was set."""
        return bool(self._shared[_COUNTS + 1 :].any())
