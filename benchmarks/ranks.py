# SPDX-License-Identifier: Apache-2.0
"""Ranks of one machine by worker processes of each: rows a second, and memory of all processes.

    python benchmarks/ranks.py [--ranks 1 2 4] [--workers 0 1 2 4 8 16] [--rounds 1]

Every rank is a program of its own with a `LanceDataLoader`; all begin their epochs together. Rows
are counted over all ranks, from the first batch of each until the slowest is done. Results go to
``results/ranks.json`` and as a table to ``results/ranks.md``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workers import BATCH, busy, make_table

RESULTS = Path(__file__).parent / "results" / "ranks"
# Of all ranks' rows, after their first batches.
STEPS = {"none": 1500, "5ms": 300}
WAYS = ("from the table", "cached on disk")


class Cell(NamedTuple):
    """One way of loading, on so many ranks with so many workers each."""

    way: str
    transform: str
    ranks: int
    workers: int


def run_rank(uri: str, cell: Cell) -> None:
    """One rank's program: says when its first batch is there, and how long the others took."""
    from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset

    dataset = LanceIterableTorchDataset(
        uri=uri,
        table_name="rows",
        format="torch",
        shuffle=True,
        batch_size=BATCH // cell.ranks,
        transform=busy if cell.transform == "5ms" else None,
        cache=False,
        cache_dir=Path(uri) / "cache" if cell.way == "cached on disk" else None,
    )
    loader = LanceDataLoader(dataset, num_workers=cell.workers, persistent_workers=cell.workers > 0)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    next(batches)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    rows = sum(len(batch["id"]) for batch in itertools.islice(batches, STEPS[cell.transform]))
    print(rows, time.perf_counter() - began, flush=True)
    sys.stdin.readline()  # all are there until their memory is known


def measure(uri: str, cell: Cell) -> tuple[float, float]:
    """Rows a second of all ranks together, and the MB of all their processes."""
    command = [sys.executable, __file__, "--rank-of", uri, *map(str, cell)]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(cell.ranks)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(cell.ranks)
    ]
    try:
        for each in ranks:
            heard(each)
        tell(ranks)
        found = [heard(each).split() for each in ranks]
        memory = sum(_memory_of(each.pid) for each in ranks)
        tell(ranks)
        for each in ranks:
            each.wait(60)
    finally:
        for each in ranks:
            each.kill()
            each.communicate()
    seconds = max(float(taken) for _, taken in found)
    return sum(int(rows) for rows, _ in found) / seconds, memory


def heard(rank: subprocess.Popen[str]) -> str:
    assert rank.stdout is not None
    line = rank.stdout.readline()
    if not line:
        raise RuntimeError("a rank has ended early: what it said is above")
    return line


def tell(ranks: Sequence[subprocess.Popen[str]]) -> None:
    for each in ranks:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()


def _memory_of(pid: int) -> float:
    """MB of a program and all that it has started, pages that several share counted once."""
    import psutil

    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(each.memory_full_info().pss for each in tree) / 1e6


def markdown(found: dict[str, Any], workers: Sequence[int]) -> str:
    """A row for each way and number of ranks, a column for each number of workers."""
    lines = ["| | transform | ranks | " + " | ".join(map(str, workers)) + " |"]
    lines.append("|---|---|---:" + "|---:" * len(workers) + "|")
    for way, transform, ranks in dict.fromkeys(tuple(key.split("; ")[:3]) for key in found):
        cells = (found.get(f"{way}; {transform}; {ranks}; {count}") for count in workers)
        shown = [f"{c['rows/s']:,.0f} ({c['MB']:,.0f} MB)" if c else "-" for c in cells]
        lines.append(f"| {way} | {transform} | {ranks} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4, 8, 16])
    parser.add_argument("--transforms", nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rank-of", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank_of:
        uri, way, transform, ranks, workers = given.rank_of
        run_rank(uri, Cell(way, transform, int(ranks), int(workers)))
        return
    cells = list(
        itertools.starmap(
            Cell, itertools.product(given.ways, given.transforms, given.ranks, given.workers)
        )
    )
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as uri:
        make_table(uri)
        fill(uri)
        for cell in cells:
            taken = [measure(uri, cell) for _ in range(given.rounds)]
            key = "; ".join(map(str, cell))
            found[key] = {
                "rows/s": round(max(speed for speed, _ in taken)),
                "MB": round(statistics.median(memory for _, memory in taken)),
            }
            print(f"{key}: {found[key]}", flush=True)
            RESULTS.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
            RESULTS.with_suffix(".md").write_text(markdown(found, given.workers))


def fill(uri: str) -> None:
    """Write the cache of the table, which every rank then has."""
    import lancedb
    from lancedb.integrations.torch import LanceTorchDataset
    from tables import fill_cache

    table = lancedb.connect(uri).open_table("rows")
    fill_cache(LanceTorchDataset(table, format="torch", cache=False, cache_dir=Path(uri) / "cache"))


if __name__ == "__main__":
    main()
