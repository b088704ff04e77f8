# SPDX-License-Identifier: Apache-2.0
"""What worker processes cost: until the first batch, in memory, in reads, and in rows a second.

``python benchmarks/workers.py --beside OTHER/bin/python`` also measures the package that another
interpreter has, in turns, as speeds swing from minute to minute. Each sample is a process of its
own. Results go to ``results/workers.json``.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS, DIM, BATCH = 200_000, 128, 256
RESULTS = Path(__file__).parent / "results" / "workers.json"


class Nothing:
    """A dataset of nothing, for torch's own loader."""

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> int:
        return index


def busy(batch: Any) -> Any:
    """A transform that takes 5 ms of processor time."""
    until = time.process_time() + 0.005
    while time.process_time() < until:
        pass
    return batch


def loader_of(uri: str, workers: int, *, transform: Any = None, **options: Any) -> Any:
    from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset

    dataset = LanceIterableTorchDataset(
        uri=uri,
        table_name="rows",
        format="torch",
        batch_size=BATCH,
        shuffle=True,
        transform=transform,
        cache=False,
    )
    return LanceDataLoader(dataset, num_workers=workers, **options)


def torch_loader(workers: int) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(
        Nothing(), batch_size=None, num_workers=workers, multiprocessing_context="forkserver"
    )


def start(uri: str, kind: str) -> float:
    """Seconds from ``iter()`` to the first batch with two workers, the fork server's start too."""
    import torch.utils.data  # noqa: F401

    if kind == "torch":
        multiprocessing.set_forkserver_preload(["torch.utils.data"])
    loader = torch_loader(2) if kind == "torch" else loader_of(uri, 2)
    began = time.perf_counter()
    next(iter(loader))
    return time.perf_counter() - began


def memory(uri: str, kind: str) -> float:
    """MB that each worker adds to what all processes have, shared pages counted once."""
    few, many = (_memory(uri, kind, workers) for workers in (2, 6))
    return (many - few) / 4


def _memory(uri: str, kind: str, workers: int) -> float:
    import psutil

    if kind == "torch":
        multiprocessing.set_forkserver_preload(["torch.utils.data"])
    loader = torch_loader(workers) if kind == "torch" else loader_of(uri, workers)
    batches = iter(loader)
    for _ in range(3 * workers):
        next(batches)
    tree = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(each.memory_full_info().pss for each in tree) / 1e6


def speed(uri: str, workers: str, transform: str) -> float:
    """Rows a second of an epoch, from the first batch on."""
    loader = loader_of(uri, int(workers), transform=busy if transform == "5ms" else None)
    rows, most = 0, 30_000 if transform == "5ms" else ROWS
    batches = iter(loader)
    next(batches)
    began = time.perf_counter()
    for batch in batches:
        rows += len(batch["id"])
        if rows >= most:
            break
    return rows / (time.perf_counter() - began)


MEASURES = {"start": start, "memory": memory, "speed": speed}


def make_table(uri: str) -> None:
    import lancedb
    import numpy as np
    import pyarrow as pa

    vectors = np.random.default_rng(0).random(ROWS * DIM, np.float32)
    columns = {
        "id": np.arange(ROWS),
        "label": np.arange(ROWS, dtype=np.int32) % 10,
        "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIM),
    }
    lancedb.connect(uri).create_table("rows", pa.table(columns))


def sample(python: str, uri: str, measure: str, *arguments: str) -> float:
    command = [python, __file__, "--measure", measure, "--uri", uri, *arguments]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(printed.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--beside", help="another interpreter, with another version installed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2, 4, 8])
    parser.add_argument("--only", nargs="*", default=list(MEASURES))
    parser.add_argument("--measure", choices=MEASURES)
    parser.add_argument("--uri")
    options, rest = parser.parse_known_args()
    if options.measure:
        print(MEASURES[options.measure](options.uri, *rest))
        return
    pythons = {"this": sys.executable}
    if options.beside:
        pythons["beside"] = options.beside
    cells: list[tuple[str, ...]] = []
    if "start" in options.only:
        cells += [("start", "torch"), ("start", "ours")]
    if "memory" in options.only:
        cells += [("memory", "torch"), ("memory", "ours")]
    if "speed" in options.only:
        for transform in ("none", "5ms"):
            cells += [("speed", str(count), transform) for count in options.workers]
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as uri:
        make_table(uri)
        for _ in range(options.rounds):
            for cell in cells:
                for name, python in pythons.items():
                    if "torch" in cell and name != "this":
                        continue
                    taken = functools.partial(sample, python, uri, *cell)
                    key = " ".join((*cell, name))
                    found.setdefault(key, []).append(taken())
                    print(f"{key}: {found[key][-1]:,.2f}", flush=True)
    medians = {key: round(statistics.median(values), 3) for key, values in found.items()}
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**known, **medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
