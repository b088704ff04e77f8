# SPDX-License-Identifier: Apache-2.0
"""`Permutation.fetch` in forked processes, such as workers of torch's own `DataLoader` are."""

import multiprocessing
import os

import lancedb
import pytest
import torch
from conftest import rows_of
from lancedb.background_loop import LOOP
from lancedb.permutation import Permutation, permutation_builder
from limits import HANGS
from soak import soaked
from torch.utils.data import DataLoader, Dataset

if not hasattr(os, "fork"):
    pytest.fail("these tests are about fork, which this system does not have")

FORK = multiprocessing.get_context("fork")
ASKED = [3, -1, 3, 40, 0]


class Rows(Dataset):
    """A dataset of one's own, as people write it around a permutation."""

    def __init__(self, permutation):
        self.permutation = permutation

    def __len__(self):
        return len(self.permutation)

    def __getitems__(self, indices):
        return self.permutation.fetch(indices)


def split_of(table):
    built = permutation_builder(table).split_random(ratios=[0.7, 0.3], seed=5).shuffle().execute()
    return Permutation.from_tables(table, built, 1)


def twice(batch):
    return {"twice": torch.from_numpy(batch["id"].to_numpy() * 2)}


WAYS = {
    "identity": Permutation.identity,
    "split": split_of,
    "skip, take, columns, names, torch": lambda table: (
        Permutation.identity(table)
        .with_skip(100)
        .with_take(300)
        .select_columns(["vec", "id"])
        .rename_column("id", "number")
        .with_format("torch")
    ),
    "transform": lambda table: Permutation.identity(table).with_transform(twice),
}


def without_runtime(permutation, change, answers):
    """Fetch where lancedb's runtime, which does not survive a fork, cannot be used."""
    LOOP.run = None
    answers.put(str(change(permutation).fetch(ASKED)))


def in_a_fork(permutation, change=lambda permutation: permutation):
    answers = FORK.Queue()
    child = FORK.Process(target=without_runtime, args=(permutation, change, answers))
    child.start()
    got = answers.get(timeout=HANGS)
    child.join(60)
    assert child.exitcode == 0
    return got


@pytest.mark.few(1)
@pytest.mark.parametrize("way", ["identity", "split", *map(soaked, list(WAYS)[2:])])
def test_a_forked_process_fetches_the_same_without_lancedbs_runtime(table, way):
    permutation = WAYS[way](table)
    expected = str(permutation.fetch(ASKED))
    assert in_a_fork(permutation) == expected
    assert str(permutation.fetch(ASKED)) == expected


@pytest.mark.soak
def test_one_never_read_is_fetched_from_too_and_indices_are_refused_as_they_are_elsewhere(table):
    def change(permutation):
        with pytest.raises(IndexError, match="1000 is out of range"):
            permutation.fetch([1000])
        return permutation

    expected = str(Permutation.identity(table).fetch(ASKED))
    assert in_a_fork(Permutation.identity(table), change) == expected


@pytest.mark.soak
def test_columns_may_be_chosen_in_the_forked_process(table):
    def change(permutation):
        return permutation.select_columns(["label"]).with_format("arrow")

    permutation = Permutation.identity(table)
    assert in_a_fork(permutation, change) == str(change(permutation).fetch(ASKED))


@pytest.mark.soak
def test_tables_in_memory_are_fetched_from(table):
    memory = lancedb.connect("memory://").create_table("points", rows_of(200))
    permutation = Permutation.identity(memory)
    assert in_a_fork(permutation) == str(permutation.fetch(ASKED))


@pytest.mark.soak
def test_forked_workers_of_a_dataset_of_ones_own_read_every_row(table):
    dataset = Rows(Permutation.identity(table).select_columns(["id"]))
    loader = DataLoader(
        dataset, batch_size=64, num_workers=3, multiprocessing_context="fork", shuffle=True
    )
    for _ in range(2):
        assert sorted(int(row) for batch in loader for row in batch["id"]) == list(range(1000))
