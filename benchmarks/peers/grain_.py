# SPDX-License-Identifier: Apache-2.0
"""Grain: ArrayRecord files with a group for each row, `MapDataset.shuffle`, `to_iter_dataset`.

google-grain.readthedocs.io advises groups of one record for random access, threads that read ahead
(its defaults here), and `mp_prefetch` for work that Python's lock holds back.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from peers import Job, Peer, Source, Way, advance
from peers.batches import of_rows, rows_of
from peers.webdataset_ import APART, numbers_of

FORM = "grain"
ROWS_PER_FILE = 100_000


def write(source: Source, folder: Path) -> None:
    limit = source.workload.fragment_rows or ROWS_PER_FILE
    writer, written = None, 0
    for batch in source.batches():
        for row in rows_of(batch, batch.schema.names):
            if writer is None or written % limit == 0:
                close(writer)
                path = folder / f"{written // limit:06d}.array_record"
                writer = ArrayRecordWriter(str(path), "group_size:1")
            writer.write(to_record(row))
            written += 1
    close(writer)


def close(writer: ArrayRecordWriter | None) -> None:
    if writer is not None:
        writer.close()


def to_record(row: dict[str, Any]) -> bytes:
    """The columns of one size as one record, and the one that is not behind it."""
    numbers = np.empty((), numbers_of(row))
    for name in numbers.dtype.names or ():
        numbers[name] = row[name]
    rest = [row[name] for name in APART if name in row]
    return numbers.tobytes() + b"".join(bytes(value) for value in rest)


def from_record(record: bytes, kind: np.dtype, columns: list[str]) -> dict[str, Any]:
    numbers = np.frombuffer(record, kind, 1)[0]
    row = {name: numbers[name] for name in columns if name not in APART}
    if "image" in columns:
        row["image"] = record[kind.itemsize :]
    if "tokens" in columns:
        row["tokens"] = np.frombuffer(record, np.int32, offset=kind.itemsize)
    return row


def rows_of_job(job: Job) -> grain.MapDataset:
    """All rows, shuffled."""
    first = next(job.source.batches())
    kind = numbers_of(next(rows_of(first, first.schema.names)))
    files = sorted(str(path) for path in job.source.folder(FORM).glob("*.array_record"))
    return (
        grain.MapDataset.source(grain.sources.ArrayRecordDataSource(files))
        .seed(0)
        .shuffle()
        .map(partial(from_record, kind=kind, columns=job.columns))
    )


def open_dataset(job: Job) -> grain.IterDataset:
    return batches_of(rows_of_job(job), job)


def batches_of(rows: grain.MapDataset, job: Job) -> grain.IterDataset:
    dataset = rows.batch(job.batch_size, drop_remainder=True, batch_fn=of_rows).to_iter_dataset()
    if not job.workers:
        return dataset
    return dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=job.workers))


def state(job: Job, row: int) -> tuple[Any, int]:
    batches = iter(open_dataset(job))
    return advance(job, batches, row, batches.get_state)


class Restored:
    """An iterator that goes on from a state, as a loader of one epoch."""

    def __init__(self, batches: Any):
        self.batches = batches

    def __iter__(self):
        return self.batches


def restore(job: Job, state: Any) -> Restored:
    batches = iter(open_dataset(job))
    batches.set_state(state)
    return Restored(batches)


PEER = Peer(
    package="grain",
    form=FORM,
    write=write,
    row_by_row=True,
    resume="exact",
    ways=(
        Way(
            "Grain",
            "ArrayRecord, groups of one row, `MapDataset.shuffle`, batches collated by hand",
            open_dataset,
            state,
            restore,
        ),
    ),
)
