# SPDX-License-Identifier: Apache-2.0
"""WebDataset: tar files of 10,000 rows, `shardshuffle`, a shuffle buffer, batches in the pipeline.

Its README and FAQ: shuffle shards and a buffer of rows, make batches in the dataset, and use
`WebLoader(batch_size=None)`. A row's numbers are one file, read by `np.frombuffer`, which is less
work than an `.npy` file for each column.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from peers import Job, Peer, Source, Way
from peers.batches import Chosen, rows_of

FORM = "webdataset"
ROWS_PER_SHARD = 10_000
BUFFER = 5_000
APART = ("image", "tokens")


def write(source: Source, folder: Path) -> None:
    shard = source.workload.fragment_rows or min(ROWS_PER_SHARD, max(1, source.rows // 16))
    with wds.ShardWriter(str(folder / "%06d.tar"), maxcount=shard, verbose=0) as writer:
        for batch in source.batches():
            for row in rows_of(batch, batch.schema.names):
                writer.write(to_files(row))


def to_files(row: dict[str, Any]) -> dict[str, Any]:
    numbers = np.empty((), numbers_of(row))
    for name in numbers.dtype.names or ():
        numbers[name] = row[name]
    files = {"__key__": f"{row['id']:09d}", "row": numbers.tobytes()}
    if "image" in row:
        files["jpg"] = row["image"]
    if "tokens" in row:
        files["tok"] = row["tokens"].tobytes()
    return files


def numbers_of(row: dict[str, Any]) -> np.dtype:
    """The columns of one size as one record."""
    return np.dtype(
        [(name, value.dtype, value.shape) for name, value in row.items() if name not in APART]
    )


def from_files(sample: dict[str, Any], kind: np.dtype, columns: list[str]) -> dict[str, Any]:
    numbers = np.frombuffer(sample["row"], kind)[0]
    row = {name: numbers[name] for name in columns if name not in APART}
    if "image" in columns:
        row["image"] = sample["jpg"]
    if "tokens" in columns:
        row["tokens"] = np.frombuffer(sample["tok"], np.int32)
    return row


def open_pipeline(job: Job) -> wds.WebLoader:
    first = next(job.source.batches())
    kind = numbers_of(next(rows_of(first, first.schema.names)))
    shards = sorted(str(path) for path in job.source.folder(FORM).glob("*.tar"))
    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards), seed=0)
        .shuffle(BUFFER)
        .map(partial(from_files, kind=kind, columns=job.columns))
        .batched(job.batch_size, collation_fn=Chosen(job.columns), partial=False)
    )
    return wds.WebLoader(
        dataset,
        batch_size=None,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
    )


PEER = Peer(
    package="webdataset",
    form=FORM,
    write=write,
    row_by_row=True,
    ways=(
        Way(
            "WebDataset",
            f"tar files of {ROWS_PER_SHARD:,} rows, shards and a buffer of {BUFFER:,} shuffled",
            open_pipeline,
        ),
    ),
)
