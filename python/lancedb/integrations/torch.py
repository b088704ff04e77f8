# SPDX-License-Identifier: Apache-2.0
"""Train PyTorch models on LanceDB tables: datasets over one table and several, and the loader.

>>> import lancedb, torch
>>> from lancedb.integrations.torch import LanceTorchDataset
>>> db = lancedb.connect("memory://")
>>> table = db.create_table("points", [{"x": float(i), "y": i % 2} for i in range(8)])
>>> dataset = LanceTorchDataset(table, format="torch")
>>> loader = torch.utils.data.DataLoader(dataset, batch_size=4)
>>> [batch["y"].tolist() for batch in loader]
[[0, 1, 0, 1], [0, 1, 0, 1]]
"""

from __future__ import annotations

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "lancedb.integrations.torch needs PyTorch 2.4 or newer: pip install 'torch>=2.4'"
    ) from error

import lancedb.permutation

from ._torch.cache.info import cache_info, clear_cache
from ._torch.convert.context import TransformContext
from ._torch.datasets.batching import Packing, TokenBudget
from ._torch.datasets.iterable import LanceIterableTorchDataset
from ._torch.datasets.lookup import LanceLookup
from ._torch.datasets.map_style import LanceTorchDataset
from ._torch.datasets.mixed import LanceMixedTorchDataset
from ._torch.loader.loader import LanceDataLoader
from ._torch.loader.opentelemetry import instrument_loader_metrics
from ._torch.permutation_methods import extend

extend(lancedb.permutation)

__all__ = [
    "LanceDataLoader",
    "LanceIterableTorchDataset",
    "LanceLookup",
    "LanceMixedTorchDataset",
    "LanceTorchDataset",
    "Packing",
    "TokenBudget",
    "TransformContext",
    "cache_info",
    "clear_cache",
    "instrument_loader_metrics",
]

# Whatever shows or pickles one of them names it as its users do, wherever it is defined.
for _name in __all__:
    vars()[_name].__module__ = __name__
