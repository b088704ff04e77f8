# SPDX-License-Identifier: Apache-2.0
"""The tables that the benchmarks read, each made once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.integrations.torch import LanceTorchDataset

ROWS_PER_CHUNK = 50_000


def embeddings(rows: int, width: int = 128) -> Iterator[pa.RecordBatch]:
    """id int64, label int32 (ascending), vec float32[width], text: a short string."""
    rng = np.random.default_rng(0)
    for start in range(0, rows, ROWS_PER_CHUNK):
        count = min(ROWS_PER_CHUNK, rows - start)
        ids = np.arange(start, start + count)
        vectors = pa.array(rng.standard_normal(count * width, dtype=np.float32))
        yield pa.record_batch(
            {
                "id": ids,
                "label": (ids * 10 // rows).astype(np.int32),
                "vec": pa.FixedSizeListArray.from_arrays(vectors, width),
                "text": pa.array([f"row {i} of the table" for i in ids]),
            }
        )


def blobs(rows: int) -> Iterator[pa.RecordBatch]:
    """id int64 and 20 KB of random bytes, as encoded images are."""
    rng = np.random.default_rng(1)
    for start in range(0, rows, 1000):
        count = min(1000, rows - start)
        data = [rng.bytes(int(size)) for size in rng.integers(15_000, 25_000, count)]
        yield pa.record_batch({"id": np.arange(start, start + count), "image": pa.array(data)})


def tokens(rows: int) -> Iterator[pa.RecordBatch]:
    """id int64 and a list of 50 to 800 int32."""
    rng = np.random.default_rng(2)
    for start in range(0, rows, 20_000):
        count = min(20_000, rows - start)
        edges = np.concatenate([[0], np.cumsum(rng.integers(50, 801, count))]).astype(np.int32)
        values = pa.array(rng.integers(0, 50_000, edges[-1]).astype(np.int32))
        lists = pa.ListArray.from_arrays(pa.array(edges), values)
        yield pa.record_batch({"id": np.arange(start, start + count), "tokens": lists})


KINDS: dict[str, Callable[[int], Iterator[pa.RecordBatch]]] = {
    "embeddings": embeddings,
    "blobs": blobs,
    "tokens": tokens,
}


def open_table(folder: Path, kind: str, rows: int) -> lancedb.table.Table:
    """The table of a kind and size, made at the first call."""
    db = lancedb.connect(folder)
    name = f"{kind}_{rows}"
    try:
        return db.open_table(name)
    except ValueError:
        print(f"making table {name} ...", flush=True)
    batches = KINDS[kind](rows)
    first = next(batches)

    def chunks() -> Iterator[pa.RecordBatch]:
        yield first
        yield from batches

    return db.create_table(name, pa.RecordBatchReader.from_batches(first.schema, chunks()))


def fill_cache(dataset: LanceTorchDataset) -> None:
    """Read a row, which begins to fill the cache on disk, and wait until all are there."""
    dataset[0]
    if dataset._rows.disk is not None:
        dataset._rows.disk.wait()
