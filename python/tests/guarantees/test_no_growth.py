# SPDX-License-Identifier: Apache-2.0
"""Many epochs, many of them broken off: what a run holds on to levels off. A soak has thousands.

A run is cut in thirds. The first warms up; in the others what the processes hold is looked at
several times, and the last third must hold no more than the middle one did.
"""

import gc
import sys
import threading
from typing import NamedTuple

import psutil
import pytest
from conftest import rows_of
from lancedb.integrations._torch.order.index_shuffle import derive_key
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from soak import soaked

WINDOWS = {"shuffle": True, "block_rows": 2, "window_rows": 16, "lanes": 2}
ROWS = 48
MEGABYTE = 1 << 20
LOOKS = 4


class Held(NamedTuple):
    """What the processes of a run hold on to together; blocks are of Python's heap in this one."""

    memory: int
    blocks: int
    native: int
    threads: int
    files: int
    shared: int


def held(processes):
    gc.collect()
    maps = [each.path for process in processes for each in process.memory_maps(grouped=False)]
    return Held(
        # Memory of its own: what processes share would be counted several times.
        memory=sum(process.memory_full_info().uss for process in processes),
        blocks=sys.getallocatedblocks(),
        native=sum(process.num_threads() for process in processes),
        threads=threading.active_count(),
        files=sum(process.num_fds() for process in processes),
        shared=sum(path.startswith(("/dev/shm", "/torch_")) for path in maps),
    )


def assert_levels_off(rounds, run, processes):
    """Run `rounds` in thirds, and compare the last one with the one before.

    `run` makes so many rounds, `processes` says whom to look at after them.
    """
    third = rounds // 3
    run(rounds - 2 * third)
    middle, late = [
        [look(run, count, processes) for count in portions(third)] for _ in ("middle", "late")
    ]
    slack = {
        "memory": 8 * MEGABYTE * len(processes()),
        # A few for each round would be more. Torch forgets dead handles of tensors by the hundred.
        "blocks": 1000,
        # lancedb's pools end idle threads and start them again, so what they come to varies a bit.
        "native": 2,
    }
    for name in Held._fields:
        assert least(late, name) <= least(middle, name) + slack.get(name, 0), name


def portions(count):
    return [count // LOOKS] * (LOOKS - 1) + [count - count // LOOKS * (LOOKS - 1)]


def look(run, count, processes):
    run(count)
    return held(processes())


def least(looks, name):
    """Garbage, and threads that are idle and about to end, only add to it."""
    return min(getattr(each, name) for each in looks)


def alone():
    return [psutil.Process()]


class Family:
    """This process, and the workers that a loader keeps."""

    def __init__(self, loader):
        self._loader = loader

    def __call__(self):
        workers = getattr(self._loader._iterator, "_workers", [])
        return [*alone(), *(psutil.Process(worker.pid) for worker in workers)]


@pytest.fixture(autouse=True)
def full_cache_of_keys():
    """What epochs have of their own there takes the place of others, and is no growth."""
    for number in range(derive_key.cache_info().maxsize):
        derive_key(number, 0xF111)


@pytest.fixture
def small(db):
    """A few rows of id, vec and text."""
    return db.create_table("small", rows_of(ROWS).select(["id", "vec", "text"]))


def iterable(table, workers=0, **options):
    dataset = LanceIterableTorchDataset(table, format="torch", batch_size=12, **WINDOWS)
    return LanceDataLoader(dataset, num_workers=workers, **options)


def mapped(table, workers=0, **options):
    dataset = LanceTorchDataset(table, format="torch")
    return LanceDataLoader(dataset, batch_size=12, shuffle=True, num_workers=workers, **options)


KINDS = pytest.mark.parametrize("make", [iterable, soaked(mapped)])


class Rounds:
    """A way to use a loader, any number of times."""

    def __init__(self, loader):
        self.loader = loader

    def __call__(self, count):
        for _ in range(count):
            self.once()


class WholeEpochs(Rounds):
    """From the first batch to the last."""

    def once(self):
        assert sum(len(batch["id"]) for batch in self.loader) == ROWS


class Broken(Rounds):
    """``iter()`` and ``break``."""

    def once(self):
        for batch in self.loader:
            assert len(batch["id"]) == 12
            break


class InTurn(Rounds):
    """One round of each."""

    def __init__(self, *rounds):
        self.rounds = rounds

    def once(self):
        for each in self.rounds:
            each.once()


class Resumed(Rounds):
    """Broken off at another batch each time, and resumed from there."""

    def __init__(self, loader):
        super().__init__(loader)
        self.number = 0
        self.whole = [[batch["id"].tolist() for batch in loader] for _ in range(2)]

    def once(self):
        epoch, done = self.number % 2, self.number % 4
        self.number += 1
        self.loader.set_epoch(epoch)
        batches = iter(self.loader)
        for _ in range(done):
            next(batches)
        self.loader.load_state_dict(self.loader.state_dict())
        assert next(batches)["id"].tolist() == self.whole[epoch][done]
        del batches
        assert self.loader.state_dict()["epoch"] == epoch + (done == 3)


@pytest.mark.soak
@KINDS
@pytest.mark.parametrize("rounds", [450])
def test_epochs_without_workers(small, make, rounds):
    assert_levels_off(rounds, WholeEpochs(make(small)), alone)


@pytest.mark.soak
@KINDS
@pytest.mark.parametrize("rounds", [150])
def test_epochs_with_workers_that_stay(small, make, rounds):
    loader = make(small, 2, persistent_workers=True)
    family = Family(loader)
    WholeEpochs(loader)(1)
    workers = family()
    assert len(workers) == 3
    assert_levels_off(rounds - 1, WholeEpochs(loader), family)
    assert family() == workers


# A worker of so small a table starts in a fifth of a second, as the fork server has imported all
# that it needs.
@pytest.mark.soak
@KINDS
def test_epochs_with_new_workers_each(small, make):
    rounds = 80
    loader = make(small, 1)
    WholeEpochs(loader)(1)
    servers = psutil.Process().children(recursive=True)  # the fork server, the resource tracker
    assert_levels_off(rounds - 1, WholeEpochs(loader), lambda: [*alone(), *servers])
    assert psutil.Process().children(recursive=True) == servers


@pytest.mark.soak
def test_epochs_broken_off_of_both_datasets_in_turn(small):
    rounds = 1200
    loaders = [iterable(small), mapped(small)]
    assert_levels_off(rounds, InTurn(*map(Broken, loaders)), alone)
    assert [loader.state_dict()["epoch"] for loader in loaders] == [rounds - 1] * 2


@pytest.mark.soak
@KINDS
def test_epochs_broken_off_and_resumed(small, make):
    rounds = 240  # to find what leaks a little
    assert_levels_off(rounds, Resumed(make(small)), alone)


@pytest.mark.soak
def test_epochs_broken_off_and_resumed_while_workers_read_ahead(small):
    rounds = 120
    loader = iterable(small, 2, persistent_workers=True, prefetch_factor=4)
    assert_levels_off(rounds, Resumed(loader), Family(loader))
