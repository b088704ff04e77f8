# SPDX-License-Identifier: Apache-2.0
"""The ceiling: rows gathered by numpy out of memory-mapped arrays in a true shuffle.

Nothing can be added to such files, and no column is anything but numbers; documents and images lie
end to end with offsets beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.lib.format import open_memmap
from torch.utils.data import DataLoader, Dataset

from peers import Job, Peer, Source, Way, row_as_state
from peers.batches import ShuffledBatches, decode, jagged_of

FORM = "npy"


def write(source: Source, folder: Path) -> None:
    schema = next(source.batches()).schema
    for field in schema:
        if pa.types.is_list(field.type) or pa.types.is_binary(field.type):
            write_ragged(source, folder, field.name)
        else:
            write_fixed(source, folder, field)


def write_fixed(source: Source, folder: Path, field: pa.Field) -> None:
    fixed_list = pa.types.is_fixed_size_list(field.type)
    kind = field.type.value_type if fixed_list else field.type
    shape = (source.rows, field.type.list_size) if fixed_list else (source.rows,)
    target = open_memmap(folder / f"{field.name}.npy", "w+", kind.to_pandas_dtype(), shape)
    row = 0
    for batch in source.batches():
        column = batch[field.name]
        values = column.flatten() if fixed_list else column
        target[row : row + len(column)] = values.to_numpy().reshape(-1, *shape[1:])
        row += len(column)
    target.flush()


def write_ragged(source: Source, folder: Path, name: str) -> None:
    ends = [np.zeros(1, np.int64)]
    with open(folder / f"{name}.values", "wb") as file:
        for batch in source.batches():
            column = batch[name]
            values, offsets = values_of(column), np.frombuffer(column.buffers()[1], np.int32)
            offsets = offsets[column.offset : column.offset + len(column) + 1].astype(np.int64)
            file.write(values[offsets[0] : offsets[-1]].tobytes())
            ends.append(offsets[1:] - offsets[0] + ends[-1][-1])
    np.save(folder / f"{name}.ends.npy", np.concatenate(ends))


def values_of(column: pa.Array) -> np.ndarray:
    if pa.types.is_binary(column.type):
        return np.frombuffer(column.buffers()[2], np.uint8)
    return column.values.to_numpy()


class MappedArrays(Dataset):
    """A batch for each list of row numbers."""

    def __init__(self, job: Job):
        self.folder, self.columns = job.source.folder(FORM), job.columns
        self.arrays: dict[str, Any] | None = None

    def open(self) -> dict[str, Any]:
        return {name: self.open_column(name) for name in self.columns}

    def open_column(self, name: str) -> Any:
        path = self.folder / f"{name}.npy"
        if path.exists():
            return np.load(path, mmap_mode="r")
        kind = np.uint8 if name == "image" else np.int32
        values = np.memmap(self.folder / f"{name}.values", kind, "r")
        return values, np.load(self.folder / f"{name}.ends.npy")

    def __getitem__(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        self.arrays = self.arrays or self.open()
        numbers = rows.numpy()
        return {name: gather(name, array, numbers) for name, array in self.arrays.items()}


def gather(name: str, array: Any, rows: np.ndarray) -> torch.Tensor:
    if not isinstance(array, tuple):
        return torch.from_numpy(array[rows])
    values, ends = array
    starts, stops = ends[rows], ends[rows + 1]
    pieces = [values[start:stop] for start, stop in zip(starts, stops, strict=True)]
    if name == "image":
        return decode(pieces)
    offsets = np.concatenate([[0], np.cumsum(stops - starts)])
    return jagged_of(np.concatenate(pieces), offsets)


def restore(job: Job, row: int) -> DataLoader:
    return DataLoader(
        MappedArrays(job),
        batch_size=None,
        sampler=ShuffledBatches(job.source.rows, job.batch_size, row),
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
    )


def open_arrays(job: Job) -> DataLoader:
    return restore(job, 0)


PEER = Peer(
    package="numpy",
    form=FORM,
    write=write,
    resume="a seeded sampler",
    ways=(
        Way(
            "memmap gather (ceiling)",
            "`np.load(mmap_mode='r')[rows]`, a batch of row numbers at a time",
            open_arrays,
            row_as_state,
            restore,
            kinds=("embeddings", "images", "tokens", "tabular"),
        ),
    ),
)
