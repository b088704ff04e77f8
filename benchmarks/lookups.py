# SPDX-License-Identifier: Apache-2.0
"""Rows by key out of a million: a thousand at once, and one by one.

    python benchmarks/lookups.py

What is printed: seconds to make a `LanceLookup` and read its keys, rows a second of `fetch` of
1,000 random keys in one call, and of one key a call, in turn, and how many times as fast the first
is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.integrations.torch import LanceLookup

SIZE = 64


def make_table(folder: str, rows: int) -> lancedb.table.Table:
    """A key that is in no order, and a vector, for each row."""
    random = np.random.default_rng(0)
    values = pa.array(random.random(rows * SIZE, np.float32))
    columns = {
        "key": random.permutation(rows),
        "vector": pa.FixedSizeListArray.from_arrays(values, SIZE),
    }
    return lancedb.connect(folder).create_table("items", pa.table(columns))


def main() -> None:
    """Measure rounds of both in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = make_table(folder, args.rows)
        started = time.perf_counter()
        lookup = LanceLookup(table, key="key", columns=["vector"])
        lookup.fetch([0])
        print(json.dumps({"opened": round(time.perf_counter() - started, 2)}), flush=True)
        random = np.random.default_rng(1)
        for _ in range(args.rounds):
            keys = random.choice(args.rows, args.keys, replace=False)
            started = time.perf_counter()
            lookup.fetch(keys)
            together = (time.perf_counter() - started) / len(keys)
            some = keys[: max(1, len(keys) // 10)].tolist()
            started = time.perf_counter()
            for key in some:
                lookup.fetch([key])
            single = (time.perf_counter() - started) / len(some)
            found = {"at_once": round(1 / together), "single": round(1 / single)}
            print(json.dumps({**found, "times": round(single / together, 1)}), flush=True)


if __name__ == "__main__":
    main()
