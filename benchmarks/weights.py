# SPDX-License-Identifier: Apache-2.0
"""Rows drawn by weights beside the same order without, and beside torch's sampler.

    python benchmarks/weights.py [--rows 1000000] [--rounds 3]

Rows a second of an epoch of embeddings, in turn in one process; how many rows never come where all
weights are alike; and how long the weights take to be read and summed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.integrations._torch.order.weighted import cumulative, drawn
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset, LanceTorchDataset
from torch.utils.data import DataLoader, WeightedRandomSampler

BATCH = 256


def make_table(folder: str, rows: int) -> lancedb.table.Table:
    """Embeddings of 128 floats, and a weight for each: one row in a hundred has a hundredfold."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((rows, 128), np.float32)
    data = {
        "id": np.arange(rows),
        "weight": np.where(random.random(rows) < 0.01, 100.0, 1.0),
        "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 128),
    }
    return lancedb.connect(folder).create_table("rows", pa.table(data))


def rows_a_second(batches: Iterable, most: int) -> float:
    started, rows = time.perf_counter(), 0
    for batch in batches:
        rows += len(batch["id"])
        if rows >= most:
            break
    return rows / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = make_table(folder, options.rows)
        common = {"columns": ["id", "vec"], "format": "torch"}

        def ours(**arguments) -> Iterable:
            dataset = LanceIterableTorchDataset(
                table, batch_size=BATCH, cache=False, **arguments, **common
            )
            return LanceDataLoader(dataset)

        mapped = LanceTorchDataset(table, cache=False, **common)
        weights = table.search().select(["weight"]).to_arrow()["weight"].to_numpy()

        def torchs() -> Iterable:
            sampler = WeightedRandomSampler(weights, len(weights))
            return DataLoader(mapped, batch_size=BATCH, sampler=sampler)

        ways = {
            "True": lambda: ours(shuffle=True),
            "True, weighted": lambda: ours(shuffle=True, sample_weights="weight"),
            "global": lambda: ours(shuffle="global"),
            "global, weighted": lambda: ours(shuffle="global", sample_weights="weight"),
            "WeightedRandomSampler": torchs,
        }
        speeds = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, make in ways.items():
                most = options.rows // 10 if name == "WeightedRandomSampler" else options.rows
                speeds[name].append(rows_a_second(make(), most))
        for name, found in speeds.items():
            print(f"{name:24} {statistics.median(found):12,.0f} rows/s")
    alike = np.ones(options.rows)
    points = np.arange(options.rows)
    for name, rows in {
        "weighted": drawn(cumulative(alike, options.rows), points, 0, 0),
        "WeightedRandomSampler": np.fromiter(WeightedRandomSampler(alike, options.rows), int),
    }.items():
        print(f"{name:24} {1 - len(np.unique(rows)) / options.rows:12.1%} of the rows never come")
    many = np.random.default_rng(0).random(100_000_000)
    started = time.perf_counter()
    cumulative(many, len(many))
    print(f"{'100 million weights':24} {time.perf_counter() - started:12.1f} s to sum")


if __name__ == "__main__":
    main()
