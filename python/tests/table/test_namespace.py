# SPDX-License-Identifier: Apache-2.0
"""Tables of a namespace connection, at its root and further down."""

import pickle
import traceback

import lancedb
import pytest
from conftest import rows_of
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from lancedb.permutation import Permutation, permutation_builder
from torch.utils.data import ConcatDataset, DataLoader

MARK = "s3cr3t-mark"
PATHS = [[], ["team", "vision"]]


@pytest.fixture
def properties(tmp_path):
    return {"root": str(tmp_path / "root"), "storage.secret_access_key": MARK}


@pytest.fixture
def db(properties):
    db = lancedb.connect_namespace("dir", properties)
    db.create_namespace(["team"])
    db.create_namespace(["team", "vision"])
    for path in PATHS:
        table = db.create_table("points", rows_of(60), namespace_path=path)
        table.tags.create("first", 1)
        table.add(rows_of(40, 60))
    return db


@pytest.fixture(params=PATHS)
def table(request, db):
    """100 rows in two versions, the first of which is tagged."""
    return db.open_table("points", namespace_path=request.param)


def ids(dataset):
    return [row["id"] for row in dataset[:]]


def test_workers(db):
    tables = [db.open_table("points", namespace_path=path) for path in PATHS]
    datasets = [LanceTorchDataset(table, columns=["id"], unwrap=True) for table in tables]
    loader = DataLoader(
        ConcatDataset(datasets), batch_size=50, num_workers=2, multiprocessing_context="forkserver"
    )
    got = [id for batch in loader for id in batch["id"].tolist()]
    assert got == [*range(100)] * 2


def test_an_epoch_is_resumed_in_a_copy(table):
    dataset = LanceIterableTorchDataset(
        table, columns=["id"], format="torch", batch_size=10, shuffle=True
    )
    loader = LanceDataLoader(dataset)
    batches = iter(loader)
    first = next(batches)["id"].tolist()
    state = loader.state_dict()
    rest = [batch["id"].tolist() for batch in batches]
    copy = pickle.loads(pickle.dumps(dataset))
    copy.load_state_dict(state)
    assert [batch["id"].tolist() for batch in copy] == rest
    assert sorted([*first, *(id for batch in rest for id in batch)]) == list(range(100))


def test_rows_versions_and_branches(table):
    splits = permutation_builder(table).split_random(ratios=[0.9, 0.1], seed=0).execute()
    branch = table.branches.create("trial")
    branch.add(rows_of(1, 100))
    cases = [
        ({"table": table}, range(100)),
        ({"table": table, "version": 1}, range(60)),
        ({"table": table, "version": "first"}, range(60)),
        ({"table": table, "filter": "label = 3"}, range(3, 100, 7)),
        ({"table": Permutation.identity(table).with_take(7)}, range(7)),
        ({"table": branch}, range(101)),
    ]
    datasets = [LanceTorchDataset(**arguments) for arguments, _ in cases]
    parts = [LanceTorchDataset(table, permutation_table=splits, split=n) for n in (0, 1)]
    table.delete("id < 50")
    for dataset, (_, expected) in zip(datasets, cases, strict=True):
        assert ids(pickle.loads(pickle.dumps(dataset))) == list(expected)
    assert sorted(id for part in parts for id in ids(part)) == list(range(100))


class Factory:
    """Connects where it is called."""

    def __init__(self, root, path):
        self.root, self.path = root, path

    def __call__(self, name):
        db = lancedb.connect_namespace("dir", {"root": self.root})
        return db.open_table(name, namespace_path=self.path)


@pytest.mark.parametrize("path", PATHS)
def test_a_secret_property_is_not_shown_and_with_a_factory_not_pickled(db, properties, path):
    table = db.open_table("points", namespace_path=path)
    dataset = LanceTorchDataset(table)
    raw = pickle.dumps(dataset)
    assert len(raw) < 4096
    by_factory = LanceTorchDataset(table, connection_factory=Factory(properties["root"], path))
    assert MARK.encode() not in pickle.dumps(by_factory)
    assert ids(pickle.loads(pickle.dumps(by_factory))) == list(range(100))
    db.drop_table("points", namespace_path=path)
    shown = [repr(dataset), repr(vars(dataset))]
    with pytest.raises(ValueError, match="there is no table 'points' at namespace://dir") as caught:
        pickle.loads(raw)[0]
    shown += traceback.format_exception(caught.value)
    assert not [text for text in shown if MARK in text]
    assert "/".join(["namespace://dir", *path]) in shown[0]
