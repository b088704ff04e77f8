# SPDX-License-Identifier: Apache-2.0
"""The cache on disk beside the table, memory and memmap: side by side, in one run.

    python benchmarks/disk_cache.py [--rows 1000000] [--rounds 3] [--folder DIR]

Speeds are of interleaved rounds, medians; compare the ratios only.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import torch
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from lancedb.permutation import Permutation

BATCH = 256
WIDTH = 128
CHUNK = 100_000


def batches(rows: int) -> Iterator[pa.RecordBatch]:
    random = np.random.default_rng(0)
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        values = pa.array(random.random(count * WIDTH, dtype=np.float32))
        ids = np.arange(start, start + count)
        yield pa.record_batch(
            {
                "id": ids,
                "label": (ids % 10).astype(np.int32),
                "vec": pa.FixedSizeListArray.from_arrays(values, WIDTH),
            }
        )


def memmap(folder: Path, table: lancedb.table.Table) -> Callable[[], Iterable]:
    """Batches of rows of one flat file, in random order."""
    rows = table.count_rows()
    flat = {
        "id": np.memmap(folder / "id", np.int64, "w+", shape=rows),
        "label": np.memmap(folder / "label", np.int32, "w+", shape=rows),
        "vec": np.memmap(folder / "vec", np.float32, "w+", shape=(rows, WIDTH)),
    }
    at = 0
    for batch in Permutation.identity(table).with_format("arrow").iter(8192, skip_last_batch=False):
        end = at + batch.num_rows
        for name in ("id", "label"):
            flat[name][at:end] = batch[name].to_numpy()
        flat["vec"][at:end] = batch["vec"].flatten().to_numpy().reshape(-1, WIDTH)
        at = end

    def epoch() -> Iterator:
        order = np.random.default_rng(1).permutation(rows)
        for start in range(0, rows - BATCH + 1, BATCH):
            picked = order[start : start + BATCH]
            yield {name: torch.from_numpy(np.asarray(each[picked])) for name, each in flat.items()}

    return epoch


def seconds(epoch: Iterable) -> float:
    started = time.perf_counter()
    for _ in epoch:
        pass
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        run(Path(name), given.rows, given.rounds)


def run(folder: Path, rows: int, rounds: int) -> None:
    first = next(batches(CHUNK))
    table = lancedb.connect(folder / "db").create_table("t", batches(rows), schema=first.schema)
    common = {"format": "torch", "cache": False}

    def iterable(shuffle: bool | str, **more) -> LanceIterableTorchDataset:
        return LanceIterableTorchDataset(table, batch_size=BATCH, shuffle=shuffle, **common, **more)

    def mapped(**more) -> LanceDataLoader:
        dataset = LanceTorchDataset(table, **common, **more)
        return LanceDataLoader(dataset, batch_size=BATCH, shuffle=True)

    cache = folder / "cache"
    filling = iterable(True, cache_dir=cache)
    print(f"first epoch, empty loop: {seconds(filling):.2f} s beside the writing,", end=" ")
    print(f"{seconds(iterable(True)):.2f} s without")
    filling._disk.wait()
    by_table, by_disk = iterable(True), iterable(True, cache_dir=cache)
    by_rows, by_index = iterable("global", cache_dir=cache), mapped(cache_dir=cache)
    ways = {
        "lancedb, sequential": lambda: Permutation.identity(table).with_format("arrow").iter(8192),
        "memmap[perm]": memmap(folder, table),
        "True, table": lambda: by_table,
        "True, disk": lambda: by_disk,
        "global, disk": lambda: by_rows,
        "map-style, disk": lambda: by_index,
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first one warms up
        for name, way in ways.items():
            speeds[name].append(rows / seconds(way()))
    medians = {name: statistics.median(found[1:]) for name, found in speeds.items()}
    for name, speed in medians.items():
        print(
            f"{name:22} {speed:12,.0f} rows/s"
            f" {speed / medians['lancedb, sequential']:6.2f} of the sequential read"
            f" {speed / medians['memmap[perm]']:6.2f} of memmap[perm]"
        )


if __name__ == "__main__":
    main()
