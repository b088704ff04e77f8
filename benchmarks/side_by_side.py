# SPDX-License-Identifier: Apache-2.0
"""Side by side with the loaders that people would pick instead, in turn, each in its own process.

Every cell is one way of loading, one workload, and a number of workers, measured for a fixed time.
See ``peers/`` for how each is set up, ``cell.py`` for what is measured, ``workloads.py`` for what
is read. Peers that store row by row are given part of the rows, as writing them takes longest.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cells
import report
from cell import Forms, Task, measure, write_forms
from peers import MODULES, Job, Peer, Source, load
from workloads import WORKLOADS

# All rows and numbers of what is looked at as the table and the batches grow.
GROWN = ("ours", "memmap", "lancedb_permutation", "lancedb_streaming", "hf_datasets")
GROWTH_KIND = "tabular"
BATCH_KIND = "embeddings"
PREPARE_LIMIT = 300.0
CELL_LIMIT = 20.0


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    share: float = 1.0  # of each workload's rows
    slow_writers_rows: int = 100_000
    rounds: int = 2
    warm_up: float = 0.4
    seconds: float = 0.8
    mixing_seconds: float = 2.0
    workers: tuple[int, ...] = (0, 2)
    sizes: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    batch_sizes: tuple[int, ...] = (64, 4096)

    def rows(self, kind: str) -> int:
        """Of a table of so few rows there would be no second batch to come."""
        least = 2_560 if kind == "images" else 20_000
        return max(round(least * min(1, self.share * 50)), round(WORKLOADS[kind].rows * self.share))


SCALES = {
    "full": Scale(),
    "quick": Scale(0.02, 20_000, 1, 0.1, 0.3, 0.5, (0,), (), ()),
    "tiny": Scale(0.004, 5_000, 1, 0.0, 0.05, 0.1, (0,), (5_000,), (64,)),
}


@dataclass
class Bench:
    """The peers that could be loaded, and everything found so far."""

    root: Path
    scale: Scale
    peers: dict[str, Peer]
    out: Path
    found: dict[str, Any] = field(default_factory=dict)

    def source(self, module: str, kind: str, rows: int | None = None) -> Source:
        rows = rows or self.scale.rows(kind)
        if self.peers[module].row_by_row:
            rows = min(rows, self.scale.slow_writers_rows)
        return Source(kind, rows, self.root)

    def prepare(self, module: str, sources: list[Source]) -> list[Source]:
        """Those of the sources that are there in this peer's form, made now if need be."""
        print(f"rows for {module} ...", flush=True)
        made = cells.run(write_forms, Forms(module, tuple(sources)), PREPARE_LIMIT)
        for source in sources:
            form = made.get(source.name, {"error": made.get("error")})
            note = {"peer": module, "kind": source.kind, "rows": source.rows, **form}
            if note not in self.found["forms"]:
                self.found["forms"].append(note)
            if "error" in form:
                print(f"  {source.name}: {form['error']}", flush=True)
        return [source for source in sources if "bytes" in made.get(source.name, {})]

    def measure(self, task: Task, group: str, number: int) -> None:
        job, way = task.job, self.peers[task.module].ways[task.way]
        started = time.perf_counter()
        found = cells.run(measure, task, CELL_LIMIT)
        cell = {
            "group": group,
            "way": way.name,
            "kind": job.source.kind,
            "rows": job.source.rows,
            "workers": job.workers,
            "batch_size": job.batch_size,
            "round": number,
            "wall": time.perf_counter() - started,
            **found,
        }
        self.found["cells"].append(cell)
        speed = f"{cell['speed']:,.0f} rows/s" if "speed" in cell else ""
        print(f"  {way.name}, {job.workers} workers: {speed} {cell.get('error', '')}", flush=True)

    def tasks(self, module: str, source: Source, workers: tuple[int, ...]) -> list[Task]:
        times = self.scale.warm_up, self.scale.seconds, self.scale.mixing_seconds
        return [
            Task(module, number, Job(source, count), *times)
            for number, way in enumerate(self.peers[module].ways)
            if source.kind in way.kinds
            for count in workers
            if count in way.workers
        ]

    def side_by_side(self, kinds: list[str]) -> None:
        """Every way on every workload: one round after the other, in each all ways in turn."""
        ready: dict[str, list[Task]] = {kind: [] for kind in kinds}
        for module in self.peers:
            wanted = [self.source(module, kind) for kind in kinds if self.reads(module, kind)]
            for source in self.prepare(module, wanted):
                ready[source.kind] += self.tasks(module, source, self.scale.workers)
        for number in range(self.scale.rounds):
            for kind, tasks in ready.items():
                print(f"round {number + 1} of {self.scale.rounds}: {kind}", flush=True)
                for task in tasks:
                    # With workers once: most of such a cell is their start.
                    if number == 0 or task.job.workers == 0:
                        first = number == 0 and task.job.workers == 0
                        mixing = first and kind == "embeddings"
                        self.measure(
                            replace(task, mixing=mixing, resume=first), "workloads", number
                        )
                self.save()

    def reads(self, module: str, kind: str) -> bool:
        return any(kind in way.kinds for way in self.peers[module].ways)

    def growth(self) -> None:
        """As tables and batches grow, without workers."""
        modules = [module for module in GROWN if module in self.peers]
        for module in modules:
            sources = [self.source(module, GROWTH_KIND, rows) for rows in self.scale.sizes]
            for source in self.prepare(module, sources) if sources else []:
                for task in self.tasks(module, source, (0,)):
                    self.measure(replace(task, resume=False), "sizes", 0)
        for batch_size in self.scale.batch_sizes:
            for module in modules:
                for source in self.prepare(module, [self.source(module, BATCH_KIND)]):
                    for task in self.tasks(module, source, (0,)):
                        job = Job(source, 0, batch_size)
                        self.measure(replace(task, job=job, resume=False), "batches", 0)
        self.save()

    def save(self) -> None:
        report.save(self.out, self.found)


def load_peers(modules: list[str]) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that can be imported, and why the others cannot."""
    peers, missing = {}, {}
    for module in modules:
        try:
            peers[module] = load(module)
        except Exception as error:
            missing[module] = f"{type(error).__name__}: {error}"
            print(f"left out: {module}: {missing[module]}", flush=True)
    return peers, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/peers"))
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--peers", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--no-growth", action="store_true", help="only the five workloads")
    args = parser.parse_args()
    started = time.perf_counter()
    root = (args.data / "peers").resolve()
    keep_offline(root)
    peers, missing = load_peers(args.peers)
    bench = Bench(root, SCALES[args.scale], peers, args.out)
    bench.found = report.empty(peers, missing, args.scale, bench.scale.slow_writers_rows)
    bench.side_by_side(args.workloads)
    if not args.no_growth:
        bench.growth()
    bench.found["minutes"] = round((time.perf_counter() - started) / 60, 1)
    bench.save()
    print(f"{bench.found['minutes']} minutes; see {args.out}.md")


def keep_offline(root: Path) -> None:
    """Peers keep what they cache beside the data, and ask nothing of a network."""
    for name, value in {
        "HF_HOME": str(root / "cache" / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "LITDATA_CACHE_DIR": str(root / "cache" / "litdata"),
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    main()
