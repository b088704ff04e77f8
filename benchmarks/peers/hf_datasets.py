# SPDX-License-Identifier: Apache-2.0
"""Hugging Face `datasets`: map-style with a batch sampler, and iterable with a shuffle buffer.

huggingface.co/docs/datasets/use_with_pytorch: `with_format("torch")`, and batches of row numbers
asked for at once; huggingface.co/docs/datasets/about_mapstyle_vs_iterable:
`to_iterable_dataset(num_shards)` and `shuffle(buffer_size)` where speed matters more than order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch
from torch.utils.data import DataLoader

from peers import Job, Peer, Source, Way, advance, row_as_state
from peers.batches import ShuffledLists, of_arrow, of_lists

FORM = "hf_datasets"
SHARDS = 64
BUFFER = 10_000


def write(source: Source, folder: Path) -> None:
    datasets.disable_progress_bars()
    table = pa.Table.from_batches(list(source.batches()))
    datasets.Dataset(table).save_to_disk(folder)


def dataset_of(job: Job) -> datasets.Dataset:
    return datasets.load_from_disk(str(job.source.folder(FORM))).select_columns(job.columns)


def arrow_to_tensors(table: pa.Table) -> dict[str, torch.Tensor]:
    return of_arrow(table.combine_chunks().to_batches()[0])


def restore_mapped(job: Job, row: int) -> DataLoader:
    irregular = job.workload.ragged or job.workload.encoded
    dataset = dataset_of(job)
    return DataLoader(
        dataset.with_format("arrow") if irregular else dataset.with_format("torch"),
        batch_size=None,
        sampler=ShuffledLists(job.source.rows, job.batch_size, row),
        collate_fn=arrow_to_tensors if irregular else as_it_is,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
    )


def as_it_is(batch: Any) -> Any:
    return batch


def open_mapped(job: Job) -> DataLoader:
    return restore_mapped(job, 0)


def iterable(job: Job) -> datasets.IterableDataset:
    # A number of shards that the workers share evenly, as its documentation asks for.
    shards = min(SHARDS, job.source.rows)
    irregular = job.workload.ragged or job.workload.encoded
    stream = dataset_of(job).to_iterable_dataset(num_shards=shards)
    stream = stream.with_format("numpy" if irregular else "torch")
    return stream.shuffle(seed=0, buffer_size=BUFFER)


class Batched:
    """An epoch at a time by the dataset's own `iter`, in this process."""

    def __init__(self, job: Job, stream: datasets.IterableDataset):
        self.job, self.stream, self.epoch = job, stream, 0

    def __iter__(self):
        self.stream.set_epoch(self.epoch)
        self.epoch += 1
        for batch in self.stream.iter(self.job.batch_size, drop_last_batch=True):
            yield batch if isinstance(batch["id"], torch.Tensor) else of_lists(batch)


def open_iterable(job: Job) -> Any:
    stream = iterable(job)
    if not job.workers:
        return Batched(job, stream)
    return DataLoader(
        stream.batch(job.batch_size, drop_last_batch=True),
        batch_size=None,
        collate_fn=tensors_of,
        num_workers=job.workers,
        persistent_workers=True,
    )


def tensors_of(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return batch if isinstance(batch["id"], torch.Tensor) else of_lists(batch)


def state_of_iterable(job: Job, row: int) -> tuple[Any, int]:
    loader = open_iterable(Job(job.source, 0, job.batch_size))
    return advance(job, loader, row, loader.stream.state_dict)


def restore_iterable(job: Job, state: Any) -> Any:
    loader = open_iterable(Job(job.source, 0, job.batch_size))
    loader.stream.load_state_dict(state)
    return loader


PEER = Peer(
    package="datasets",
    form=FORM,
    write=write,
    resume="map-style: a seeded sampler; iterable: by shard, the buffer's rows are lost",
    ways=(
        Way(
            "HF datasets, map-style",
            '`with_format("torch")`, a batch of row numbers at a time',
            open_mapped,
            row_as_state,
            restore_mapped,
        ),
        Way(
            "HF datasets, iterable",
            f"{SHARDS} shards, buffer of {BUFFER:,} rows, `.iter` or `.batch` with workers",
            open_iterable,
            state_of_iterable,
            restore_iterable,
        ),
    ),
)
