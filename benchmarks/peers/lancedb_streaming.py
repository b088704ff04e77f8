# SPDX-License-Identifier: Apache-2.0
"""lancedb's `StreamingDataset`, its own training loader.

docs.lancedb.com/training/data-loading names the settings that trade order for speed: longer reads
and clumps of rows that stay together. A transform that hands out numpy rows is faster than its
default, Python values. With workers there have to be as many splits.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from lancedb.streaming import StreamingDataset
from torch.utils.data import DataLoader

from peers import Job, Peer, Way, lance_table, row_as_state
from peers.batches import decode, of_rows, rows_of


def numpy_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows of numpy values; images are decoded here, in the threads that transforms run in."""
    rows = list(rows_of(batch, batch.schema.names))
    if "image" in batch.schema.names:
        return [{**row, "image": decode([row["image"]])[0]} for row in rows]
    return rows


DEFAULTS: dict[str, Any] = {}
FAST = {"read_batch_size": 1024, "shuffle_clump_size": 64, "transform": numpy_rows}
# Decoding in reads of 1024 rows would keep everything else waiting.
FAST_IMAGES = {**FAST, "read_batch_size": 64}


class Epochs:
    """An epoch for each ``iter()``: a dataset that has come to its end begins no other."""

    def __init__(self, job: Job, settings: dict[str, Any], row: int = 0):
        self.job, self.settings, self.row, self.epoch = job, settings, row, 0

    def __iter__(self):
        dataset = self.dataset_of_epoch()
        self.epoch, self.row = self.epoch + 1, 0
        yield from DataLoader(
            dataset,
            self.job.batch_size,
            collate_fn=of_rows,
            drop_last=True,
            num_workers=self.job.workers,
            multiprocessing_context="spawn" if self.job.workers else None,
        )

    def dataset_of_epoch(self) -> StreamingDataset:
        splits = max(1, self.job.workers)
        dataset = StreamingDataset(
            lance_table.open_table(self.job.source),
            columns=self.job.columns,
            num_splits=splits,
            epoch=self.epoch,
            **self.settings,
        )
        if self.row:
            consumed = [self.row // splits] * splits
            counts = {"samples_consumed_per_split", "positions_consumed_per_split"}
            dataset.load_state_dict({**dataset.state_dict(), **dict.fromkeys(counts, consumed)})
        return dataset


def open_defaults(job: Job) -> Epochs:
    return Epochs(job, DEFAULTS)


def open_fast(job: Job) -> Epochs:
    return restore_fast(job, 0)


def restore_defaults(job: Job, row: int) -> Epochs:
    return Epochs(job, DEFAULTS, row)


def restore_fast(job: Job, row: int) -> Epochs:
    return Epochs(job, FAST_IMAGES if job.workload.encoded else FAST, row)


PEER = Peer(
    package="lancedb",
    form=lance_table.FORM,
    write=lance_table.write,
    resume="exact",
    ways=(
        Way(
            "lancedb StreamingDataset",
            "defaults, collated by hand",
            open_defaults,
            row_as_state,
            restore_defaults,
        ),
        Way(
            "lancedb StreamingDataset, clumps",
            "reads of 1024 rows (images: 64), clumps of 64, numpy rows",
            open_fast,
            row_as_state,
            restore_fast,
        ),
    ),
)
