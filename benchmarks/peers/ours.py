# SPDX-License-Identifier: Apache-2.0
"""lancedb-torch, as its README says: no setting but the order, and threads for images.

Images are decoded by a `transform`. Where there are no workers it runs in a thread for each
processor, up to four (``transform_threads``), as Pillow lets go of Python's lock.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)

from peers import Job, Peer, Way, lance_table, row_as_state
from peers.batches import decode_column

COMMON = "`LanceDataLoader`, defaults"
THREADS = "; images: `transform_threads` for each processor, up to 4"


def options(job: Job, folder: Path | None = None) -> dict[str, Any]:
    return {
        "uri": str(folder or job.source.folder(lance_table.FORM)),
        "table_name": lance_table.TABLE,
        "columns": job.columns,
        "format": "torch",
        "transform": decode_column if job.workload.encoded else None,
    }


def iterable(job: Job, shuffle: str, folder: Path | None = None, **more: Any) -> LanceDataLoader:
    threads = min(4, os.cpu_count() or 1) if job.workload.encoded and not job.workers else 0
    dataset = LanceIterableTorchDataset(
        **options(job, folder),
        **more,
        transform_threads=threads,
        batch_size=job.batch_size,
        shuffle=shuffle,
    )
    return LanceDataLoader(dataset, num_workers=job.workers)


def open_block(job: Job) -> LanceDataLoader:
    return iterable(job, "block")


def open_global(job: Job) -> LanceDataLoader:
    return iterable(job, "global")


def open_mapped(job: Job) -> LanceDataLoader:
    return mapped(job)


def mapped(job: Job, folder: Path | None = None, **more: Any) -> LanceDataLoader:
    return LanceDataLoader(
        LanceTorchDataset(**options(job, folder), **more),
        batch_size=job.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=job.workers,
    )


def at(loader: LanceDataLoader, row: int) -> LanceDataLoader:
    """A state is a row of the epoch; the rest of it says which order that belongs to."""
    loader.load_state_dict({**loader.state_dict(), "position": row})
    return loader


def restore_block(job: Job, row: int) -> LanceDataLoader:
    return at(open_block(job), row)


def restore_global(job: Job, row: int) -> LanceDataLoader:
    return at(open_global(job), row)


def restore_mapped(job: Job, row: int) -> LanceDataLoader:
    return at(open_mapped(job), row)


PEER = Peer(
    package="lancedb",
    form=lance_table.FORM,
    write=lance_table.write,
    resume="exact, at any batch",
    ways=(
        Way(
            "ours, shuffle=True",
            f"`LanceIterableTorchDataset(shuffle=True)`, {COMMON}{THREADS}",
            open_block,
            row_as_state,
            restore_block,
        ),
        Way(
            'ours, shuffle="global"',
            f'`LanceIterableTorchDataset(shuffle="global")`, {COMMON}{THREADS}',
            open_global,
            row_as_state,
            restore_global,
        ),
        Way(
            "ours, map-style",
            f"`LanceTorchDataset`, {COMMON}, `shuffle=True`",
            open_mapped,
            row_as_state,
            restore_mapped,
        ),
    ),
)
