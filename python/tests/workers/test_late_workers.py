# SPDX-License-Identifier: Apache-2.0
"""A worker that is late to begin begins where it was told to, whatever was said since."""

import contextlib
import time

import pytest
from lancedb.integrations._torch.workers.watchdog import kill_workers
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from torch.utils.data import DataLoader, get_worker_info

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


def begin_late(worker):
    if worker == LATE:
        time.sleep(0.2)


def loader_of(table, persistent):
    return LanceDataLoader(
        dataset_of(table, LanceIterableTorchDataset),
        num_workers=2,
        persistent_workers=persistent,
        worker_init_fn=begin_late,
    )


@pytest.mark.few(2)
@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("taken", [0, 1])
def test_an_epoch_broken_off_at_once_is_followed_by_the_next_one(table, epochs, persistent, taken):
    loader = loader_of(table, persistent)
    assert [batch["id"] for batch in loader] == epochs[0]
    batches = iter(loader)
    assert [next(batches)["id"] for _ in range(taken)] == epochs[1][:taken]
    loader.set_epoch(2)
    assert [batch["id"] for batch in loader] == epochs[2]


@pytest.mark.few(1)
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


def plain_loader_of(dataset, workers=2, persistent=True):
    context = "forkserver" if workers else None
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=persistent and workers > 0,
    )


def ids_of(loader):
    return [batch["id"] for batch in loader]


@pytest.mark.few(1)
@pytest.mark.parametrize("persistent", [True, False])
def test_a_plain_loader_broken_off_at_once_is_followed_by_the_epoch_set(table, epochs, persistent):
    dataset = dataset_of(table)
    loader = plain_loader_of(dataset, persistent=persistent)
    for epoch in (0, 1):
        batches = iter(loader)
        assert next(batches)["id"] == epochs[epoch][0]
        dataset.set_epoch(2)
        assert ids_of(loader) == epochs[2]
        dataset.set_epoch(1)


def test_a_state_loaded_into_a_plain_loader_at_once_is_where_it_goes_on(table, epochs):
    dataset = dataset_of(table)
    loader = plain_loader_of(dataset)
    state = dataset.state_dict()
    batches = iter(loader)
    assert next(batches)["id"] == epochs[0][0]
    dataset.load_state_dict(state)
    assert ids_of(loader) == epochs[0]


@contextlib.contextmanager
def refused(dataset, workers):
    """Workers that are refused, and live on for a while as those do that are to persist."""
    batches = iter(plain_loader_of(dataset, workers))
    with pytest.raises(RuntimeError, match=f"{workers} workers cannot go on where more or fewer"):
        next(batches)
    yield
    kill_workers(batches)  # torch would wait for each


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 3)])
def test_more_workers_than_before_are_not_let_into_different_epochs(table, epochs, first, then):
    dataset = dataset_of(table, LanceIterableTorchDataset)
    assert ids_of(plain_loader_of(dataset, first)) == epochs[0]
    with refused(dataset, then):
        dataset.set_epoch(1)
        assert ids_of(plain_loader_of(dataset, then)) == epochs[1]


def test_fewer_workers_go_on_with_the_next_epoch_and_no_more_come_back(table, epochs):
    dataset = dataset_of(table, LanceIterableTorchDataset)
    assert ids_of(plain_loader_of(dataset, 2)) == epochs[0]
    assert ids_of(plain_loader_of(dataset, 1)) == epochs[1]
    with refused(dataset, 2):
        dataset.set_epoch(2)
        assert ids_of(plain_loader_of(dataset, 2)) == epochs[2]


def test_a_worker_that_will_never_begin_is_not_waited_for(table, epochs):
    dataset = dataset_of(table)
    batches = iter(plain_loader_of(dataset))
    assert next(batches)["id"] == epochs[0][0]
    for worker in batches._workers:
        worker.kill()
        worker.join()
    dataset.set_epoch(1)
    assert ids_of(plain_loader_of(dataset)) == epochs[1]
