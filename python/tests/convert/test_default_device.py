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


@pytest.mark.few(1)
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


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [LanceTorchDataset, LanceIterableTorchDataset])
def test_loaders_start_and_draw_the_same_from_their_generator(table, elsewhere, kind, workers):
    generator = torch.Generator(device="cpu").manual_seed(0)
    dataset = kind(table, columns=["id"], format="torch", batch_size=100)
    loader = LanceDataLoader(dataset, num_workers=workers, generator=generator)
    assert sorted(id for batch in loader for id in batch["id"].tolist()) == list(range(1000))
    expected = torch.Generator(device="cpu").manual_seed(0)
    torch.empty((), dtype=torch.int64, device="cpu").random_(generator=expected)
    assert torch.equal(generator.get_state(), expected.get_state())


def test_deterministic_algorithms_change_nothing(table):
    columns = ["id", "vec", "tokens"]
    torch.use_deterministic_algorithms(True)
    try:
        for ragged in ("jagged", "pad"):
            options = {"columns": columns, "format": "torch", "batch_size": 100, "ragged": ragged}
            loader = LanceDataLoader(LanceIterableTorchDataset(table, shuffle=True, **options))
            assert sorted(id for each in loader for id in each["id"].tolist()) == list(range(1000))
    finally:
        torch.use_deterministic_algorithms(False)
