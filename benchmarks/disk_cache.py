# SPDX-License-Identifier: Apache-2.0
"""The cache on disk beside the table, memory and memmap: side by side, in one run.

    python benchmarks/disk_cache.py [--rows 1000000] [--rounds 3] [--folder DIR] [--out FILE]

Speeds are of interleaved rounds, the best; compare the ratios only. Then how much longer the first
epoch takes, beside which the cache is written.
"""

from __future__ import annotations

import argparse
import itertools
import json
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
from tables import fill_cache

BATCH = 256
WIDTH = 128
CHUNK = 100_000
# Batches of those that read row by row.
MOST_SLOW = 400
SEQUENTIAL = "lancedb, sequential iter(8192)"
CEILING = "memmap[perm], one flat file a column"


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


def seconds(epoch: Iterable, consuming: float = 0.0, most: int | None = None) -> float:
    """How long an epoch takes, or its first batches, for who needs so many seconds for each."""
    started = time.perf_counter()
    for _ in itertools.islice(epoch, most):
        if consuming:
            time.sleep(consuming)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, help="file for the results, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        found = run(Path(name), given.rows, given.rounds)
    for kind in ("rows_per_second", "beside_the_writing"):
        for name, value in found[kind].items():
            print(f"{name:42} {value:14,.2f}")
    if given.out:
        given.out.write_text(json.dumps({"rows": given.rows, **found}, indent=1) + "\n")


def run(folder: Path, rows: int, rounds: int) -> dict[str, dict[str, float]]:
    first = next(batches(CHUNK))
    table = lancedb.connect(folder / "db").create_table("t", batches(rows), schema=first.schema)
    common = {"format": "torch", "cache": False}

    def iterable(shuffle: bool | str, workers: int = 0, **more) -> LanceDataLoader:
        dataset = LanceIterableTorchDataset(
            table, batch_size=BATCH, shuffle=shuffle, **common, **more
        )
        return LanceDataLoader(dataset, num_workers=workers, persistent_workers=workers > 0)

    def mapped(workers: int = 0, **more) -> LanceDataLoader:
        dataset = LanceTorchDataset(table, **common, **more)
        return LanceDataLoader(
            dataset,
            batch_size=BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    writing = beside_the_writing(folder, iterable)
    cache = folder / "cache"
    ways: dict[str, Callable[[], Iterable]] = {
        SEQUENTIAL: lambda: Permutation.identity(table).with_format("arrow").iter(8192),
        CEILING: memmap(folder, table),
    }
    loaders = {
        "shuffle=True, from the table": iterable(True),
        "shuffle=True, cached on disk": iterable(True, cache_dir=cache),
        'shuffle="global", from the table': iterable("global"),
        'shuffle="global", cached on disk': iterable("global", cache_dir=cache),
        "map-style, from the table": mapped(),
        "map-style, cached on disk": mapped(cache_dir=cache),
        "shuffle=True, cached on disk, 2 workers": iterable(True, 2, cache_dir=cache),
    }
    fill_cache(loaders["map-style, cached on disk"].dataset)
    ways |= {name: (lambda loader=loader: loader) for name, loader in loaders.items()}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first one warms up
        for name, way in ways.items():
            most = MOST_SLOW if name.endswith("from the table") and "True" not in name else None
            most = most and min(most, rows // BATCH)
            speeds[name].append((most * BATCH if most else rows) / seconds(way(), most=most))
    best = {name: max(found[1:]) for name, found in speeds.items()}
    return {"rows_per_second": best, "beside_the_writing": writing}


def beside_the_writing(folder: Path, iterable: Callable[..., LanceDataLoader]) -> dict[str, float]:
    """Time of a first epoch, or of its first batches, over that of one that writes nothing."""
    found = {}
    for name, consuming, most in (
        ("an empty loop", 0.0, None),
        ("a consumer of 5 ms", 0.005, 800),
    ):
        ratios = []
        for number in range(3):
            plain = seconds(iterable(True), consuming, most)
            filling = iterable(True, cache_dir=folder / f"{name} {number}")
            ratios.append(seconds(filling, consuming, most) / plain)
            filling.dataset._rows.disk.wait()
        found[name] = statistics.median(ratios)
    return found


if __name__ == "__main__":
    main()
