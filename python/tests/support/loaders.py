# SPDX-License-Identifier: Apache-2.0
"""What tests of the loader share: loaders over both datasets, and what they deliver."""

import itertools
import json

import pytest
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
    LanceTorchDataset,
)

WINDOWS = {"shuffle": True, "block_rows": 4, "window_rows": 64, "lanes": 4}
ORDERS = {"none": {"shuffle": False}, "block": WINDOWS, "global": {"shuffle": "global"}}


def iterable(table, workers=0, order="block", **options):
    loader_options = {key: options.pop(key) for key in list(options) if key in LOADER_OPTIONS}
    dataset = LanceIterableTorchDataset(
        table,
        **{"columns": ["id"], "format": "torch", "batch_size": 48, **ORDERS[order], **options},
    )
    return LanceDataLoader(dataset, num_workers=workers, **loader_options)


def mapped(table, workers=0, order="global", **options):
    dataset = LanceTorchDataset(table, columns=["id"], format=options.pop("format", "torch"))
    return LanceDataLoader(
        dataset,
        num_workers=workers,
        **{"batch_size": 48, "shuffle": order != "none", "drop_last": True, **options},
    )


def mixture(table, workers=0, batch_size=48):
    """Half of the rows by turns with the other half, each a source."""
    halves = {
        name: LanceIterableTorchDataset(table, columns=["id"], filter=rows, shuffle=True)
        for name, rows in {"even": "id % 2 = 0", "odd": "id % 2 = 1"}.items()
    }
    weights = dict.fromkeys(halves, 1)
    dataset = LanceMixedTorchDataset(halves, weights, format="torch", batch_size=batch_size)
    return LanceDataLoader(dataset, num_workers=workers)


LOADER_OPTIONS = (
    "persistent_workers",
    "prefetch_factor",
    "multiprocessing_context",
    "collate_fn",
    "worker_init_fn",
    "in_order",
)
KINDS = pytest.mark.parametrize("make", [iterable, mapped])


def ids(batch):
    if isinstance(batch, dict):
        return batch["id"].tolist()
    return [row["id"] for row in batch]


def run(loader, steps=None):
    return [ids(batch) for batch in itertools.islice(loader, steps)]


def flat(lists):
    return [each for one in lists for each in one]


def through_json(state):
    return json.loads(json.dumps(state))


def workers_of(batches):
    return torch_iterator(batches)._workers


def torch_iterator(batches):
    """torch's iterator over the workers that make a loader's batches."""
    return getattr(batches._batches, "by_torch", batches._batches)
