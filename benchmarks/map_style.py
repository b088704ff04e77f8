# SPDX-License-Identifier: Apache-2.0
"""Map-style loading with a true shuffle, side by side, on one table in one run.

The bare calls are the ceiling of what any reader over lancedb can reach: ``take_offsets`` of the
same sorted batches, and nothing else. They are made on the table as a user opens it, and on the
same table opened through io_uring, as our datasets do by themselves. What opens and what starts
up, workers too, does so before the clock.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import torch
from lancedb.background_loop import LOOP
from lancedb.integrations.torch import LanceTorchDataset
from lancedb.permutation import Permutation
from lancedb.table import LanceTable
from measure import Way, race, save, table_of
from tables import open_table
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

RING = "bare take_offsets, io_uring"
COLUMNS = ["id", "label", "vec", "text"]


def shuffled(rows: int, batch: int) -> BatchSampler:
    """Batches of a true shuffle, as every loader here is asked for."""
    return BatchSampler(RandomSampler(range(rows)), batch, drop_last=True)


def bare_calls(table, batch: int) -> Iterator[int]:
    """lancedb's own reader, sorted offsets, one call a batch."""
    permutation = Permutation.identity(table)
    selection = {name: name for name in COLUMNS}

    async def take(offsets: list[int]) -> pa.RecordBatch:
        return await permutation.reader.take_offsets(offsets, selection=selection)

    for indices in shuffled(table.count_rows(), batch):
        yield LOOP.run(take(sorted(indices))).num_rows


def busy_for_a_millisecond(columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A transform that keeps its processor busy for 1 ms a batch."""
    until = time.perf_counter() + 0.001
    while time.perf_counter() < until:
        pass
    return columns


def loader_of(table, batch: int, workers: int, transform=None) -> DataLoader:
    """LanceTorchDataset in a plain DataLoader, without a collate function; its workers run."""
    dataset = LanceTorchDataset(table, columns=COLUMNS, format="torch", transform=transform)
    loader = DataLoader(
        dataset,
        batch_sampler=shuffled(len(dataset), batch),
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        persistent_workers=workers > 0,
    )
    for _ in zip(range(2 * workers + 1), loader, strict=False):
        pass
    return loader


def collate_arrow(batch: pa.RecordBatch) -> dict:
    """What a careful user writes by hand for this table."""
    vectors = batch["vec"].flatten().to_numpy().reshape(len(batch), -1)
    numbers = {name: torch.from_numpy(batch[name].to_numpy().copy()) for name in ("id", "label")}
    return {**numbers, "vec": torch.from_numpy(vectors.copy()), "text": batch["text"].to_pylist()}


def permutation_loader(table, batch: int, format: str, **options) -> DataLoader:
    """lancedb's Permutation in a DataLoader."""
    permutation = Permutation.identity(table).select_columns(COLUMNS).with_format(format)
    return DataLoader(permutation, batch_sampler=shuffled(len(permutation), batch), **options)


def batches_of(loader: DataLoader) -> Iterator[int]:
    """The rows of each batch of a loader."""
    for columns in loader:
        yield len(columns["id"])


def ways_of(table, ring, batch: int) -> dict[str, Way]:
    """Every way of loading batches of one size; `ring` is the table read through io_uring."""
    loaders = {
        "LanceTorchDataset, 0 workers": loader_of(table, batch, 0),
        "LanceTorchDataset, 2 workers": loader_of(table, batch, 2),
        "LanceTorchDataset, 0 workers, 1 ms transform": loader_of(
            table, batch, 0, busy_for_a_millisecond
        ),
        "LanceTorchDataset, 2 workers, 1 ms transform": loader_of(
            table, batch, 2, busy_for_a_millisecond
        ),
        "lancedb Permutation, python": permutation_loader(table, batch, "python"),
        "lancedb Permutation, arrow + collate": permutation_loader(
            table, batch, "arrow", collate_fn=collate_arrow
        ),
    }
    return {
        "bare take_offsets": lambda: bare_calls(table, batch),
        RING: lambda: bare_calls(ring, batch),
        **{name: lambda loader=loader: batches_of(loader) for name, loader in loaders.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/map_style"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 4096])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    np.random.seed(0)
    table = open_table(args.data, "embeddings", args.rows)
    location = f"file+uring://{quote(str(args.data.resolve()))}/{table.name}.lance"
    ring = LanceTable(table._conn, table.name, location=location)
    tables, results = {}, {}
    for batch in args.batches:
        name = f"batches of {batch}"
        results[name] = race(ways_of(table, ring, batch), args.rounds, args.seconds)
        tables[name] = table_of(results[name], RING)
        print(tables[name])
    save(args.out, "Map-style, true shuffle", tables, results)


if __name__ == "__main__":
    main()
