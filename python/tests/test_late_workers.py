# SPDX-License-Identifier: Apache-2.0
"""A worker that is late to begin begins where it was told to, whatever was said since."""

import time

import pytest
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from torch.utils.data import get_worker_info

LATE = 1  # the worker that is


class SlowToBegin(LanceIterableTorchDataset):
    """One whose second worker lets the others go ahead each time."""

    def __iter__(self):
        if get_worker_info() is not None and get_worker_info().id == LATE:
            time.sleep(0.2)
        return super().__iter__()


def dataset_of(table, kind=SlowToBegin):
    return kind(table, columns=["id"], format="python_col", batch_size=48, shuffle=True)


@pytest.fixture
def epochs(table):
    """The batches of three epochs, as one process makes them."""
    loader = LanceDataLoader(dataset_of(table, LanceIterableTorchDataset))
    return [[batch["id"] for batch in loader] for _ in range(3)]


def loader_of(table, persistent):
    return LanceDataLoader(dataset_of(table), num_workers=2, persistent_workers=persistent)


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("taken", [0, 1])
def test_an_epoch_broken_off_at_once_is_followed_by_the_next_one(table, epochs, persistent, taken):
    loader = loader_of(table, persistent)
    assert [batch["id"] for batch in loader] == epochs[0]
    batches = iter(loader)
    assert [next(batches)["id"] for _ in range(taken)] == epochs[1][:taken]
    loader.set_epoch(2)
    assert [batch["id"] for batch in loader] == epochs[2]


@pytest.mark.parametrize("persistent", [True, False])
def test_a_state_that_is_loaded_at_once_is_where_it_goes_on(table, epochs, persistent):
    loader = loader_of(table, persistent)
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        batches = iter(loader)
        assert next(batches)["id"] == epochs[epoch][0]
        loader.load_state_dict(loader.state_dict())
        assert [batch["id"] for batch in batches] == epochs[epoch][1:]


@pytest.mark.parametrize("persistent", [True, False])
def test_an_iterator_dropped_before_its_first_batch_uses_up_no_epoch(table, epochs, persistent):
    loader = loader_of(table, persistent)
    iter(loader)
    assert [batch["id"] for batch in loader] == epochs[0]
    iter(loader)
    iter(loader)
    assert [batch["id"] for batch in loader] == epochs[1]
