# SPDX-License-Identifier: Apache-2.0
"""A dataset reads the version it was made from, wherever and however it is reopened."""

import datetime
import io
import pickle
import shutil
import traceback

import lancedb
import numpy as np
import pytest
from conftest import rows_of
from lancedb.integrations._torch.table.uris import is_local, normalize_uri, redact_uri
from lancedb.integrations.torch import LanceIterableTorchDataset, LanceTorchDataset
from lancedb.permutation import Permutation, permutation_builder
from torch.utils.data import DataLoader

MARK = "s3cr3t-mark"


def snapshot(dataset):
    return dataset.__getitems__(range(len(dataset)))


def write(table, how):
    """Change a table in one of the ways that people do."""
    if how == "append":
        table.add(rows_of(50, 5000))
    elif how == "delete":
        table.delete("id % 3 = 0")
    elif how == "update":
        table.update(where="id < 100", values={"label": 99})
    elif how == "merge":
        table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(
            rows_of(20, 990)
        )
    elif how == "optimize":
        table.delete("id < 10")
        table.optimize()
    elif how == "drop_columns":
        table.drop_columns(["text"])
    elif how == "add_columns":
        table.add_columns({"twice": "id * 2"})


WRITES = ["append", "delete", "update", "merge", "optimize", "drop_columns", "add_columns"]


@pytest.mark.few(3)
@pytest.mark.parametrize("how", WRITES)
def test_nothing_that_is_written_meanwhile_is_seen(table, how):
    order = permutation_builder(table).shuffle(seed=1).execute()
    datasets = [
        LanceTorchDataset(table, format="arrow"),
        LanceTorchDataset(table, format="arrow", filter="label = 3"),
        LanceTorchDataset(table, format="arrow", permutation_table=order),
        LanceTorchDataset(Permutation.identity(table), format="arrow"),
    ]
    before = [snapshot(dataset) for dataset in datasets]
    write(table, how)
    for dataset, rows in zip(datasets, before, strict=True):
        assert snapshot(dataset).equals(rows)
        assert snapshot(pickle.loads(pickle.dumps(dataset))).equals(rows)


def test_workers_read_on_while_the_parent_writes(table):
    dataset = LanceTorchDataset(table, columns=["id", "label"], format="torch")
    loader = DataLoader(
        dataset,
        batch_size=25,
        num_workers=2,
        multiprocessing_context="forkserver",
        prefetch_factor=1,
    )
    got = []
    for number, batch in enumerate(loader):
        got += zip(batch["id"].tolist(), batch["label"].tolist(), strict=True)
        if number % 5 == 0:
            write(table, WRITES[number // 5 % 5])
    assert got == [(i, i % 7) for i in range(1000)]


def test_version_takes_a_number_or_a_tag_and_is_resolved_once(table):
    first = table.version
    table.tags.create("training", first)
    table.delete("id >= 10")
    assert len(LanceTorchDataset(table)) == 10
    for version in (first, "training"):
        dataset = LanceTorchDataset(table, version=version)
        assert (len(dataset), dataset.version) == (1000, first)
    table.tags.update("training", table.version)
    assert len(dataset) == len(snapshot(dataset)) == 1000


@pytest.mark.parametrize("name", ["", " ", "no such", ".x", "a..b", "x.lock", "no", "/", "a/b"])
def test_a_name_that_is_no_tag_is_refused_with_the_way_to_the_tags(table, name):
    with pytest.raises(ValueError, match=r"there is no such tag\. table\.tags\.list"):
        LanceTorchDataset(table, version=name)


def test_a_handle_that_is_checked_out_gives_its_version(table):
    old = table.version
    table.delete("id >= 10")
    table.checkout(old)
    assert len(LanceTorchDataset(table)) == 1000


def test_a_permutation_tables_rows_are_read_from_the_version_it_was_made_of(table):
    order = permutation_builder(table).shuffle(seed=3).execute()
    made_of = table.version
    table.delete("id < 500")
    table.optimize()
    dataset = LanceTorchDataset(table, permutation_table=order, format="python_col")
    assert dataset.version == made_of
    assert sorted(snapshot(dataset)["id"]) == list(range(1000))


def test_a_version_that_was_cleaned_up_is_said_to_be_gone_and_how_to_keep_one(table):
    dataset = LanceTorchDataset(table)
    raw = pickle.dumps(dataset)
    write(table, "optimize")
    table.optimize(cleanup_older_than=datetime.timedelta(0), delete_unverified=True)
    with pytest.raises(ValueError, match=r"was cleaned up.*table\.tags\.create"):
        pickle.loads(raw)[0]


def test_a_tagged_version_survives_a_cleanup(table):
    table.tags.create("training", table.version)
    dataset = LanceTorchDataset(table, version="training", format="arrow")
    before = snapshot(dataset)
    write(table, "delete")
    with pytest.raises((OSError, RuntimeError), match="tag"):
        table.optimize(cleanup_older_than=datetime.timedelta(0), delete_unverified=True)
    assert snapshot(pickle.loads(pickle.dumps(dataset))).equals(before)


@pytest.mark.parametrize("opened", [True, False])
def test_a_table_that_was_dropped_says_so(db, table, opened):
    dataset = LanceTorchDataset(table)
    if opened:
        dataset[0]
    db.drop_table("points")
    with pytest.raises((ValueError, RuntimeError), match="points"):
        dataset[900]  # in a file that was not open yet: one that was open can still be read


def test_a_branch_is_kept(table):
    branch = table.branches.create("experiment")
    branch.add(rows_of(5, 2000))
    dataset = LanceTorchDataset(branch)
    assert "branch 'experiment'" in repr(dataset)
    assert len(snapshot(pickle.loads(pickle.dumps(dataset)))) == 1005
    assert len(LanceTorchDataset(table)) == 1000


class OnBranch:
    """A connection factory whose table is on a branch."""

    def __init__(self, uri):
        self.uri = uri

    def __call__(self, name):
        return lancedb.connect(self.uri).open_table(name, branch="experiment")


@pytest.fixture
def two_lines(db):
    """A table and a branch of it, at versions of the same number, and which ids each holds."""
    main = db.create_table("points", rows_of(5))
    branch = main.branches.create("experiment")
    branch.add(rows_of(5, 100))
    main.add(rows_of(5, 200))
    assert main.version == branch.version
    return {
        "main": (main, [*range(5), *range(200, 205)]),
        "branch": (branch, [*range(5), *range(100, 105)]),
    }


@pytest.mark.parametrize("how", ["table", "permutation", "uri", "factory"])
@pytest.mark.parametrize("handle", ["main", "branch"])
@pytest.mark.parametrize("made_of", ["main", "branch"])
def test_a_permutations_row_ids_are_read_on_the_branch_that_they_are_of(
    tmp_path, two_lines, made_of, handle, how
):
    source, ids = two_lines[made_of]
    base = two_lines[handle][0]
    order = permutation_builder(source).shuffle(seed=1).execute()
    factory = OnBranch(tmp_path / "db") if handle == "branch" else Factory(tmp_path / "db")
    arguments = {
        "table": {"table": base, "permutation_table": order},
        "permutation": {"table": Permutation.from_tables(base, order)},
        "uri": {"uri": tmp_path / "db", "table_name": "points", "permutation_table": order},
        "factory": {
            "table_name": "points",
            "connection_factory": factory,
            "permutation_table": order,
        },
    }[how]
    dataset = LanceTorchDataset(columns=None if how == "permutation" else ["id"], **arguments)
    for read in (dataset, pickle.loads(pickle.dumps(dataset))):
        assert sorted(row["id"] for row in snapshot(read)) == ids
    assert ("branch 'experiment'" in repr(dataset)) == (made_of == "branch")


@pytest.mark.parametrize("handle", ["main", "branch"])
def test_a_factory_stands_in_for_the_handle_that_is_given(tmp_path, two_lines, handle):
    table, ids = two_lines[handle]
    for factory in (Factory(tmp_path / "db"), OnBranch(tmp_path / "db")):
        dataset = LanceTorchDataset(table, columns=["id"], connection_factory=factory)
        assert [row["id"] for row in snapshot(pickle.loads(pickle.dumps(dataset)))] == ids


def test_a_version_given_with_a_permutation_table_has_to_be_the_one_that_it_is_of(table):
    table.tags.create("then", table.version)
    order = permutation_builder(table).shuffle(seed=1).execute()
    table.add(rows_of(10, 1000))
    table.tags.create("now", table.version)
    for version in (None, np.int64(3), "then"):
        assert len(LanceTorchDataset(table, permutation_table=order, version=version)) == 1000
    for version in (table.version, "now"):
        with pytest.raises(ValueError, match=f"version={version!r} contradicts .* of version 3;"):
            LanceTorchDataset(table, permutation_table=order, version=version)
    for version, error in (("no_tag", ValueError), (999, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="no such tag|does not exist|must be a tag, or a whole"):
            LanceTorchDataset(table, permutation_table=order, version=version)


def test_row_ids_of_a_memory_table_are_those_of_its_own_rows():
    table = lancedb.connect("memory://").create_table("points", rows_of(20))
    table.delete("id < 5")
    order = permutation_builder(table).filter("id < 12").execute()
    table.tags.create("then", table.version)
    table.delete("id = 7")
    cases = [
        ({"permutation_table": order}, list(range(5, 12))),
        ({"permutation_table": order, "version": "then", "filter": "id > 6"}, list(range(7, 12))),
        ({"version": "then"}, list(range(5, 20))),
        ({"filter": "id > 6"}, list(range(8, 20))),
    ]
    for arguments, expected in cases:
        dataset = LanceTorchDataset(table, columns=["id"], **arguments)
        for read in (dataset, pickle.loads(pickle.dumps(dataset))):
            assert [row["id"] for row in snapshot(read)] == expected
    permutation = Permutation.from_tables(table, order)
    assert [row["id"] for row in LanceTorchDataset(permutation)[:]] == list(range(5, 12))
    assert len(LanceTorchDataset(order)) == 7


def test_a_memory_table_travels_by_value():
    table = lancedb.connect("memory://").create_table("points", rows_of(30))
    dataset = LanceTorchDataset(table, columns=["id"], format="torch")
    table.add(rows_of(30, 30))
    loader = DataLoader(dataset, batch_size=10, num_workers=1, multiprocessing_context="spawn")
    assert [id for batch in loader for id in batch["id"].tolist()] == list(range(30))


def test_a_table_in_a_namespace(tmp_path):
    db = lancedb.connect_namespace("dir", {"root": str(tmp_path)})
    table = db.create_table("points", rows_of(20))
    dataset = LanceTorchDataset(table, columns=["id"])
    assert pickle.loads(pickle.dumps(dataset))[19] == [{"id": 19}]


def test_uri_and_table_name(tmp_path, table, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri in ("db", tmp_path / "db", f"file://{tmp_path}/db"):
        dataset = LanceTorchDataset(uri=uri, table_name="points")
        monkeypatch.chdir("/")
        assert len(pickle.loads(pickle.dumps(dataset))) == 1000
        monkeypatch.chdir(tmp_path)


class Factory:
    """Opens a table of the database it was made for; has a secret that it does not pickle."""

    def __init__(self, uri):
        self.uri = uri

    def __call__(self, name):
        return lancedb.connect(self.uri).open_table(name)


def test_a_connection_factory_opens_the_pinned_version(tmp_path, table):
    factory = Factory(tmp_path / "db")
    for dataset in (
        LanceTorchDataset(table_name="points", connection_factory=factory),
        LanceTorchDataset(table, connection_factory=factory),
    ):
        rows = snapshot(dataset)
        table.add(rows_of(1, 7000))
        assert snapshot(pickle.loads(pickle.dumps(dataset))) == rows


def test_a_factory_that_returns_no_table_is_refused(table):
    with pytest.raises(TypeError, match="must return a LanceDB table.*'points'.*returned str"):
        LanceTorchDataset(table_name="points", connection_factory=str)


def test_no_secret_is_shown(tmp_path, table):
    secrets = {"storage_options": {"aws_secret_access_key": MARK}}
    dataset = LanceTorchDataset(uri=tmp_path / "db", table_name="points", connect_kwargs=secrets)
    assert MARK not in repr(dataset)
    assert MARK not in repr(vars(dataset))
    shutil.rmtree(tmp_path / "db" / "points.lance")
    with pytest.raises((ValueError, RuntimeError)) as caught:
        dataset[0]
    assert all(MARK not in text for text in traceback.format_exception(caught.value))


def test_with_a_factory_no_credential_is_pickled(tmp_path, table):
    db = lancedb.connect(tmp_path / "db", storage_options={"aws_secret_access_key": MARK})
    opened = db.open_table("points")
    dataset = LanceTorchDataset(opened, connection_factory=Factory(tmp_path / "db"))
    dataset[0]
    assert MARK.encode() not in pickle.dumps(dataset)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://key:secret@bucket/path?token=x", "s3://bucket/path"),
        ("db://name", "db://name"),
        ("/tmp/a b", "/tmp/a b"),
        ("C:\\data", "C:\\data"),
    ],
)
def test_a_uri_is_shown_without_what_hides_in_it(uri, shown):
    assert redact_uri(uri) == shown


def test_only_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert normalize_uri("db") == str(tmp_path / "db")
    assert normalize_uri("s3://bucket/db") == "s3://bucket/db"
    assert is_local("C:\\data")
    assert np.array([is_local("memory://"), is_local("gs://x")]).sum() == 0


class Named(pickle.Unpickler):
    """Loads a pickle, and notes what of which module it asks for."""

    def __init__(self, raw):
        super().__init__(io.BytesIO(raw))
        self.names = set()

    def find_class(self, module, name):
        self.names.add(f"{module}.{name}")
        return super().find_class(module, name)


OURS = ("lancedb.integrations._torch.", "lancedb.integrations.torch.")
# Of tensors: the shared epoch, and the offsets of chosen rows.
OF_TORCH = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
}


def of_table(table):
    return LanceTorchDataset(table, columns=["id"])


def of_chosen_rows(table):
    return LanceTorchDataset(table, filter="id > 3", format="torch", fill_null={"id": 1})


def of_a_split(table):
    rows = permutation_builder(table).split_random(ratios=[0.5, 0.5]).execute()
    return LanceTorchDataset(table, permutation_table=rows, split=0)


def of_a_place(table):
    return LanceTorchDataset(uri=table._conn.uri, table_name="points", version=1)


def shuffled(table):
    return LanceIterableTorchDataset(table, format="torch", shuffle=True, on_error="raise")


@pytest.mark.parametrize("make", [of_table, of_chosen_rows, of_a_split, of_a_place, shuffled])
def test_a_pickle_asks_for_the_packages_own_classes_and_torchs_tensors_alone(table, make):
    dataset = make(table)
    dataset.__getitems__([0]) if make is not shuffled else next(iter(dataset))
    loaded = Named(pickle.dumps(dataset))
    assert loaded.load().num_rows == dataset.num_rows
    others = {name for name in loaded.names if not name.startswith(OURS)}
    assert others <= OF_TORCH


def test_a_transform_that_a_format_replaces_does_not_travel(table):
    rows = Permutation.identity(table).with_transform(lambda batch: batch)
    dataset = pickle.loads(pickle.dumps(LanceTorchDataset(rows, format="torch")))
    assert dataset.__getitems__([3]).columns["id"].tolist() == [3]


@pytest.mark.parametrize("kind", [LanceTorchDataset, LanceIterableTorchDataset])
def test_the_batch_size_of_a_permutation_holds_unless_another_is_given(table, kind):
    rows = Permutation.identity(table).with_batch_size(7)
    assert kind(rows).batch_size == 7
    assert kind(rows, batch_size=9).batch_size == 9
    assert kind(table).batch_size == 100


@pytest.mark.parametrize("kind", [LanceTorchDataset, LanceIterableTorchDataset])
def test_a_table_in_the_legacy_file_version_says_how_to_rewrite_it(db, kind):
    options = {"new_table_data_storage_version": "legacy"}
    table = db.create_table("legacy", rows_of(200), storage_options=options)
    with pytest.raises(RuntimeError, match=r"legacy file version.*create_table"):
        next(iter(kind(table)))
    with pytest.raises(RuntimeError) as failed:
        Permutation.identity(table).fetch([3])
    said = "".join(traceback.format_exception(failed.value))
    assert "table 'legacy': it is in Lance's legacy file version" in said
    rewritten = db.create_table("new", table.to_arrow())
    assert len(LanceTorchDataset(rewritten)[:]) == 200
