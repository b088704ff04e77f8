# SPDX-License-Identifier: Apache-2.0
"""LitData: `optimize` into chunks of 64 MB, read by `StreamingDataset` and `StreamingDataLoader`.

As in its README ("Speed up model training"); local chunks are mapped into memory by themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litdata

from peers import Job, Peer, Source, Way, advance
from peers.batches import Chosen, rows_of

FORM = "litdata"


class Rows:
    """Every row of one Arrow batch, by its number: what one of its workers is asked for."""

    def __init__(self, source: Source):
        self.source = source

    def __call__(self, number: int):
        for at, batch in enumerate(self.source.batches()):
            if at == number:
                for row in rows_of(batch, batch.schema.names):
                    yield {name: plain(value) for name, value in row.items()}


def plain(value: Any) -> Any:
    """Numbers as Python's: it has no serialiser for those of numpy."""
    return value.item() if hasattr(value, "item") and value.ndim == 0 else value


def write(source: Source, folder: Path) -> None:
    count = sum(1 for _ in source.batches())
    chunk = source.workload.fragment_rows
    litdata.optimize(
        Rows(source),
        list(range(count)),
        str(folder),
        num_workers=1,
        start_method="fork",
        keep_data_ordered=True,
        verbose=False,
        **({"chunk_size": chunk} if chunk else {"chunk_bytes": "64MB"}),
    )


def open_streaming(job: Job) -> litdata.StreamingDataLoader:
    return litdata.StreamingDataLoader(
        litdata.StreamingDataset(str(job.source.folder(FORM)), shuffle=True, drop_last=True),
        batch_size=job.batch_size,
        num_workers=job.workers,
        drop_last=True,
        collate_fn=Chosen(job.columns),
        persistent_workers=job.workers > 0,
    )


def state(job: Job, row: int) -> tuple[Any, int]:
    loader = open_streaming(job)
    return advance(job, loader, row, loader.state_dict)


def restore(job: Job, state: Any) -> litdata.StreamingDataLoader:
    loader = open_streaming(job)
    loader.load_state_dict(state)
    return loader


PEER = Peer(
    package="litdata",
    form=FORM,
    write=write,
    row_by_row=True,
    resume="exact",
    ways=(
        Way(
            "LitData StreamingDataset",
            "chunks of 64 MB, `shuffle=True`, collated by hand",
            open_streaming,
            state,
            restore,
        ),
    ),
)
