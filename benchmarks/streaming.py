# SPDX-License-Identifier: Apache-2.0
"""Streaming epochs side by side with lancedb's own ways, on one table in one run, as ratios.

Sequential reads (``Permutation.iter``) and bare sorted ``take_offsets`` calls deliver Arrow
batches and nothing else: they are what any loader over lancedb can hope for.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from lancedb.background_loop import LOOP
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from lancedb.permutation import Permutation
from lancedb.streaming import StreamingDataset
from measure import Way, race, save, table_of
from tables import open_table
from torch.utils.data import DataLoader

WORKLOADS = {
    "embeddings": (1_000_000, ["id", "label", "vec"], 256),
    "blobs": (20_000, ["id", "image"], 64),
    "tokens": (200_000, ["id", "tokens"], 256),
}
SEQUENTIAL = "lancedb, sequential iter(8192)"
BARE = "lancedb, bare sorted take_offsets"
BLOCKS = "lancedb, bare take_offsets of blocks as in shuffle=True, 3 at once"
KEPT = "ours, shuffle=True, cache=True: the table in memory"
ORDERS = {"shuffle=False": False, "shuffle=True": True, 'shuffle="global"': "global"}
READ = 16_384
BLOCKS_READ_BYTES = 8 << 20
BLOCKS_AT_ONCE = 3


def sequential(table, columns: list[str]) -> Iterator[int]:
    """lancedb's own read in stored order."""
    permutation = Permutation.identity(table).select_columns(columns).with_format("arrow")
    for batch in permutation.iter(8192, skip_last_batch=False):
        yield batch.num_rows


def bare_calls(table, columns: list[str]) -> Iterator[int]:
    """A true shuffle: sorted offsets of a whole window in each call, and nothing done with them."""
    permutation = Permutation.identity(table)
    selection = {name: name for name in columns}
    order = np.random.default_rng(0).permutation(table.count_rows())

    async def take(offsets: list[int]) -> pa.RecordBatch:
        return await permutation.reader.take_offsets(offsets, selection=selection)

    for start in range(0, len(order), READ):
        yield LOOP.run(take(np.sort(order[start : start + READ]).tolist())).num_rows


def bare_blocks(table, columns: list[str], block_rows: int) -> Iterator[int]:
    """The reads of a block shuffle, and nothing done with them: what its order can give at most."""
    permutation = Permutation.identity(table)
    selection = {name: name for name in columns}
    row_bytes = table.stats()["total_bytes"] // table.count_rows()
    count = max(1, min(READ, BLOCKS_READ_BYTES // row_bytes) // block_rows)
    order = np.random.default_rng(0).permutation(table.count_rows() // block_rows)

    async def take(blocks: np.ndarray) -> pa.RecordBatch:
        offsets = np.sort(blocks)[:, None] * block_rows + np.arange(block_rows)
        return await permutation.reader.take_offsets(offsets.ravel().tolist(), selection=selection)

    under_way = deque()
    try:
        for start in range(0, len(order), count):
            blocks = order[start : start + count]
            under_way.append(asyncio.run_coroutine_threadsafe(take(blocks), LOOP.loop))
            if len(under_way) == BLOCKS_AT_ONCE:
                yield under_way.popleft().result().num_rows
        while under_way:
            yield under_way.popleft().result().num_rows
    finally:
        for future in under_way:
            future.cancel()


def rows_of_batch(batch: pa.RecordBatch) -> list[dict]:
    """What lancedb's loader is given to split a batch into rows: views, where there can be."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_fixed_size_list(column.type):
            columns[name] = column.flatten().to_numpy().reshape(len(column), -1)
        else:
            columns[name] = column.to_numpy(zero_copy_only=False)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def to_tensors(rows: list[dict]) -> dict:
    """Rows as a batch of tensors, as a careful user collates them; lists where they are ragged."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    ragged = ("image", "tokens")
    return {
        name: values if name in ragged else torch.from_numpy(np.asarray(values))
        for name, values in columns.items()
    }


def streaming_dataset(table, columns, batch_size: int, **options) -> Iterator[int]:
    """lancedb's own training loader."""
    dataset = StreamingDataset(table, columns=columns, **options)
    for rows in DataLoader(dataset, batch_size, collate_fn=to_tensors):
        yield len(rows["id"])


def ours(loader: LanceDataLoader, batch_size: int) -> Iterator[int]:
    for _ in loader:
        yield batch_size


def loader_of(kind: str, folder: Path, rows: int, shuffle, **options) -> LanceDataLoader:
    _, columns, batch_size = WORKLOADS[kind]
    dataset = LanceIterableTorchDataset(
        open_table(folder, kind, rows),
        columns=columns,
        format="torch",
        batch_size=batch_size,
        shuffle=shuffle,
        **options,
    )
    return LanceDataLoader(dataset)


def ways_of(kind: str, folder: Path, rows: int) -> dict[str, Way]:
    """Every way of loading one workload. Ours run on from epoch to epoch, as in training."""
    _, columns, batch = WORKLOADS[kind]
    table = open_table(folder, kind, rows)
    ways: dict[str, Way] = {
        SEQUENTIAL: lambda: sequential(table, columns),
        BARE: lambda: bare_calls(table, columns),
    }
    block_rows = loader_of(kind, folder, rows, True).state_dict()["plan"]["block_rows"]
    ways[BLOCKS] = lambda: bare_blocks(table, columns, block_rows)
    for name, shuffle in ORDERS.items():
        loader = loader_of(kind, folder, rows, shuffle)
        ways[f"ours, {name}"] = lambda loader=loader: ours(loader, batch)
    kept = loader_of(kind, folder, rows, True, cache=True)
    ways[KEPT] = lambda: ours(kept, batch)
    fast = {"transform": rows_of_batch, "shuffle_clump_size": 64}
    for name, options in {
        "defaults": {},
        "reads of 1024, clumps of 64, numpy rows": {"read_batch_size": 1024, **fast},
        "the same, 4 splits": {"read_batch_size": 1024, "num_splits": 4, **fast},
    }.items():
        ways[f"lancedb StreamingDataset, {name}"] = lambda options=options: streaming_dataset(
            table, columns, batch, **options
        )
    return ways


def waiting_share(loader: LanceDataLoader) -> float:
    """The share of an epoch that a consumer stands still that needs 5 ms for a batch.

    From the first batch on: while the first windows are read there is more to wait for.
    """
    batches = iter(loader)
    next(batches)
    waited, started = 0.0, time.perf_counter()
    for _ in range(len(loader) - 1):
        time.sleep(0.005)
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
    return waited / (time.perf_counter() - started)


def resume_seconds(loader: LanceDataLoader, rows: int, batch_size: int) -> float:
    """From ``iter()`` to the first batch, half an epoch in."""
    half = rows // batch_size // 2 * batch_size
    loader.load_state_dict({**loader.state_dict(), "epoch": 3, "position": half})
    started = time.perf_counter()
    next(iter(loader))
    return time.perf_counter() - started


def peak_megabytes(arguments: list[str]) -> list[float]:
    """Memory of a fresh process: idle, and at its peak after one epoch and after ten."""
    command = [sys.executable, __file__, "--memory", *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def report_memory(folder: Path, kind: str, rows: int, shuffle) -> None:
    loader = loader_of(kind, folder, rows, shuffle)
    figures = [_status("VmRSS")]
    for epochs in (1, 9):
        for _ in range(epochs):
            # A tenth of an epoch has all of a true shuffle's reads under way.
            for _ in itertools.islice(loader, len(loader) // (10 if shuffle == "global" else 1)):
                pass
        figures.append(_status("VmHWM"))
    print(json.dumps(figures))


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def figures_of(kind: str, folder: Path, rows: int) -> str:
    """First batches, waiting and memory of our orders, as a Markdown table."""
    lines = [
        "| order | resume in mid-epoch, s | an epoch's waiting, consumer of 5 ms | idle, MB "
        "| peak of 1 epoch, MB | of 10, MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, shuffle in ORDERS.items():
        loader = loader_of(kind, folder, rows, shuffle)
        resume = statistics.median(
            resume_seconds(loader, rows, WORKLOADS[kind][2]) for _ in range(3)
        )
        share = waiting_share(loader)
        memory = ["-"] * 3
        if sys.platform == "linux":
            arguments = ["--data", str(folder), "--kind", kind, "--rows", str(rows)]
            found = peak_megabytes([*arguments, "--shuffle", str(shuffle)])
            memory = [f"{figure:,.0f}" for figure in found]
        lines.append(f"| {name} | {resume:.2f} | {share:.1%} | {' | '.join(memory)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/streaming"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--quick", action="store_true", help="smaller tables, fewer rounds")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="embeddings", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--shuffle", default="True", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        shuffle = {"False": False, "True": True}.get(args.shuffle, args.shuffle)
        return report_memory(args.data, args.kind, args.rows, shuffle)
    tables, results = {}, {}
    rounds, seconds = (1, 0.3) if args.quick else (args.rounds, args.seconds)
    for kind in args.workloads:
        rows = WORKLOADS[kind][0] // (5 if args.quick else 1)
        results[kind] = race(ways_of(kind, args.data, rows), rounds, seconds)
        tables[kind] = table_of(results[kind], SEQUENTIAL)
        print(tables[kind])
        tables[f"{kind}: first batches, waiting, memory"] = figures_of(kind, args.data, rows)
        save(args.out, "Streaming", tables, results)
    print(f"see {args.out}.md")


if __name__ == "__main__":
    main()
