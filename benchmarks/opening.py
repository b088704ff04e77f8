# SPDX-License-Identifier: Apache-2.0
"""What a process pays to open a table, as fragments and columns grow: seconds, and memory.

Each figure is that of a new process, which imports first, then opens a dataset over the table, then
reads a batch of it. Memory is what became resident with each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import lancedb
import pyarrow as pa

KINDS = ("mapped", "iterable")
BATCH = 64
ROWS = 10_000


def scattered(folder: Path, fragments: int) -> str:
    """The name of a table of 10,000 rows or more in so many fragments, made at the first call."""
    name = f"fragments_{fragments}"
    db = lancedb.connect(folder)
    if name in db.list_tables(limit=100_000).tables:
        return name
    each = max(1, ROWS // fragments)
    schema = pa.schema([("id", pa.int64()), ("label", pa.int32())])
    table = db.create_table(name, schema=schema)
    for start in range(0, fragments, 500):
        part = range(start, min(fragments, start + 500))
        batches = [pa.record_batch({"id": [n] * each, "label": [n] * each}, schema) for n in part]
        table.add(pa.Table.from_batches(batches), write_parallelism=len(part))
    return name


def wide(folder: Path, columns: int) -> str:
    """The name of a table of so many columns, made at the first call."""
    name = f"columns_{columns}"
    db = lancedb.connect(folder)
    if name not in db.list_tables(limit=100_000).tables:
        rows = pa.array(range(1000), pa.int32())
        db.create_table(name, pa.table({f"c{number}": rows for number in range(columns)}))
    return name


def measure_here(folder: Path, name: str, kind: str) -> dict[str, float]:
    """Open and read in this process, which has done nothing else."""
    import psutil
    from lancedb.integrations.torch import LanceIterableTorchDataset, LanceTorchDataset

    process = psutil.Process()

    def resident() -> float:
        return process.memory_info().rss / 2**20

    options = {"uri": folder, "table_name": name, "format": "torch", "batch_size": BATCH}
    before, started = resident(), time.perf_counter()
    make = LanceTorchDataset if kind == "mapped" else LanceIterableTorchDataset
    dataset = make(**options)
    opened, open_at = resident(), time.perf_counter()
    next(iter(dataset))
    read, read_at = resident(), time.perf_counter()
    return {
        "open_seconds": open_at - started,
        "open_megabytes": opened - before,
        "first_batch_seconds": read_at - open_at,
        "first_batch_megabytes": read - opened,
    }


def measure(folder: Path, name: str, kind: str, rounds: int) -> dict[str, float]:
    """Medians over processes of their own."""
    command = [sys.executable, __file__, "--data", str(folder), "--open", name, "--kind", kind]
    runs = []
    for _ in range(rounds):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}


def row_of(name: str, kind: str, figures: dict[str, float]) -> str:
    """A line of a Markdown table."""
    shown = " | ".join(f"{value:,.2f}" for value in figures.values())
    return f"| {name} | {kind} | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--fragments", type=int, nargs="*", default=[1, 100, 1000, 10_000])
    parser.add_argument("--columns", type=int, nargs="*", default=[5, 500, 5000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--open", help="measure this one table in this process")
    parser.add_argument("--kind", choices=KINDS, default="mapped")
    args = parser.parse_args()
    if args.open:
        print(json.dumps(measure_here(args.data, args.open, args.kind)))
        return
    names = [scattered(args.data, fragments) for fragments in args.fragments]
    names += [wide(args.data, columns) for columns in args.columns]
    print("| table | dataset | open, s | open, MB | first batch, s | first batch, MB |")
    print("|---|---|---:|---:|---:|---:|")
    for name in names:
        for kind in KINDS:
            print(row_of(name, kind, measure(args.data, name, kind, args.rounds)), flush=True)


if __name__ == "__main__":
    main()
