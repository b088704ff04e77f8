# SPDX-License-Identifier: Apache-2.0
"""Mixtures of four tables by weight beside one table of the same rows, and beside other loaders.

    python benchmarks/mixtures.py [--rows 250000] [--rounds 2] [--quick]

For each way to mix (``mixing_peers.py``), in a process of its own and in turn: rows a second
without workers; how far the count of any source is from its share; and whether a new loader goes
on from a state with the very next batch, with as many workers and with others.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cells
import numpy as np
from cell import Forms, write_forms
from measure import machine
from mixing_peers import WAYS, Mixing, check_installed
from mixing_report import markdown
from mixing_tables import BATCH, STRIDE, WEIGHTS, Part, problem_of
from peers import load
from report import version_of
from side_by_side import keep_offline

COMPARED = 20  # batches after a state
RESUMED = {0: (0, 2), 2: (1,)}  # workers, and those of the loader that goes on
PREPARE_LIMIT = 300.0
CELL_LIMIT = 90.0

Batches = list[np.ndarray]


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    rows: int = 250_000  # of each table
    slow_writers_rows: int = 60_000
    rounds: int = 2
    warm_up: float = 0.4
    seconds: float = 1.0
    counted: int = 196 * BATCH  # rows whose sources are counted: 50,176
    stop_at: int = 60  # the batch whose state is resumed from

    def rows_of(self, way: Mixing) -> int:
        slow = load(way.forms).row_by_row
        return min(self.rows, self.slow_writers_rows) if slow else self.rows


QUICK = {"rows": 20_000, "rounds": 1, "warm_up": 0.1, "seconds": 0.3}
QUICK |= {"counted": 40 * BATCH, "stop_at": 20}


@dataclass(frozen=True)
class Task:
    """One cell: a way to mix, its tables, and whether shares are counted."""

    way: int
    parts: tuple[Part, ...]
    scale: Scale
    count: bool

    def open(self, workers: int = 0) -> Any:
        return WAYS[self.way].open(self.parts, workers)


def measure(task: Task, results: Connection) -> None:
    """First batch, speed, and shares, each sent when it is known."""
    check_installed(WAYS[task.way])  # imports are not counted
    started = time.perf_counter()
    batches = endless(task.open())
    batch = next(batches)
    results.send({"first_batch": time.perf_counter() - started})
    problem = problem_of(batch, task.parts[0].rows // len(task.parts[0].numbers))
    if problem is not None:
        raise ValueError(f"the first batch has {problem}")
    ids = [ids_of(batch)]
    for seconds in (task.scale.warm_up, task.scale.seconds):
        started, before = time.perf_counter(), len(ids)
        while time.perf_counter() - started < seconds:
            ids.append(ids_of(next(batches)))
        speed = (len(ids) - before) * BATCH / (time.perf_counter() - started)
    results.send({"speed": speed})
    if task.count and len(task.parts) > 1:
        while len(ids) * BATCH < task.scale.counted:
            ids.append(ids_of(next(batches)))
        results.send(off_share(np.concatenate(ids)[: task.scale.counted]))
    results.send(None)


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def ids_of(batch: dict[str, Any]) -> np.ndarray:
    return batch["id"].numpy().copy()


def off_share(ids: np.ndarray) -> dict[str, float]:
    """How many rows the count of any source is off its share at most, over all prefixes.

    >>> off_share(np.repeat([0, STRIDE], BATCH))["after_rows"]
    128.0
    """
    numbers = np.arange(len(WEIGHTS))
    counts = np.cumsum(ids[:, None] // STRIDE == numbers, axis=0)
    shares = np.arange(1, len(ids) + 1)[:, None] * np.array(WEIGHTS)
    off = np.abs(counts - shares).max(axis=1)
    return {"after_rows": float(off.max()), "after_batches": float(off[BATCH - 1 :: BATCH].max())}


def resume(task: Task, results: Connection) -> None:
    """What comes after a state in a new loader, with as many workers and with others."""
    for before, others in RESUMED.items():
        loader = task.open(before)
        batches = iter(loader)
        seen = [ids_of(batch) for batch in islice(batches, task.scale.stop_at)]
        state = pickle.dumps(loader.state_dict())
        expected = [ids_of(batch) for batch in islice(batches, COMPARED)]
        results.send({"state_bytes": len(state)})
        del loader, batches
        gc.collect()
        for workers in others:
            results.send(
                {f"resume_{before}_{workers}": goes_on(task, workers, state, seen, expected)}
            )
            gc.collect()
    results.send(None)


def goes_on(task: Task, workers: int, state: bytes, seen: Batches, expected: Batches) -> str:
    """What a new loader gives after a state, in words."""
    try:
        resumed = task.open(workers)
        resumed.load_state_dict(pickle.loads(state))
        return judged(seen, expected, [ids_of(batch) for batch in islice(resumed, COMPARED)])
    except Exception as error:
        return f"error: {type(error).__name__}: {' '.join(str(error).split())}"[:200]


def judged(seen: Batches, expected: Batches, got: Batches) -> str:
    """In words, how the batches after a state compare with those of an uninterrupted run.

    >>> one, two, three = np.arange(4), np.arange(4, 8), np.arange(8, 12)
    >>> judged([one], [two], [two])
    'exact'
    >>> judged([one], [two, three], [one, two])
    'not exact: 0 of 2 batches are the next ones; 4 of 8 rows had come before'
    """
    same = sum(np.array_equal(a, b) for a, b in zip(expected, got, strict=False))
    if same == len(expected) == len(got):
        return "exact"
    rows = np.concatenate(got) if got else np.empty(0, np.int64)
    again = int(np.isin(rows, np.concatenate(seen)).sum())
    return (
        f"not exact: {same} of {len(expected)} batches are the next ones; "
        f"{again:,} of {len(rows):,} rows had come before"
    )


class Bench:
    """The ways that are installed, and everything found so far."""

    def __init__(self, root: Path, scale: Scale, out: Path, names: list[str]):
        self.root, self.scale, self.out = root, scale, out
        self.found: dict[str, Any] = {
            "machine": machine(),
            "date": datetime.date.today().isoformat(),
            "counted": scale.counted,
            "ways": {},
            "missing": {},
        }
        self.ready: list[tuple[int, tuple[Part, ...]]] = []
        for number, way in enumerate(WAYS):
            if way.name in names:
                self.prepare(number, way)

    def prepare(self, number: int, way: Mixing) -> None:
        """The tables of a way in its own form, made now if need be."""
        try:
            check_installed(way)
        except Exception as error:
            self.leave_out(way, f"{type(error).__name__}: {error}")
            return
        rows = self.scale.rows_of(way)
        sets = [tuple(range(len(WEIGHTS)))] if way.whole else [(n,) for n in range(len(WEIGHTS))]
        parts = tuple(Part("embeddings", rows * len(of), self.root, of) for of in sets)
        made = cells.run(write_forms, Forms(way.forms, parts), PREPARE_LIMIT)
        for part in parts:
            if "bytes" not in made.get(part.name, {}):
                self.leave_out(way, made.get(part.name, made).get("error", "not written"))
                return
        self.ready.append((number, parts))
        self.found["ways"][way.name] = {
            "package": f"{way.package} {version_of(way.package)}",
            "setting": way.setting,
            "rows": rows,
            "speeds": [],
        }

    def leave_out(self, way: Mixing, why: str) -> None:
        self.found["missing"][way.name] = why
        print(f"left out: {way.name}: {why}", flush=True)

    def run(self) -> None:
        """One round after the other, in each all ways in turn."""
        for number in range(self.scale.rounds):
            for way, parts in self.ready:
                self.measure(Task(way, parts, self.scale, number == 0))
        for way, parts in self.ready:
            if len(parts) > 1:
                self.add(way, cells.run(resume, Task(way, parts, self.scale, False), CELL_LIMIT))

    def measure(self, task: Task) -> None:
        found = cells.run(measure, task, CELL_LIMIT)
        speed = found.pop("speed", None)
        if speed is not None:
            self.found["ways"][WAYS[task.way].name]["speeds"].append(speed)
        self.add(task.way, {**found, **({"rows/s": round(speed)} if speed else {})})

    def add(self, way: int, found: dict[str, Any]) -> None:
        print(f"  {WAYS[way].name}: {found}", flush=True)
        kept = {name: value for name, value in found.items() if name not in ("rows/s", "memory")}
        self.found["ways"][WAYS[way].name].update(kept)
        save(self.out, self.found)


def save(out: Path, found: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text(markdown(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mixtures"))
    parser.add_argument("--rows", type=int, help="of each table")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--ways", nargs="+", choices=[way.name for way in WAYS])
    parser.add_argument("--quick", action="store_true", help="small tables and one round")
    args = parser.parse_args()
    given = {name: getattr(args, name) for name in ("rows", "rounds")}
    chosen = {name: value for name, value in given.items() if value is not None}
    scale = Scale(**{**(QUICK if args.quick else {}), **chosen})
    root = (args.data / "peers").resolve()
    keep_offline(root)
    started = time.perf_counter()
    Bench(root, scale, args.out, args.ways or [way.name for way in WAYS]).run()
    print(f"{time.perf_counter() - started:.0f} s; see {args.out}.md")


if __name__ == "__main__":
    main()
