# SPDX-License-Identifier: Apache-2.0
"""Whoever says where an epoch begins, dataset or loader, is heard, and by nobody else's workers."""

import time

import pytest
from lancedb.integrations.torch import LanceDataLoader
from loaders import WINDOWS, flat, ids, iterable, mapped, run
from torch.utils.data import DataLoader


class LateWorker:
    """Has the second of two workers begin after the first."""

    def __call__(self, worker):
        time.sleep(0.2 * worker)


def test_loaders_over_one_dataset_have_epochs_of_their_own(table):
    alone = iterable(table)
    epochs = [flat(run(alone)) for _ in range(4)]
    late = iterable(table, 2, worker_init_fn=LateWorker())
    other = LanceDataLoader(late.dataset)
    other.set_epoch(3)
    slow, quick = iter(late), iter(other)
    assert flat(map(ids, quick)) == epochs[3]
    assert flat(map(ids, slow)) == epochs[0]
    assert flat(run(late)) == epochs[1]


def test_a_state_loaded_into_a_loader_is_not_the_datasets_once_the_loader_has_begun(table):
    loader = iterable(table)
    epochs = [flat(run(loader)) for _ in range(2)]
    loader.set_epoch(0)
    batches = iter(loader)
    next(batches)
    other = LanceDataLoader(loader.dataset)
    other.load_state_dict(loader.state_dict())
    assert flat(run(other)) == epochs[0][len(epochs[0]) - len(flat(map(ids, batches))) :]
    plain = DataLoader(loader.dataset, batch_size=None)
    assert [flat(run(plain)) for _ in range(2)] == epochs


def test_two_loaders_with_workers_do_not_mix_their_epochs(table):
    alone = iterable(table)
    epochs = [flat(run(alone)) for _ in range(2)]
    first = iterable(table, 2, persistent_workers=True)
    second = LanceDataLoader(first.dataset, num_workers=2)
    for epoch in epochs:
        pairs = list(zip(first, second, strict=True))
        assert [flat(ids(pair[number]) for pair in pairs) for number in (0, 1)] == [epoch] * 2


@pytest.mark.parametrize("taken", [0, 1])
def test_a_state_loaded_into_one_loader_leaves_the_other_its_layout(table, taken):
    first = iterable(table)
    batches = iter(first)
    for _ in range(taken):
        next(batches)
    second = LanceDataLoader(first.dataset)
    second.load_state_dict(of_other_layout(table))
    state = first.state_dict()
    rest = flat(map(ids, batches))
    resumed = iterable(table)
    resumed.load_state_dict(state)
    assert flat(run(resumed)) == rest


def of_other_layout(table, batches=3):
    other = iterable(table, block_rows=8, window_rows=32, lanes=2)
    run(other, batches)
    return other.state_dict()


@pytest.mark.parametrize("under_way", [False, True])
def test_workers_that_stay_learn_the_layout_of_a_state(table, under_way):
    state = of_other_layout(table)
    expected = iterable(table, block_rows=8, window_rows=32, lanes=2)
    expected.load_state_dict(state)
    loader = iterable(table, 2, persistent_workers=True)
    batches = iter(loader)
    next(batches)
    loader.load_state_dict(state)
    got = map(ids, batches) if under_way else run(loader)
    assert flat(got) == flat(run(expected))
    assert flat(run(loader)) == flat(run(expected))


def test_workers_of_a_plain_loader_learn_it_too(table):
    state = of_other_layout(table)
    expected = iterable(table, block_rows=8, window_rows=32, lanes=2)
    expected.load_state_dict(state)
    dataset = iterable(table).dataset
    plain = DataLoader(
        dataset,
        None,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="forkserver",
    )
    assert len(run(plain)) == len(plain)
    dataset.load_state_dict(state)
    assert flat(run(plain)) == flat(run(expected))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("made_before", [False, True])
def test_a_loader_begins_where_its_dataset_was_told_to(table, workers, made_before):
    reference = iterable(table)
    run(reference, 5)
    state = reference.state_dict()
    loader = iterable(table, workers)
    dataset = loader.dataset
    dataset.load_state_dict(state)
    if not made_before:
        loader = LanceDataLoader(dataset, num_workers=workers)
    assert loader.state_dict() == state
    rest = flat(run(loader))
    reference.load_state_dict(state)
    assert rest == flat(run(reference))
    dataset.set_epoch(7)
    reference.set_epoch(7)
    assert flat(run(loader)) == flat(run(reference))
    assert flat(run(loader)) == flat(run(reference))


@pytest.mark.few(2)
@pytest.mark.parametrize("make", [iterable, mapped])
@pytest.mark.parametrize("workers", [0, 2])
def test_set_epoch_leaves_the_iterator_that_is_under_way_alone(table, make, workers):
    reference = make(table)
    epochs = [run(reference) for _ in range(4)]
    loader = make(table, workers)
    got = []
    for batch in loader:
        got.append(ids(batch))
        loader.set_epoch(3)
        assert loader.state_dict()["epoch"] == (0 if len(got) < len(loader) else 3)
    assert got == epochs[0]
    assert run(loader) == epochs[3]


@pytest.mark.parametrize("asked", [False, True])
def test_asking_where_a_loader_stands_moves_nothing(table, asked):
    reference = iterable(table)
    epochs = [run(reference) for _ in range(4)]
    loader = iterable(table)
    batches = iter(loader)
    loader.dataset.set_epoch(3)
    if asked:
        assert (loader.epoch, loader.step, loader.state_dict()["epoch"]) == (3, 0, 3)
        assert "epoch=3, step=0" in repr(loader)
    assert ids(next(batches)) == epochs[0][0]
    assert run(loader) == epochs[3]


@pytest.mark.parametrize("make", [iterable, mapped])
def test_setting_the_epoch_of_a_loaded_state_keeps_its_place(table, make):
    loader = make(table)
    run(loader, 5)
    state = loader.state_dict()
    loader.load_state_dict(state)
    rest = run(loader)
    loader.load_state_dict(state)
    batches = iter(loader)
    loader.set_epoch(0)
    assert list(map(ids, batches)) == rest


def test_an_iterator_that_was_left_behind_does_not_move_the_dataset(table):
    dataset = iterable(table, **WINDOWS).dataset
    batches = iter(dataset)
    for _ in range(3):
        next(batches)
    state = dataset.state_dict()
    next(batches)
    dataset.load_state_dict(state)
    next(batches)
    assert dataset.state_dict() == state
