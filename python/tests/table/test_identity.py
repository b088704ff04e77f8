# SPDX-License-Identifier: Apache-2.0
"""A table that was dropped and created again, of the same name, version, schema and size."""

import copy
import io
import json
import pickle
import shutil

import lancedb
import pyarrow as pa
import pytest
import torch
from conftest import rows_of
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from lancedb.permutation import Permutation
from soak import FORKED, soaked
from torch.utils.data import DataLoader

ANEW = "is not the table that the dataset was made from"
ROWS = 400


def rows(start):
    return rows_of(ROWS, start).select(["id", "label", "vec"])


@pytest.fixture
def table(db):
    return db.create_table("t", rows(0))


def make_anew(db):
    db.drop_table("t")
    db.create_table("t", rows(7 * ROWS))


def iterable(table, **options):
    return LanceIterableTorchDataset(table, format="torch", batch_size=50, shuffle=True, **options)


def ids(batches):
    return [id for batch in batches for id in batch["id"].tolist()]


FILTERS = pytest.mark.parametrize("options", [{}, {"filter": "label = 1"}])


@FILTERS
@pytest.mark.parametrize("persistent", [False, True])
def test_between_two_epochs_with_workers(db, table, options, persistent):
    dataset = iterable(table, cache=False, drop_last=False, **options)
    loader = LanceDataLoader(dataset, num_workers=2, persistent_workers=persistent)
    first = sorted(ids(loader))
    assert len(first) == dataset.num_rows
    make_anew(db)
    assert gives_old_rows_or_says_why_not(loader, first)


def gives_old_rows_or_says_why_not(loader, rows):
    """The loader's own process reads: it may have the files open that were dropped, or not."""
    try:
        return sorted(ids(loader)) == rows
    except RuntimeError as error:
        return "its files are gone: the table was dropped" in str(error)


@pytest.mark.parametrize("options", [{}, soaked({"filter": "label = 1"})])
def test_between_two_epochs_with_workers_that_open_it(db, table, options):
    dataset = iterable(table, cache=False, drop_last=False, **options)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context="forkserver"
    )
    assert len(ids(loader)) == dataset.num_rows
    make_anew(db)
    with pytest.raises(RuntimeError, match=ANEW):
        ids(loader)


@pytest.mark.parametrize("context", FORKED)
def test_in_the_workers_of_a_plain_loader(db, table, context):
    dataset = LanceTorchDataset(table, format="torch")
    make_anew(db)
    loader = DataLoader(dataset, batch_size=50, num_workers=1, multiprocessing_context=context)
    with pytest.raises(RuntimeError, match=ANEW):
        next(iter(loader))


@pytest.mark.parametrize("make", [LanceTorchDataset, LanceIterableTorchDataset])
@pytest.mark.parametrize("options", [{}, {"columns": ["id"], "filter": "id > 3"}])
def test_in_a_dataset_that_is_unpickled(db, table, make, options):
    sent = pickle.dumps(make(table, **options))
    make_anew(db)
    with pytest.raises(RuntimeError, match=ANEW):
        next(iter(pickle.loads(sent)))


def test_a_permutation_is_known_too(db, table):
    sent = pickle.dumps(LanceTorchDataset(Permutation.identity(table)))
    make_anew(db)
    with pytest.raises(RuntimeError, match=ANEW):
        pickle.loads(sent)[0]


def by_saving(dataset):
    buffer = io.BytesIO()
    torch.save(dataset, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("send", [copy.copy, copy.deepcopy, by_saving])
def test_copies_know_it(db, table, send):
    sent = send(LanceTorchDataset(table))
    assert [row["id"] for row in sent[:]] == [*range(ROWS)]
    again = send(LanceTorchDataset(table))
    make_anew(db)
    with pytest.raises(RuntimeError, match=ANEW):
        again[0]


def test_on_a_branch(db, table):
    branch = table.branches.create("try/it")
    branch.add(rows(ROWS))
    sent = pickle.dumps(LanceTorchDataset(branch))
    assert len(pickle.loads(sent)[:]) == 2 * ROWS
    make_anew(db)
    other = db.open_table("t").branches.create("try/it")
    other.add(rows(ROWS))
    with pytest.raises(RuntimeError, match=ANEW):
        pickle.loads(sent)[0]


def test_an_overwritten_table_keeps_the_old_rows(db, table):
    dataset = iterable(table, cache=False)
    sent = pickle.dumps(LanceTorchDataset(table))
    loader = LanceDataLoader(dataset, num_workers=1)
    first = sorted(ids(loader))
    db.create_table("t", rows(7 * ROWS), mode="overwrite")
    assert sorted(ids(loader)) == first == [*range(ROWS)]
    assert len(pickle.loads(sent)[:]) == ROWS


def test_files_that_were_copied_are_the_same_table(tmp_path, db, table):
    sent = pickle.dumps(LanceTorchDataset(table))
    shutil.copytree(tmp_path / "db", tmp_path / "copy")
    shutil.rmtree(tmp_path / "db")
    shutil.copytree(tmp_path / "copy", tmp_path / "db")
    assert len(pickle.loads(sent)[:]) == ROWS


def test_a_state_goes_on_with_a_table_of_the_same_rows_elsewhere(tmp_path, table):
    loader = LanceDataLoader(iterable(table))
    batches = iter(loader)
    next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    rest = ids(batches)
    db = lancedb.connect(tmp_path / "elsewhere")
    other = LanceDataLoader(iterable(db.create_table("t", rows(0))))
    other.load_state_dict(state)
    assert ids(other) == rest


def test_manifest_names_of_both_kinds_are_found(db, table, tmp_path):
    dataset = LanceTorchDataset(table)
    identity = dataset._rows.view.recipe.identity
    assert identity is not None
    assert identity.kind == "manifest"
    (new,) = (tmp_path / "db" / "t.lance" / "_versions").glob("1844*.manifest")
    new.rename(new.with_name("1.manifest"))
    assert LanceTorchDataset(db.open_table("t"))._rows.view.recipe.identity == identity


def test_a_namespace(tmp_path):
    db = lancedb.connect_namespace("dir", {"root": str(tmp_path / "a root")})
    table = db.create_table("t", rows(0))
    sent = pickle.dumps(LanceTorchDataset(table))
    assert len(pickle.loads(sent)[:]) == ROWS
    make_anew(db)
    with pytest.raises(RuntimeError, match=ANEW):
        pickle.loads(sent)[0]


def test_a_table_in_memory_travels_with_its_rows():
    db = lancedb.connect("memory://")
    table = db.create_table("t", pa.table({"id": [1, 2, 3]}))
    sent = pickle.dumps(LanceTorchDataset(table))
    db.drop_table("t")
    db.create_table("t", pa.table({"id": [4, 5, 6]}))
    assert [row["id"] for row in pickle.loads(sent)[:]] == [1, 2, 3]
