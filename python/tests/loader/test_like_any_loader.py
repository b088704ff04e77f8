# SPDX-License-Identifier: Apache-2.0
"""What a training loop sees of the loader beside its batches is what any loader shows it."""

import pytest
import torch
from loaders import iterable, run
from torch.utils.data import DataLoader, TensorDataset


def drawn_after(loader):
    """Random numbers of a model that draws after an epoch."""
    torch.manual_seed(0)
    for _ in loader:
        pass
    return torch.rand(3).tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_model_draws_is_as_with_any_loader_and_any_workers(table, workers):
    by_torch = drawn_after(DataLoader(TensorDataset(torch.arange(3))))
    assert drawn_after(iterable(table, workers)) == by_torch


def test_a_profile_shows_the_wait_for_each_batch_as_of_any_loader(table):
    loader = iterable(table)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        batches = run(loader)
    regions = [each for each in profile.events() if each.name.startswith("enumerate(DataLoader)#")]
    assert len(regions) == len(batches) + 1  # and that there is none any more


def test_ones_own_collate_fn_is_given_whole_batches(table):
    loader = iterable(table, collate_fn=lambda batch: {"id": batch["id"] + 1000})
    assert run(loader) == [[each + 1000 for each in batch] for batch in run(iterable(table))]
