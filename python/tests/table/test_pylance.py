# SPDX-License-Identifier: Apache-2.0
"""pylance reads the rows that lancedb reads, of every table, and says when it does not."""

import logging
import subprocess
import sys

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import s3_server
from arrow_strategies import record_batches
from conftest import rows_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.table import pylance
from lancedb.integrations.torch import LanceIterableTorchDataset, LanceTorchDataset
from lancedb.schema import blob
from limits import HANGS

SWITCH = "LANCEDB_TORCH_PYLANCE"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Small tables are worth opening, too."""
    monkeypatch.setattr(pylance, "_WORTH_OPENING", 0)


def read_twice(table, rows, reads_by, **arguments):
    """Rows as a dataset reads them, once what reads them is decided."""
    dataset = LanceTorchDataset(table, format="arrow", cache=False, **arguments)
    dataset[[0]]
    read = dataset[rows]
    assert dataset.stats()["reader"] == reads_by, dataset
    return read


def by_both(table, rows, **arguments):
    """The same rows through pylance and through lancedb alone."""
    by_pylance = read_twice(table, rows, "pylance", **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        return by_pylance, read_twice(table, rows, "lancedb", **arguments)


def assert_same(table, rows, **arguments):
    ours, theirs = by_both(table, rows, **arguments)
    assert ours.schema.equals(theirs.schema, check_metadata=True)
    # Not by equals(), for which a NaN is another one.
    assert ours.to_pylist() == theirs.to_pylist() or ours.equals(theirs)
    assert ours.num_rows == len(rows)


@given(data=st.data())
@settings(max_examples=15)
def test_rows_of_every_type_are_the_same(tmp_path_factory, data):
    first = data.draw(record_batches(min_rows=3, max_rows=12, nulls=True))
    first = first.append_column("id", pa.array(range(first.num_rows)))
    db = lancedb.connect(tmp_path_factory.mktemp("db"))
    table = db.create_table("t", pa.Table.from_batches([first]))
    for _ in range(data.draw(st.integers(0, 2))):
        try:
            table.add(pa.Table.from_batches([first]))
        except RuntimeError:
            assume(False)  # Lance panics where it writes some maps in structs
    gone = data.draw(st.sets(st.sampled_from(range(1, first.num_rows)), max_size=3))
    if gone:
        table.delete(f"id in ({', '.join(map(str, gone))})")
    version = data.draw(st.sampled_from([each["version"] for each in table.list_versions()]))
    table.checkout(version)
    count = table.count_rows()
    if count:
        rows = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=20))
        assert_same(table, rows, version=version)


@pytest.fixture
def changed(table):
    """A table of several fragments and versions, a tag, a branch, and rows that are gone."""
    table.tags.create("before", table.version)
    table.delete("id % 3 = 0 or (id > 350 and id < 450)")
    table.update(where="id = 7", values={"text": "changed"})
    table.merge_insert("id").when_not_matched_insert_all().execute(rows_of(50, 2000))
    return table


ROWS = [5, 0, 300, 301, 302, 5, 17, 499]


def test_rows_of_versions_and_tags_are_the_same(changed):
    assert_same(changed, ROWS)
    assert_same(changed, [999, *ROWS], version="before")
    assert_same(changed, ROWS, version=changed.version - 1)


def test_rows_of_a_branch_are_the_same(changed):
    branch = changed.branches.create("other")
    branch.add(rows_of(10, 5000))
    branch.delete("id = 1")
    last = branch.count_rows() - 1
    assert_same(branch, [last, 0, 1, last - 12])


@pytest.mark.parametrize(
    "columns",
    [
        ["vec", "id"],
        {"a b": "id", "vec": "vec"},
        {"double": "id * 2", "x": "CAST(label AS DOUBLE)", "up": "upper(text)"},
        ["_rowid", "id", "_rowoffset"],
        {"third": "id % 3"},
    ],
    ids=["order", "renamed", "sql", "row ids", "expression"],
)
def test_columns_are_the_same(changed, columns):
    assert_same(changed, ROWS, columns=columns)


def test_quoted_names_and_fields_of_structs_are_the_same(db):
    rows = [{"CaSe": n, "a b": f"{n}", "s": {"p": n, "q": {"r": [n] * n}}} for n in range(9)]
    table = db.create_table("t", rows)
    assert_same(table, [8, 3, 3], columns=["CaSe", "a b", "s.p", "s.q.r", "s"])
    assert_same(table, [8, 3, 3], columns={"x": "`CaSe` + 1", "y": "`a b`"})


def test_blobs_are_the_same(db):
    table = db.create_table("b", schema=pa.schema([pa.field("id", pa.int64()), blob("data")]))
    table.add([{"id": n, "data": bytes([n]) * n * 5000 if n % 4 else None} for n in range(30)])
    table.delete("id = 2")
    assert_same(table, [28, 1, 1, 2, 3])
    assert_same(table, [28, 1, 1, 2, 3], blobs="descriptor")


def test_rows_of_a_folder_with_an_odd_name_are_the_same(tmp_path):
    table = lancedb.connect(tmp_path / "a b%20#ü").create_table("t", rows_of(50))
    assert_same(table, [49, 0])


def test_rows_in_an_object_store_are_the_same(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with s3_server.serving() as s3:
        db = lancedb.connect(s3_server.URI, storage_options=s3.storage_options)
        table = db.create_table("points", rows_of(300))
        table.delete("id < 10")
        assert_same(table, [5, 289, 0, 100])


@pytest.mark.parametrize("shuffle", [True, "global"])
def test_batches_are_the_same(table, shuffle, monkeypatch):
    def batches():
        dataset = LanceIterableTorchDataset(
            table, format="arrow", batch_size=64, shuffle=shuffle, cache=False, block_rows="auto"
        )
        return [batch["id"].to_pylist() for batch in dataset], dataset.stats()["reader"]

    with_pylance = batches()
    monkeypatch.setenv(SWITCH, "0")
    assert (with_pylance[1], batches()) == ("pylance", (with_pylance[0], "lancedb"))


def test_what_reads_is_said(table, monkeypatch):
    assert "reader='pylance'" in repr(LanceTorchDataset(table))
    monkeypatch.setenv(SWITCH, "0")
    assert "reader='lancedb'" in repr(LanceTorchDataset(table))
    memory = lancedb.connect("memory://").create_table("m", [{"x": 1}])
    monkeypatch.delenv(SWITCH)
    assert "reader='lancedb'" in repr(LanceTorchDataset(memory))


def test_a_table_that_pylance_refuses_is_read_by_lancedb_which_says_why(table, monkeypatch, caplog):
    def refused(table):
        raise OSError("a feature flag of a later version")

    monkeypatch.setattr(pylance, "_open", refused)
    caplog.set_level(logging.DEBUG, "lancedb.integrations.torch")
    dataset = LanceTorchDataset(table, cache=False)
    assert [row["id"] for row in dataset[[3, 1]]] == [3, 1]
    assert [row["id"] for row in dataset[[999, 1]]] == [999, 1]
    assert dataset.stats()["reader"] == "lancedb"
    assert "pylance refuses it: a feature flag of a later version" in caplog.text


def test_files_that_are_gone_fail_with_lancedb_s_words(table, tmp_path, caplog):
    dataset = LanceTorchDataset(table, cache=False)
    dataset[[0]]
    for file in (tmp_path / "db" / "points.lance" / "data").iterdir():
        file.unlink()
    with pytest.raises(RuntimeError, match="its files are gone: the table was dropped"):
        dataset[np.arange(0, 1000, 3)]


EXIT = """
import sys
import lancedb
from lancedb.integrations._torch.table import pylance
pylance._WORTH_OPENING = 0
from lancedb.integrations.torch import LanceIterableTorchDataset, LanceTorchDataset
from torch.utils.data import DataLoader
table = lancedb.connect(sys.argv[1]).open_table("points")
mapped = LanceTorchDataset(table, format="torch", cache=False)
mapped[[0]], mapped[[1]]
forked = DataLoader(mapped, batch_size=500, num_workers=1, multiprocessing_context="fork")
print([batch["id"].sum().item() for batch in forked])
dataset = LanceIterableTorchDataset(table, batch_size=10, shuffle="global", cache=False)
batches = iter(dataset)
next(batches), next(batches)
print(dataset.stats()["reader"])
"""


@pytest.mark.soak
def test_forked_workers_read_and_the_interpreter_exits_with_reads_under_way(table):
    command = [sys.executable, "-W", "ignore:lancedb fork", "-c", EXIT, table._conn.uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    assert (done.returncode, done.stdout) == (0, "[124750, 374750]\npylance\n"), done.stderr
    assert "fork-safe" not in done.stderr
