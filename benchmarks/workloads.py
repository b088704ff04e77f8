# SPDX-License-Identifier: Apache-2.0
"""The five workloads that every loader is measured on: their rows, and what is read of them.

Every table is sorted by its label, of ten: the worst that a table can be for a loader that mixes
only rows that lie close to each other.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import tables

LABELS = 10
SIDE = 224
JPEG_QUALITY = 93  # makes 20 KB of a crop, as a mean


@dataclass(frozen=True)
class Workload:
    """One kind of rows, how many, and the columns that a training run reads."""

    letter: str
    title: str
    rows: int
    make: Callable[[int], Iterator[pa.RecordBatch]]
    columns: tuple[str, ...]
    fragment_rows: int | None = None

    @property
    def ragged(self) -> str | None:
        """The column whose rows differ in length."""
        return "tokens" if "tokens" in self.columns else None

    @property
    def encoded(self) -> str | None:
        """The column that holds JPEG files."""
        return "image" if "image" in self.columns else None


def labels_of(ids: np.ndarray, rows: int) -> np.ndarray:
    """The label of each row: ten equal parts of the table, one after the other."""
    return (ids * LABELS // rows).astype(np.int32)


def embeddings(rows: int) -> Iterator[pa.RecordBatch]:
    """id, label, vec float32[128]: 524 bytes a row."""
    return (batch.select(["id", "label", "vec"]) for batch in tables.embeddings(rows))


def fragments(rows: int) -> Iterator[pa.RecordBatch]:
    """id, label, vec float32[32]: 140 bytes a row."""
    return (batch.select(["id", "label", "vec"]) for batch in tables.embeddings(rows, width=32))


def tokens(rows: int) -> Iterator[pa.RecordBatch]:
    """id, label, and documents of 50 to 800 int32."""
    for batch in tables.tokens(rows):
        labels = pa.array(labels_of(batch["id"].to_numpy(), rows))
        yield pa.record_batch({"id": batch["id"], "label": labels, "tokens": batch["tokens"]})


def tabular(rows: int) -> Iterator[pa.RecordBatch]:
    """id, label, 12 columns of float32 and 6 of int32: 84 bytes a row."""
    rng = np.random.default_rng(3)
    for start in range(0, rows, 500_000):
        ids = np.arange(start, min(start + 500_000, rows))
        floats = {f"f{i}": rng.random(len(ids), dtype=np.float32) for i in range(12)}
        whole = {f"i{i}": rng.integers(0, 1000, len(ids), dtype=np.int32) for i in range(6)}
        yield pa.record_batch({"id": ids, "label": labels_of(ids, rows), **floats, **whole})


def images(rows: int) -> Iterator[pa.RecordBatch]:
    """id, label, and JPEG files: crops of two photographs, flipped, darkened or brightened."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    for start in range(0, rows, 1000):
        ids = np.arange(start, min(start + 1000, rows))
        with ThreadPoolExecutor() as threads:
            files = list(threads.map(lambda i: jpeg(photographs[i % 2], int(i)), ids))
        yield pa.record_batch(
            {"id": ids, "label": labels_of(ids, rows), "image": pa.array(files, pa.binary())}
        )


def jpeg(photograph: np.ndarray, seed: int) -> bytes:
    """A random crop of a photograph as a JPEG file."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    top, left = (rng.integers(0, size - SIDE) for size in photograph.shape[:2])
    crop = photograph[top : top + SIDE, left : left + SIDE] * rng.uniform(0.7, 1.3)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    file = io.BytesIO()
    pixels = np.ascontiguousarray(crop.clip(0, 255).astype(np.uint8))
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


WORKLOADS = {
    "embeddings": Workload(
        "a", "embeddings: id, label, float32[128]", 1_000_000, embeddings, ("id", "label", "vec")
    ),
    "images": Workload(
        "b", "images: JPEG files of 20 KB, decoded", 20_000, images, ("id", "label", "image")
    ),
    "tokens": Workload("c", "tokens: 50 to 800 int32", 200_000, tokens, ("id", "label", "tokens")),
    "tabular": Workload(
        "d", "tabular: 4 of 20 columns", 5_000_000, tabular, ("id", "label", "f0", "i0")
    ),
    "fragments": Workload(
        "e",
        "fragments: 100 rows each, id, label, float32[32]",
        1_000_000,
        fragments,
        ("id", "label", "vec"),
        fragment_rows=100,
    ),
}
