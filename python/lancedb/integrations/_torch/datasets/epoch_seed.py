# SPDX-License-Identifier: Apache-2.0
"""The seed and the epoch of a map-style dataset's random numbers, in every process."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch

from ..common.checks import whole_number
from ..common.shared_memory import shared
from ..frameworks.torch_loader import in_worker
from .origins import RandomSeed


class EpochRows(list):
    """The indices of one batch of a `LanceDataLoader`, which know of which epoch they are.

    Parameters
    ----------
    rows : iterable of int
        The indices.
    random : RandomSeed
        The seed of the loader, and the epoch.
    """

    def __init__(self, rows: Iterable[int] = (), random: RandomSeed | None = None):
        super().__init__(rows)
        self.random = random


class EpochSeed:
    """The source of rows' random numbers where no loader names it, in memory that workers share.

    Parameters
    ----------
    seed : int, optional
        As the user gave it.
    is_used : bool, default True
        Whether anybody will ask, so that workers must know of epochs.
    """

    def __init__(self, seed: Any = None, is_used: bool = True):
        if seed is not None:
            seed = whole_number("seed", seed, error=TypeError)
        self.seed: int | None = seed
        epoch = torch.tensor([-1 if seed is None else 0], device="cpu")
        self._epoch = shared(epoch) if is_used else epoch
        self._process = os.getpid()

    def set_epoch(self, epoch: int) -> None:
        """Let random numbers be those of an epoch from now on, here and in this process's workers.

        Another rank, that was started with a copy or forked, has an epoch of its own.
        """
        if self._process != os.getpid() and not in_worker():
            self._epoch, self._process = shared(self._epoch.clone()), os.getpid()
        self._epoch[0] = epoch

    @property
    def random(self) -> RandomSeed | None:
        """The seed, or 0, and the epoch; None where neither was given."""
        epoch = int(self._epoch[0])
        return None if epoch < 0 else RandomSeed(self.seed or 0, epoch)

    def within(self, asked: RandomSeed | None) -> RandomSeed | None:
        """What a loader's batch is made with: its epoch, and its seed unless one was given here."""
        if asked is None:
            return self.random
        return asked if self.seed is None else asked._replace(seed=self.seed)
