# SPDX-License-Identifier: Apache-2.0
"""pylance: `lance.torch.data.LanceDataset` and `SafeLanceDataset`, on the same files as ours.

lance.org's guide to PyTorch: the dataset hands out batches and is iterated with `batch_size=None`;
`ShardedBatchSampler(randomize=True)` shuffles, whole batches of consecutive rows at a time; workers
have to be spawned. `SafeLanceDataset` is map-style, reads all columns and gives Python rows.
"""

from __future__ import annotations

from typing import Any

import lance
import torch
from lance.sampler import ShardedBatchSampler
from lance.torch.data import LanceDataset, SafeLanceDataset
from lance.torch.dist import get_global_rank, get_global_world_size
from torch.utils.data import DataLoader, IterableDataset

from peers import Job, Peer, Way, lance_table, row_as_state
from peers.batches import Chosen, ShuffledLists, of_arrow

ALL_COLUMNS = ("embeddings", "images", "tokens", "fragments")


def uri(job: Job) -> str:
    return str(job.source.folder(lance_table.FORM) / f"{lance_table.TABLE}.lance")


def to_tensors(batch: Any, **_: Any) -> dict[str, torch.Tensor]:
    return of_arrow(batch)


class ShuffledBatchesOfRows(IterableDataset):
    """Opens the dataset where it is read, with the sampler that this worker needs."""

    def __init__(self, job: Job):
        self.job = job

    def __iter__(self):
        sampler = ShardedBatchSampler(get_global_rank(), get_global_world_size(), randomize=True)
        yield from LanceDataset(
            lance.dataset(uri(self.job)),
            batch_size=self.job.batch_size,
            columns=self.job.columns,
            sampler=sampler,
            to_tensor_fn=to_tensors,
        )


def open_iterable(job: Job) -> DataLoader:
    return DataLoader(
        ShuffledBatchesOfRows(job),
        batch_size=None,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        multiprocessing_context="spawn" if job.workers else None,
    )


def restore_mapped(job: Job, row: int) -> DataLoader:
    sampler = ShuffledLists(job.source.rows, job.batch_size, row)
    dataset = SafeLanceDataset(uri(job))
    settings = {"batch_sampler": sampler, "collate_fn": Chosen(job.columns)}
    if not job.workers:
        return DataLoader(dataset, **settings)
    # `get_safe_loader` spawns and keeps its workers; it leaves no way to give a batch sampler.
    return DataLoader(
        dataset,
        num_workers=job.workers,
        persistent_workers=True,
        multiprocessing_context="spawn",
        **settings,
    )


def open_mapped(job: Job) -> DataLoader:
    return restore_mapped(job, 0)


PEER = Peer(
    package="pylance",
    form=lance_table.FORM,
    write=lance_table.write,
    resume="map-style only: a seeded sampler",
    ways=(
        Way(
            "pylance LanceDataset",
            "`ShardedBatchSampler(randomize=True)`: whole batches of consecutive rows",
            open_iterable,
        ),
        Way(
            "pylance SafeLanceDataset",
            "map-style, all columns as Python rows, collated by hand",
            open_mapped,
            row_as_state,
            restore_mapped,
            kinds=ALL_COLUMNS,
            workers=(0,),
        ),
    ),
)
