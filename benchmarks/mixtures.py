# SPDX-License-Identifier: Apache-2.0
"""A mixture of four tables beside one table of the same rows, interleaved in one run.

    python benchmarks/mixtures.py [--rows 1000000] [--rounds 5]

Prints rows a second of each, the ratio of the medians, and, where Hugging Face's datasets is
installed, `interleave_datasets` over the same rows and shares.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
)

SHARES = {"web": 0.5, "code": 0.25, "books": 0.15, "wiki": 0.1}


def rows_of(count: int, start: int) -> pa.Table:
    """(id int64, label int32, vec float32[128])."""
    rng = np.random.default_rng(start)
    vectors = rng.standard_normal((count, 128), dtype=np.float32)
    ids = np.arange(start, start + count)
    return pa.table(
        {
            "id": ids,
            "label": (ids % 10).astype(np.int32),
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 128),
        }
    )


def rate(batches: Iterable[Any], rows: int, count: Callable[[Any], int]) -> float:
    """Rows a second, from before the first batch on."""
    begin, seen = time.perf_counter(), 0
    for batch in batches:
        seen += count(batch)
        if seen >= rows:
            break
    return seen / (time.perf_counter() - begin)


def hugging_face(tables: dict[str, Any]) -> Callable[[], Iterator[Any]] | None:
    """`interleave_datasets` of the same rows, mixed by as large a buffer as is usual."""
    try:
        from datasets import Dataset, interleave_datasets
    except ImportError:
        return None
    parts = [Dataset(table.to_arrow()).to_iterable_dataset() for table in tables.values()]

    def batches() -> Iterator[Any]:
        mixed = interleave_datasets(
            [part.shuffle(buffer_size=10_000, seed=0) for part in parts],
            probabilities=list(SHARES.values()),
            seed=0,
        )
        yield from mixed.with_format("torch").batch(256)

    return batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        db = lancedb.connect(folder)
        tables, start = {}, 0
        for name, share in SHARES.items():
            count = int(args.rows * share)
            tables[name] = db.create_table(name, rows_of(count, start))
            start += count
        one = db.create_table("one", pa.concat_tables(t.to_arrow() for t in tables.values()))
        options = {"batch_size": 256, "format": "torch", "cache": False}
        single = LanceDataLoader(LanceIterableTorchDataset(one, shuffle=True, **options))
        mixed = LanceDataLoader(
            LanceMixedTorchDataset(
                {n: LanceIterableTorchDataset(t, shuffle=True) for n, t in tables.items()},
                SHARES,
                **options,
            )
        )
        contestants = {"one table": lambda: single, "mixture of four": lambda: mixed}
        found: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(args.rounds):
            for name, make in contestants.items():
                found[name].append(rate(make(), args.rows, lambda batch: len(batch["id"])))
                print(f"round {number}: {name:16s} {found[name][-1]:12,.0f} rows/s", flush=True)
        ratios = [b / a for a, b in zip(*found.values(), strict=True)]
        print(f"mixture over one table: {statistics.median(ratios):.2f} (median of rounds)")
        peer = hugging_face(tables)
        if peer is not None:
            speed = rate(peer(), min(args.rows, 50_000), lambda batch: len(batch["id"]))
            print(f"interleave_datasets      {speed:12,.0f} rows/s")


if __name__ == "__main__":
    main()
