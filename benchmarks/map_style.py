# SPDX-License-Identifier: Apache-2.0
"""Map-style loading with a true shuffle, side by side, on one table in one run.

The bare calls are the ceiling of what any reader over lancedb can reach: ``take_offsets`` of the
same sorted batches, and nothing else.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from lancedb.background_loop import LOOP
from lancedb.integrations.torch import LanceTorchDataset
from lancedb.permutation import Permutation
from measure import Way, race, save, table_of
from tables import open_table
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

COLUMNS = ["id", "label", "vec"]


def shuffled(rows: int, batch: int) -> Iterator[list[int]]:
    """Batches of a true shuffle, as every loader here is asked for."""
    return iter(BatchSampler(RandomSampler(range(rows)), batch, drop_last=True))


def bare_calls(table, batch: int) -> Iterator[int]:
    """lancedb's own reader, sorted offsets, one call a batch."""
    permutation = Permutation.identity(table)
    selection = {name: name for name in COLUMNS}

    async def take(offsets: list[int]) -> pa.RecordBatch:
        return await permutation.reader.take_offsets(offsets, selection=selection)

    for indices in shuffled(table.count_rows(), batch):
        yield LOOP.run(take(sorted(indices))).num_rows


def wait_a_millisecond(columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A transform that keeps its processor busy for 1 ms a batch."""
    until = time.perf_counter() + 0.001
    while time.perf_counter() < until:
        pass
    return columns


def ours(table, batch: int, workers: int, transform=None) -> Iterator[int]:
    """LanceTorchDataset in a plain DataLoader, without a collate function."""
    dataset = LanceTorchDataset(table, columns=COLUMNS, format="torch", transform=transform)
    loader = DataLoader(
        dataset,
        batch_sampler=list(shuffled(len(dataset), batch)),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    for columns in loader:
        yield len(columns["id"])


def permutation_python(table, batch: int) -> Iterator[int]:
    """lancedb's Permutation in its default format."""
    permutation = Permutation.identity(table).select_columns(COLUMNS)
    sampler = list(shuffled(len(permutation), batch))
    for rows in DataLoader(permutation, batch_sampler=sampler, collate_fn=list):
        yield len(rows)


def collate_arrow(batch: pa.RecordBatch) -> dict[str, torch.Tensor]:
    """What a careful user writes by hand for this table."""
    vectors = batch["vec"].flatten().to_numpy().reshape(len(batch), -1)
    numbers = {name: torch.from_numpy(batch[name].to_numpy().copy()) for name in ("id", "label")}
    return {**numbers, "vec": torch.from_numpy(vectors.copy())}


def permutation_arrow(table, batch: int) -> Iterator[int]:
    """lancedb's Permutation in arrow with a hand-written collate function."""
    permutation = Permutation.identity(table).select_columns(COLUMNS).with_format("arrow")
    sampler = list(shuffled(len(permutation), batch))
    for columns in DataLoader(permutation, batch_sampler=sampler, collate_fn=collate_arrow):
        yield len(columns["id"])


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
    tables, results = {}, {}
    for batch in args.batches:
        ways: dict[str, Way] = {
            "bare take_offsets": lambda b=batch: bare_calls(table, b),
            "LanceTorchDataset, 0 workers": lambda b=batch: ours(table, b, 0),
            "LanceTorchDataset, 2 workers": lambda b=batch: ours(table, b, 2),
            "LanceTorchDataset, 0 workers, 1 ms transform": lambda b=batch: ours(
                table, b, 0, wait_a_millisecond
            ),
            "LanceTorchDataset, 2 workers, 1 ms transform": lambda b=batch: ours(
                table, b, 2, wait_a_millisecond
            ),
            "lancedb Permutation, python": lambda b=batch: permutation_python(table, b),
            "lancedb Permutation, arrow + collate": lambda b=batch: permutation_arrow(table, b),
        }
        name = f"batches of {batch}"
        results[name] = race(ways, args.rounds, args.seconds)
        tables[name] = table_of(results[name], "bare take_offsets")
        print(tables[name])
    save(args.out, "Map-style, true shuffle", tables, results)


if __name__ == "__main__":
    main()
