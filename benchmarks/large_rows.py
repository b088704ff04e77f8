# SPDX-License-Identifier: Apache-2.0
"""Memory where a few rows are megabytes among many small ones: its peak, by order and loader.

    python benchmarks/large_rows.py [--tables scattered regular] [--bytes 800] [--folder DIR]

Each figure is of a program of its own, which goes over all rows once, at 5 ms a batch: the memory
of all its processes, pages that they share counted once, less what it had before the first batch,
imports and an open table. Each table is there once more, twice as large, as what is bounded does
not grow; and once with small rows alone, which shows what workers take by themselves.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lancedb
import numpy as np
import psutil
import pyarrow as pa

MB = 1 << 20
SMALL = 1000
STEP = 0.005
EVERY = 0.02
ORDERS = (False, True, "global", "map-style", "mixture")
LOADERS = ("LanceDataLoader", "DataLoader")
WORKERS = (0, 2)


class Kind(NamedTuple):
    """Where a table's large rows stand, how large they are, and rows of a batch."""

    every: int
    size: int
    batch_size: int
    in_a_stretch: bool = False


KINDS = {
    "scattered": Kind(400, 20 * MB, 64),
    "regular": Kind(50, 8 * MB, 16),
    "stretch": Kind(50, 12 * MB, 8, in_a_stretch=True),
    "stretch, large batches": Kind(50, 12 * MB, 64, in_a_stretch=True),
}


def batches(kind: Kind, count: int) -> Iterator[pa.RecordBatch]:
    """Rows of which so many are large, all of them distinct."""
    noise = np.random.default_rng(0).bytes(kind.size + 1_000_000)
    rows = count * kind.every
    large = np.arange(count) * kind.every + kind.every // 2
    if kind.in_a_stretch:
        large = rows // 2 + np.arange(count)
    elif kind.every == KINDS["scattered"].every:
        large = np.sort(np.random.default_rng(1).choice(rows, count, replace=False))
    are_large = np.isin(np.arange(rows), large)
    for start in range(0, rows, kind.every):
        numbers = range(start, min(rows, start + kind.every))
        for few in np.array_split(numbers, 1 + are_large[start : numbers.stop].sum() // 4):
            sizes = [kind.size if are_large[row] else SMALL for row in few]
            values = [noise[row : row + size] for row, size in zip(few, sizes, strict=True)]
            yield pa.record_batch({"id": few, "value": pa.array(values, pa.large_binary())})


def make(folder: str, name: str, megabytes: int) -> str:
    """The name of a table with so many megabytes of large rows, made unless it is there."""
    kind = KINDS[name]
    title = f"{name.replace(',', '').replace(' ', '_')}_{megabytes}"
    count = megabytes * MB // kind.size
    if not megabytes:
        kind, count = kind._replace(size=SMALL), 20
    db = lancedb.connect(folder)
    if title not in db.list_tables().tables:
        schema = pa.schema({"id": pa.int64(), "value": pa.large_binary()})
        db.create_table(title, pa.RecordBatchReader.from_batches(schema, batches(kind, count)))
    return title


def run(
    folder: str, table: str, batch_size: int, order: str | bool, loader: str, workers: int
) -> None:
    """Go over all rows once: in a program that does nothing else."""
    from lancedb.integrations.torch import (
        LanceDataLoader,
        LanceIterableTorchDataset,
        LanceMixedTorchDataset,
        LanceTorchDataset,
    )
    from torch.utils.data import DataLoader

    kind = {"LanceDataLoader": LanceDataLoader, "DataLoader": DataLoader}[loader]
    source: dict[str, Any] = {"uri": folder, "table_name": table, "format": "torch"}
    if order == "map-style":
        dataset = LanceTorchDataset(**source)
        made = kind(dataset, batch_size=batch_size, shuffle=True, num_workers=workers)
    elif order == "mixture":
        sources = {
            name: LanceIterableTorchDataset(
                uri=folder, table_name=table, filter=f"id % 2 = {rest}", shuffle=True
            )
            for name, rest in (("even", 0), ("odd", 1))
        }
        dataset = LanceMixedTorchDataset(
            sources, dict.fromkeys(sources, 1), format="torch", batch_size=batch_size
        )
        made = kind(dataset, batch_size=None, num_workers=workers)
    else:
        dataset = LanceIterableTorchDataset(
            **source, batch_size=batch_size, shuffle=order, drop_last=False
        )
        made = kind(dataset, batch_size=None, num_workers=workers)
    print("idle", flush=True)
    sys.stdin.readline()
    rows = largest = 0
    for batch in made:
        rows += len(batch["id"])
        largest = max(largest, sum(map(len, batch["value"])))
        time.sleep(STEP)
    print(json.dumps({"rows": rows, "batch": largest / MB}), flush=True)


def held(process: psutil.Process) -> int:
    """Bytes of a program's processes that are in no file, those that are shared counted once."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            lines = Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines()
        except (OSError, psutil.Error):
            continue
        total += sum(
            int(line.split()[1]) << 10 for line in lines if line.startswith(("Pss_Anon", "Pss_Shm"))
        )
    return total


def peak_of(arguments: list[Any]) -> dict[str, float]:
    """What a program took at most beyond what it had before its first batch, in MB."""
    program = [sys.executable, __file__, "--run", json.dumps(arguments)]
    started = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdin is not None
    assert started.stdout is not None
    assert started.stdout.readline() == "idle\n"
    process, most, ended = psutil.Process(started.pid), [held(psutil.Process(started.pid))], False
    idle = most[0]

    def watch() -> None:
        while not ended:
            looked = time.perf_counter()
            most[0] = max(most[0], held(process))
            time.sleep(max(EVERY, 2 * (time.perf_counter() - looked)))

    watching = threading.Thread(target=watch)
    watching.start()
    started.stdin.write("\n")
    started.stdin.flush()
    found = json.loads(started.stdout.readline())
    ended = True
    watching.join()
    started.communicate()
    return {**found, "peak": (most[0] - idle) / MB}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Memory where a few rows are megabytes, by order and loader."
    )
    parser.add_argument("--tables", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--orders", nargs="+", default=[str(order) for order in ORDERS])
    parser.add_argument("--loaders", nargs="+", choices=LOADERS, default=LOADERS)
    parser.add_argument("--workers", nargs="+", type=int, default=WORKERS)
    parser.add_argument("--bytes", type=int, default=800, help="megabytes of the smaller table")
    parser.add_argument("--folder", help="where the tables are made, and left")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        return run(*json.loads(options.run))
    sizes = (options.bytes, 2 * options.bytes, 0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or temporary
        print("| table | order | loader | workers | largest batch | peak | twice | small rows |")
        print("|---|---|---|---:|---:|---:|---:|---:|")
        for name in options.tables:
            tables = [make(folder, name, size) for size in sizes]
            orders = [order for order in ORDERS if str(order) in options.orders]
            for way in itertools.product(orders, options.loaders, options.workers):
                found = [peak_of([folder, each, KINDS[name].batch_size, *way]) for each in tables]
                batch = max(each["batch"] for each in found)
                figures = [f"{size:,.0f}" for size in (batch, *(each["peak"] for each in found))]
                print(f"| {' | '.join(map(str, (name, *way, *figures)))} |", flush=True)


if __name__ == "__main__":
    main()
