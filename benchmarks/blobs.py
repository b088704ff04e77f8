# SPDX-License-Identifier: Apache-2.0
"""Blob columns beside the same bytes in a ``large_binary`` column: bytes a second of epochs.

    python benchmarks/blobs.py [--rows 4000] [--size 100000] [--rounds 5]

Both are read in turn, in one process, and the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from lancedb.schema import blob


def make_tables(folder: str, rows: int, size: int) -> dict[str, lancedb.table.Table]:
    """The same rows twice, as blobs and as binary values."""
    db = lancedb.connect(folder)
    kinds = {"blob": blob("data"), "large_binary": pa.field("data", pa.large_binary())}
    tables = {name: db.create_table(name, schema=pa.schema([kind])) for name, kind in kinds.items()}
    random = np.random.default_rng(0)
    for start in range(0, rows, 500):
        some = [{"data": random.bytes(size)} for _ in range(min(500, rows - start))]
        for table in tables.values():
            table.add(some)
    return tables


def bytes_a_second(table: lancedb.table.Table, shuffle: bool) -> float:
    dataset = LanceIterableTorchDataset(
        table, format="arrow", batch_size=64, shuffle=shuffle, cache=False
    )
    started = time.perf_counter()
    read = sum(batch.nbytes for batch in LanceDataLoader(dataset))
    return read / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tables = make_tables(folder, options.rows, options.size)
        for shuffle in (False, True):
            speeds = {name: [] for name in tables}
            for _ in range(options.rounds):
                for name, table in tables.items():
                    speeds[name].append(bytes_a_second(table, shuffle))
            medians = {name: statistics.median(each) for name, each in speeds.items()}
            ratio = medians["blob"] / medians["large_binary"]
            shown = ", ".join(f"{name} {each / 1e6:,.0f} MB/s" for name, each in medians.items())
            print(f"shuffle={shuffle}: {shown}; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
