# SPDX-License-Identifier: Apache-2.0
"""Each step has the same rows, whatever the number of workers and ranks."""

import warnings

import pytest
from loaders import flat
from torch.utils.data import DataLoader
from whole_epochs import ORDERS, WINDOWS, batches, torch_ids


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("order", "drop_last", "workers"),
    [(0, True, 2), (1, True, 3), (1, False, 2), (2, True, 1), (2, False, 3)],
)
def test_workers_make_the_batches_of_one_process_in_its_order(
    wide_range, order, drop_last, workers
):
    dataset = torch_ids(wide_range, drop_last=drop_last, batch_size=150, **ORDERS[order])
    alone = [batches(dataset), batches(dataset)]
    dataset.set_epoch(0)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="forkserver",
        persistent_workers=True,
    )
    assert len(loader) == len(alone[0])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Length of IterableDataset")
        assert [batches(loader), batches(loader)] == alone


def test_workers_that_are_started_anew_go_on_with_the_next_epoch(wide_range):
    dataset = torch_ids(wide_range, **WINDOWS)
    alone = [batches(dataset), batches(dataset)]
    dataset.set_epoch(0)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, multiprocessing_context="forkserver"
    )
    assert [batches(loader), batches(loader)] == alone


@pytest.mark.parametrize(("order", "world_size"), [(0, 3), (1, 2), (1, 3), (2, 4)])
def test_ranks_share_each_step_and_make_as_many(wide_range, order, world_size):
    batch_size, order = 96 // world_size, ORDERS[order]
    whole = batches(torch_ids(wide_range, batch_size=96, **order))
    ranks = [
        batches(
            torch_ids(wide_range, batch_size=batch_size, rank=r, world_size=world_size, **order)
        )
        for r in range(world_size)
    ]
    assert {len(rank) for rank in ranks} == {len(whole)}
    assert [flat(step) for step in zip(*ranks, strict=True)] == whole
