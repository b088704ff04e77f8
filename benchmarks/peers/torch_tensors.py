# SPDX-License-Identifier: Apache-2.0
"""torch's own `TensorDataset`: everything in memory, indexed by a batch of rows at a time.

For columns of one size only. Decoded images would be 3 GB.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from peers import Job, Peer, Way, memmap, row_as_state
from peers.batches import ShuffledBatches


class Named:
    """Gives the tensors of a `TensorDataset` their names back."""

    def __init__(self, names: list[str]):
        self.names = names

    def __call__(self, tensors: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        return dict(zip(self.names, tensors, strict=True))


def restore(job: Job, row: int) -> DataLoader:
    folder = job.source.folder(memmap.FORM)
    arrays = [np.load(folder / f"{name}.npy") for name in job.columns]
    return DataLoader(
        TensorDataset(*map(torch.from_numpy, arrays)),
        batch_size=None,
        sampler=ShuffledBatches(job.source.rows, job.batch_size, row),
        collate_fn=Named(job.columns),
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
    )


def open_tensors(job: Job) -> DataLoader:
    return restore(job, 0)


PEER = Peer(
    package="torch",
    form=memmap.FORM,
    write=memmap.write,
    resume="a seeded sampler",
    ways=(
        Way(
            "torch TensorDataset",
            "all in memory, a batch of row numbers at a time",
            open_tensors,
            row_as_state,
            restore,
            kinds=("embeddings", "tabular"),
        ),
    ),
)
