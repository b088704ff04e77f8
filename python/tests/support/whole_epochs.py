# SPDX-License-Identifier: Apache-2.0
"""Iterable datasets in each order, and the ids that their batches have."""

from lancedb.integrations.torch import LanceIterableTorchDataset

# Small enough that 20,000 rows have many windows.
WINDOWS = {"shuffle": True, "block_rows": 8, "window_rows": 256, "lanes": 8}
ORDERS = [{"shuffle": False}, WINDOWS, {"shuffle": "global"}]
ORDER_IDS = ["none", "block", "global"]


def torch_ids(table, **options):
    return LanceIterableTorchDataset(
        table, **{"columns": ["id"], "format": "torch", "batch_size": 64, **options}
    )


def batches(loader):
    return [batch["id"].tolist() for batch in loader]
