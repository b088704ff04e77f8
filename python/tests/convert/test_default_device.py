# SPDX-License-Identifier: Apache-2.0
"""What a program makes its own tensors on, and of what, is nothing to what is read."""

import pytest
import torch
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)


@pytest.fixture
def elsewhere():
    """A program whose new tensors have no memory, and are of float64."""
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("ragged", ["jagged", "pad", "mask", "list"])
@pytest.mark.parametrize("kind", [LanceTorchDataset, LanceIterableTorchDataset])
def test_batches_are_on_the_cpu(table, elsewhere, kind, ragged):
    columns = ["id", "vec", "tokens"]
    dataset = kind(table, columns=columns, format="torch", batch_size=100, ragged=ragged)
    if kind is LanceTorchDataset:
        batch = dataset.__getitems__(range(100)).columns
    else:
        batch = next(iter(LanceDataLoader(dataset)))
    assert batch["id"].tolist() == list(range(100))
    assert (batch["vec"].device.type, batch["vec"].dtype) == ("cpu", torch.float32)
    assert [row.device.type for row in batch["tokens"]] == ["cpu"] * 100
