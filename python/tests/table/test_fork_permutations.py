# SPDX-License-Identifier: Apache-2.0
"""`Permutation.fetch` in forked processes, such as workers of torch's own `DataLoader` are."""

import contextlib
import datetime
import multiprocessing
import os
import pathlib
import pickle
import sys

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


@contextlib.contextmanager
def opened_files(folder):
    """What Python code of this process opens in a folder, or tries to."""
    opened, folders = [], [str(folder)]

    def record(event, args):  # which stays for good, and then hears of no folder
        if event == "open" and any(str(args[0]).startswith(each) for each in folders):
            opened.append(args[0])

    sys.addaudithook(record)
    yield opened
    folders.clear()


@pytest.mark.parametrize("used", [True, False])
def test_a_fork_does_not_read_the_disk_for_rows_of_a_whole_table(db, table, used):
    permutation = Permutation.identity(table).with_skip(10)
    expected = str(permutation.fetch(ASKED))
    if not used:
        permutation = pickle.loads(pickle.dumps(permutation))  # which opens its table, no more
    folder = pathlib.Path(db.uri) / "points.lance"
    away = folder.rename(folder.with_name("away"))

    def put_back(permutation):
        away.rename(folder)
        return permutation

    with opened_files(folder) as opened:
        assert in_a_fork(permutation, put_back) == expected
    assert opened == []


def test_a_forked_process_reads_the_version_that_its_parent_has_open(db, table):
    permutation = Permutation.identity(table)
    expected = str(permutation.fetch(ASKED))
    other = db.open_table("points")
    other.delete("id < 500")
    assert in_a_fork(permutation) == expected
    table.checkout_latest()
    moved = Permutation.identity(table)
    assert in_a_fork(moved) == str(moved.fetch(ASKED)) != expected


@pytest.mark.soak
def test_a_table_that_is_checked_out_is_read_so_where_others_look_for_newer_versions(db, table):
    every_time = lancedb.connect(db.uri, read_consistency_interval=datetime.timedelta(0))
    table.delete("id < 500")
    old = every_time.open_table("points")
    old.checkout(1)
    permutations = [Permutation.identity(each) for each in (old, every_time.open_table("points"))]
    before, after = [str(each.fetch(ASKED)) for each in permutations]
    assert before != after
    assert [in_a_fork(each) for each in permutations] == [before, after]


def test_a_table_of_another_size_that_has_taken_the_place_is_an_error(db):
    table = db.create_table("anew", rows_of(100))
    made_anew, answers = FORK.Event(), FORK.Queue()

    def fetch(permutation):
        made_anew.wait(HANGS)
        with pytest.raises(RuntimeError, match="another of the same name was created"):
            permutation.fetch(ASKED)
        answers.put("refused")

    child = FORK.Process(target=fetch, args=(Permutation.identity(table),))
    child.start()
    db.drop_table("anew")
    db.create_table("anew", rows_of(90))
    made_anew.set()
    assert answers.get(timeout=HANGS) == "refused"
    child.join(60)


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
