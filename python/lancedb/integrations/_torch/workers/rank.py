# SPDX-License-Identifier: Apache-2.0
"""The rank of this process, and of how many."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch.distributed

from ..common.checks import whole_number
from ..frameworks.torch_loader import in_worker


class SentRank(NamedTuple):
    """The rank of a process that sent something on, for the one that unpickled it."""

    rank: int
    world_size: int
    receiver: int

    @property
    def is_mine(self) -> bool:
        """Whether this is a DataLoader worker that was sent it by its own loader.

        A worker has no process group to ask. Any other process that was started with a pickled
        dataset, as by `torch.multiprocessing.spawn`, may be a rank of its own.
        """
        return in_worker() and self.receiver == os.getpid()


def resolve_rank(
    rank: int | None, world_size: int | None, sent: SentRank | None = None
) -> tuple[int, int]:
    """Rank and world size: as given, else of `torch.distributed`, else of ``RANK`` and
    ``WORLD_SIZE``, else 0 of 1.

    Parameters
    ----------
    rank, world_size : int, optional
        As given by the user.
    sent : SentRank, optional
        Those of the process that sent this one what asks: they win in its DataLoader workers, and
        hold elsewhere where nothing else is known.

    Raises
    ------
    ValueError
        If only one of the two is given or in the environment, or the rank is not below the world
        size.
    TypeError
        If one of them is no whole number.
    """
    if (rank is None) != (world_size is None):
        raise ValueError("rank and world_size belong together: give both, or neither")
    if rank is None or world_size is None:
        if sent is not None and sent.is_mine:
            return sent.rank, sent.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return _of_environment() or ((0, 1) if sent is None else (sent.rank, sent.world_size))
    rank = whole_number("rank", rank, error=TypeError)
    world_size = whole_number("world_size", world_size, error=TypeError)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size), not rank={rank} of {world_size}")
    return rank, world_size


def rank_in(mesh: Any) -> tuple[int, int]:
    """This process's rank in a one-dimensional device mesh, and the mesh's size.

    Raises
    ------
    TypeError
        If `mesh` is no device mesh.
    ValueError
        If it has several dimensions, or this process is not in it.
    """
    from torch.distributed.device_mesh import DeviceMesh

    if not isinstance(mesh, DeviceMesh):
        raise TypeError(f"mesh must be a torch DeviceMesh, not {type(mesh).__name__}")
    if mesh.ndim != 1:
        names = mesh.mesh_dim_names
        example = f"mesh[{names[0]!r}]" if names else "mesh of a mesh made with mesh_dim_names"
        raise ValueError(
            f"mesh has {mesh.ndim} dimensions: pass the one over which rows are divided, such as "
            f"{example}. Ranks that differ in the others only get the same batches"
        )
    if mesh.get_coordinate() is None:
        raise ValueError("this process is not in mesh, and so has no rank in it")
    return mesh.get_local_rank(), mesh.size()


def _of_environment() -> tuple[int, int] | None:
    """Rank and world size of the environment, as torchrun sets them; None if it has neither."""
    found = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    if not any(found.values()):
        return None
    said = " and ".join(f"{name}={value!r}" for name, value in found.items() if value is not None)
    way_out = "set both, as torchrun does, or neither; or give rank= and world_size="
    try:
        rank, world_size = int(found["RANK"] or ""), int(found["WORLD_SIZE"] or "")
    except ValueError:
        if (found["RANK"] or "0", found["WORLD_SIZE"] or "1") == ("0", "1"):
            return 0, 1
        raise ValueError(
            f"the environment has {said}, which tells no rank of how many: {way_out}"
        ) from None
    if not 0 <= rank < world_size:
        raise ValueError(
            f"the environment has {said}, and RANK must be in [0, WORLD_SIZE): {way_out}"
        )
    return rank, world_size
