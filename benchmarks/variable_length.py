# SPDX-License-Identifier: Apache-2.0
"""Batches of documents of very different lengths: padded, sorted, by a budget, packed.

    python benchmarks/variable_length.py
    python benchmarks/variable_length.py --documents 20000

Lengths are lognormal as those of text are, from 20 to 20,000 tokens. What is printed of each way:
the share of places that hold a token, the dearest rank of a step of eight over their mean, tokens
a second, bytes of a state, and seconds of processor time to plan the epoch, once lengths are read.
lancedb's own `pack_sequences` splits documents at the ends of blocks. Grain's packing is measured
where it is installed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import torch
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
    Packing,
    TokenBudget,
)

LENGTH, ROWS = 2048, 8
BUDGET = 2 * LENGTH * ROWS
PLAIN = 32  # rows of a batch
RANKS = 8


def lengths_of(documents: int) -> np.ndarray:
    """Tokens of each document."""
    drawn = np.random.default_rng(0).lognormal(5.8, 1.0, documents)
    return drawn.clip(20, 20_000).astype(np.int64)


def make_table(folder: Path, lengths: np.ndarray) -> lancedb.table.Table:
    """A row for each document: its tokens, and how many these are."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.arange(offsets[-1], dtype=np.int32) % 32_000 + 1
    tokens = pa.LargeListArray.from_arrays(offsets, values).cast(pa.list_(pa.int32()))
    rows = pa.table({"n": lengths, "tokens": tokens})
    return lancedb.connect(folder).create_table("documents", rows)


def budget(table: lancedb.table.Table, **options: Any) -> LanceDataLoader:
    dataset = LanceIterableTorchDataset(
        table,
        columns=["tokens"],
        format="torch",
        ragged="pad",
        shuffle=True,
        batching=TokenBudget(BUDGET, lengths="n"),
        **options,
    )
    return LanceDataLoader(dataset)


def packing(table: lancedb.table.Table, **options: Any) -> LanceDataLoader:
    dataset = LanceIterableTorchDataset(
        table,
        columns=["tokens"],
        format="torch",
        shuffle=True,
        batching=Packing(LENGTH, rows=ROWS, lengths="n"),
        **options,
    )
    return LanceDataLoader(dataset)


def padded(table: lancedb.table.Table) -> LanceDataLoader:
    dataset = LanceIterableTorchDataset(
        table,
        columns=["tokens"],
        format="torch",
        ragged="pad",
        shuffle=True,
        batch_size=PLAIN,
    )
    return LanceDataLoader(dataset)


def sorted_in_buckets(table: lancedb.table.Table, lengths: np.ndarray) -> Any:
    """A batch sampler over the map-style dataset, as people write it: sort shuffled stretches."""
    generator = np.random.default_rng(0)
    order = generator.permutation(len(lengths))
    stretches = np.array_split(order, max(1, len(order) // (PLAIN * 100)))
    batches = [
        batch
        for stretch in stretches
        for batch in np.array_split(
            stretch[np.argsort(lengths[stretch])], max(1, len(stretch) // PLAIN)
        )
    ]
    generator.shuffle(batches)
    dataset = LanceTorchDataset(table, columns=["tokens"], format="torch", ragged="pad")
    sampler = [batch.tolist() for batch in batches]
    return torch.utils.data.DataLoader(dataset, batch_sampler=sampler)


def used_of(batches: Any) -> Iterator[tuple[int, int]]:
    """Tokens and places of each batch."""
    for batch in batches:
        if "document_ids" in batch:
            used = int((batch["document_ids"] > 0).sum())
        else:
            used = int(batch["tokens_length"].sum())
        yield used, batch["tokens"].numel()


def measured(name: str, batches: Any, loader: LanceDataLoader | None = None) -> dict[str, Any]:
    """What one epoch gives."""
    planning = None
    if loader is not None and loader.dataset._batching is not None:  # type: ignore[attr-defined]
        loader.dataset._planned._lengths[""].of(np.arange(1))  # type: ignore[attr-defined]
        started = time.process_time()
        len(loader)
        planning = time.process_time() - started
    started = time.perf_counter()
    found = np.array(list(used_of(batches)))
    seconds = time.perf_counter() - started
    places = found[: len(found) // RANKS * RANKS, 1].reshape(-1, RANKS)
    state = None if loader is None else len(json.dumps(loader.state_dict()))
    return {
        "way": name,
        "used": found[:, 0].sum() / found[:, 1].sum(),
        "dearest": float((places.max(1) / places.mean(1)).mean()),
        "largest": int(found[:, 1].max()),
        "tokens_per_second": found[:, 0].sum() / seconds,
        "state": state,
        "planning": planning,
    }


def grain_packing(lengths: np.ndarray) -> Iterator[tuple[str, float, float]]:
    """The share of places used, and seconds, of Grain's first fit and best fit; nothing without."""
    try:
        import grain.experimental as experimental
        from grain import MapDataset
    except ImportError:
        return
    pieces = [length for each in lengths for length in _pieces(int(each))]
    order = np.random.default_rng(0).permutation(len(pieces))
    documents = [{"tokens": np.ones(pieces[number], np.int32)} for number in order]
    for name in ("FirstFitPackIterDataset", "BestFitPackIterDataset"):
        pack = getattr(experimental, name, None)
        if pack is not None:
            started = time.perf_counter()
            source = MapDataset.source(documents).to_iter_dataset()
            rows = list(pack(source, length_struct={"tokens": LENGTH}, num_packing_bins=64))
            yield name, sum(pieces) / (len(rows) * LENGTH), time.perf_counter() - started


def lancedb_packing(table: lancedb.table.Table, lengths: np.ndarray) -> dict[str, Any]:
    """lancedb's own blocks, of which each document may begin in one and end in another."""
    from lancedb.streaming import StreamingDataset

    tokens = int(lengths.sum()) + len(lengths)  # with a separator each
    pad = 40_000
    dataset = StreamingDataset(
        table,
        columns=["tokens"],
        num_splits=1,
        pack_sequences=LENGTH,
        eos_id=0,
        pad_id=pad,
        blocks_per_epoch=tokens // LENGTH,
    )
    started = time.perf_counter()
    used = blocks = separators = state = 0
    for block in dataset:
        ids = block["input_ids"]
        used += int((ids != pad).sum())
        separators += int((ids == 0).sum())
        blocks += 1
        if blocks % 1000 == 1:
            state = max(state, len(json.dumps(dataset.state_dict(), default=str)))
    return {
        "way": "lancedb pack_sequences",
        "used": (used - separators) / (blocks * LENGTH),
        "tokens_per_second": (used - separators) / (time.perf_counter() - started),
        "state": state,
    }


def _pieces(length: int) -> list[int]:
    whole, rest = divmod(length, LENGTH)
    return [LENGTH] * whole + ([rest] if rest else [])


def main() -> None:
    """Measure each way in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=100_000)
    args = parser.parse_args()
    lengths = lengths_of(args.documents)
    with tempfile.TemporaryDirectory() as folder:
        table = make_table(Path(folder), lengths)
        ways: dict[str, Callable[[], Any]] = {
            f"plain batches of {PLAIN}, padded": lambda: padded(table),
            "sorted in stretches of 100 batches": lambda: sorted_in_buckets(table, lengths),
            f"TokenBudget({BUDGET})": lambda: budget(table),
            f"Packing({LENGTH}, rows={ROWS})": lambda: packing(table),
        }
        for name, make in ways.items():
            made = make()
            loader = made if isinstance(made, LanceDataLoader) else None
            print(json.dumps(measured(name, made, loader)), flush=True)
        print(json.dumps(lancedb_packing(table, lengths)), flush=True)
    for name, used, seconds in grain_packing(lengths):
        row = {
            "way": f"Grain {name}",
            "used": used,
            "us_per_document": seconds / len(lengths) * 1e6,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
