# SPDX-License-Identifier: Apache-2.0
"""Knows which rank of how many, and which worker of how many, this process is."""

from __future__ import annotations

import os

import numpy as np
import torch.distributed
from torch.utils.data import get_worker_info


def resolve_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and world size: as given, else of `torch.distributed`, else of ``RANK`` and
    ``WORLD_SIZE``, else 0 of 1.

    Raises
    ------
    ValueError
        If only one of the two is given, or the rank is not below the world size.
    TypeError
        If one of them is no whole number.
    """
    if (rank is None) != (world_size is None):
        raise ValueError("rank and world_size belong together: give both, or neither")
    for name, number in (("rank", rank), ("world_size", world_size)):
        if isinstance(number, bool) or not isinstance(number, (int, np.integer, type(None))):
            raise TypeError(f"{name} must be a whole number, not {number!r}")
    if rank is None or world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        rank = int(os.environ.get("RANK", 0))
        world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size), not rank={rank} of {world_size}")
    return int(rank), int(world_size)


def this_worker() -> tuple[int, int]:
    """This DataLoader worker's number and how many there are; 0 of 1 outside of workers."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def process_number() -> int:
    """0 for the main process, w + 1 for DataLoader worker w: its row in what they share."""
    return this_worker()[0] + 1 if in_worker() else 0


def in_worker() -> bool:
    """Whether this is a DataLoader worker process."""
    return get_worker_info() is not None
