# SPDX-License-Identifier: Apache-2.0
"""Documents of very different lengths, and what batches of them hold."""

import numpy as np
import pyarrow as pa
from lancedb.integrations.torch import (
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
    Packing,
    TokenBudget,
)

LENGTH = 16
BUDGET = TokenBudget(96, lengths="tokens", group_rows=64)
PACKING = Packing(LENGTH, rows=4, group_rows=64)
WINDOWS = {"shuffle": True, "block_rows": 4, "window_rows": 32, "lanes": 16, "cache": False}
ORDERS = {
    "none": {"shuffle": False},
    "block": WINDOWS,
    "one window": {"shuffle": True},
    "global": {"shuffle": "global", "cache": False},
}


def lengths_of(count):
    """From 1 to 40, mostly short."""
    return 1 + np.random.default_rng(0).geometric(0.15, count).clip(1, 39)


def documents(count):
    """id, the tokens id * 100 + place, a label for each token, and how many there are."""
    lengths = lengths_of(count)
    ends = np.cumsum(lengths)
    places = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    tokens = np.repeat(np.arange(count), lengths) * 100 + places
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.table(
        {
            "id": np.arange(count),
            "n": lengths,
            "tokens": pa.ListArray.from_arrays(offsets, pa.array(tokens)),
            "labels": pa.ListArray.from_arrays(offsets, pa.array(tokens % 7, pa.int8())),
        }
    )


def dataset(table, batching, order="block", **options):
    ragged = {"ragged": "pad"} if isinstance(batching, TokenBudget) else {}
    return LanceIterableTorchDataset(
        table, format="torch", batching=batching, **{**ragged, **ORDERS[order], **options}
    )


WEIGHTS = {"web": 0.7, "code": 0.3}


def mixture(db, batching, shuffle=True, weights=WEIGHTS, of_sources=(), **options):
    sources = {
        name: LanceIterableTorchDataset(db.open_table(name), shuffle=shuffle, **dict(of_sources))
        for name in ("web", "code")
    }
    ragged = {"ragged": "pad"} if batching is BUDGET else {}
    given = {"batching": batching, "format": "torch", "source_column": "source", "cache": False}
    return LanceMixedTorchDataset(sources, weights, **{**given, **ragged, **options})


def content(batch):
    """What a batch holds: the ids of its rows, or the first token of each document in each row."""
    if "cu_seqlens" not in batch:
        return batch["id"].tolist()
    starts = batch["cu_seqlens"][:-1].long()
    used = batch["document_ids"].flatten()[starts] > 0
    return batch["tokens"].flatten()[starts[used]].tolist()


def run(loader, steps=None):
    """What the next batches of a loader hold, as many as `steps`, or all of the epoch."""
    made = []
    for batch in loader:
        made.append(content(batch))
        if len(made) == steps:
            break
    return made


def in_turn(ranks):
    """The batches of all ranks, step by step."""
    return [batch for step in zip(*ranks, strict=True) for batch in step]
