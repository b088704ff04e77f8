# SPDX-License-Identifier: Apache-2.0
"""lancedb's `Permutation` in a `DataLoader`, map-style with a true shuffle.

Its documentation (docs.lancedb.com/training/permutation) hands it to a `DataLoader` as it is, which
gives Python rows. Arrow batches and a transform written by hand are the faster way.
"""

from __future__ import annotations

from typing import Any

from lancedb.permutation import Permutation
from torch.utils.data import DataLoader

from peers import Job, Peer, Way, lance_table, row_as_state
from peers.batches import ShuffledLists, of_arrow, of_rows


def as_it_is(batch: Any) -> Any:
    return batch


def loader(job: Job, permutation: Permutation, collate, row: int) -> DataLoader:
    return DataLoader(
        permutation,
        batch_sampler=ShuffledLists(job.source.rows, job.batch_size, row),
        collate_fn=collate,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        multiprocessing_context="spawn" if job.workers else None,
    )


def permutation_of(job: Job) -> Permutation:
    return Permutation.identity(lance_table.open_table(job.source)).select_columns(job.columns)


def restore_rows(job: Job, row: int) -> DataLoader:
    return loader(job, permutation_of(job), of_rows, row)


def restore_arrow(job: Job, row: int) -> DataLoader:
    return loader(job, permutation_of(job).with_transform(of_arrow), as_it_is, row)


def open_rows(job: Job) -> DataLoader:
    return restore_rows(job, 0)


def open_arrow(job: Job) -> DataLoader:
    return restore_arrow(job, 0)


PEER = Peer(
    package="lancedb",
    form=lance_table.FORM,
    write=lance_table.write,
    resume="a seeded sampler",
    ways=(
        Way(
            "lancedb Permutation, rows",
            "its default format, collated by hand",
            open_rows,
            row_as_state,
            restore_rows,
            workers=(0,),
        ),
        Way(
            "lancedb Permutation, Arrow",
            "`with_transform` from Arrow to tensors, written by hand",
            open_arrow,
            row_as_state,
            restore_arrow,
        ),
    ),
)
