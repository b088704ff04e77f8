# SPDX-License-Identifier: Apache-2.0
"""Tables that go away under a running epoch, disks that are full, code of the user's that fails."""

import os
import pickle
import shutil
import traceback
from datetime import timedelta

import lancedb
import pytest
import torch
from conftest import rows_of
from lancedb.integrations._torch.common import error_notes
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from soak import soaked
from torch.utils.data import DataLoader

WORKERS = pytest.mark.parametrize("workers", [0, 1])
ORDERS = {
    "none": {"shuffle": False},
    "block": {"shuffle": True, "block_rows": 8, "window_rows": 256, "lanes": 8},
    "global": {"shuffle": "global", "cache": False},
}


def iterable(table, order="block", workers=0, started=None, **options):
    options = {"columns": ["id", "vec"], "format": "torch", "batch_size": 100, **options}
    dataset = LanceIterableTorchDataset(table, **ORDERS[order], **options)
    return LanceDataLoader(dataset, num_workers=workers, **(started or {}))


def mapped(table, workers=0, started=None, **options):
    dataset = LanceTorchDataset(
        table, columns=["id", "vec"], format="torch", cache=False, **options
    )
    options = {"batch_size": 100, "shuffle": True, **(started or {})}
    return LanceDataLoader(dataset, num_workers=workers, **options)


def run(loader):
    return [batch["id"].tolist() for batch in loader]


# -- the table goes away -------------------------------------------------------------------------


def drop(db, table):
    db.drop_table("many")


def delete_files(db, table):
    shutil.rmtree(f"{db.uri}/many.lance/data")


def clean_up(db, table):
    table.delete("id % 2 = 0")
    table.add(rows_of(3).select(["id", "label", "vec"]))
    table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)


def read_without_uring(worker):
    os.environ["LANCEDB_TORCH_IO_URING"] = "0"


LOSSES = pytest.mark.parametrize("lose", [drop, delete_files, clean_up])


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("lose", "order", "workers"),
    [
        (drop, "none", 1),
        (drop, "block", 0),
        (drop, "mapped", 0),
        (delete_files, "block", 1),
        (delete_files, "global", 0),
        (delete_files, "mapped", 1),
        (clean_up, "none", 0),
        (clean_up, "global", 1),
        (clean_up, "mapped", 1),
    ],
)
def test_a_table_lost_in_mid_epoch_is_named_with_its_version_and_rows(
    db, wide_range, lose, order, workers, monkeypatch
):
    # Through io_uring files are kept open for a while, and what was lost can still be read.
    monkeypatch.setenv("LANCEDB_TORCH_IO_URING", "0")
    make = mapped if order == "mapped" else iterable
    options = {} if order == "mapped" else {"order": order}
    started = {"worker_init_fn": read_without_uring} if workers else {}
    whole = run(make(wide_range, **options))
    loader = make(wide_range, workers=workers, started=started, **options)
    version, batches, got = wide_range.version, iter(loader), []
    got.append(next(batches)["id"].tolist())
    lose(db, wide_range)
    with pytest.raises(RuntimeError) as caught:
        got.extend(batch["id"].tolist() for batch in batches)
    said = str(caught.value)
    assert f"table 'many', version {version}" in said
    assert "reading " in said
    assert "offsets " in said
    assert "files are gone: the table was dropped, or dropped and made anew" in said
    assert "table.tags.create('training', version)" in said
    assert got == whole[: len(got)]
    assert loader.state_dict()["position"] == 100 * len(got)


@LOSSES
def test_a_process_that_opens_a_lost_table_names_it(db, wide_range, lose):
    raw = pickle.dumps(LanceTorchDataset(wide_range))
    lose(db, wide_range)
    with pytest.raises(
        (ValueError, RuntimeError), match=r"no table 'many'|table 'many'.*cleaned up"
    ):
        pickle.loads(raw)[0]


# -- the disk is full ------------------------------------------------------------------------------


@pytest.mark.few(1)
@WORKERS
@pytest.mark.parametrize("make", [iterable, soaked(mapped)])
def test_a_checkpoint_that_does_not_fit_on_the_disk_changes_nothing(
    tmp_path, wide_range, make, workers
):
    whole = run(make(wide_range))
    loader, got, states = make(wide_range, workers=workers), [], []
    for batch in loader:
        got.append(batch["id"].tolist())
        before = loader.state_dict()
        if len(got) % 20 == 1:
            # A device that is always full; the error is torch's or the system's own.
            with pytest.raises((OSError, RuntimeError)):
                torch.save({"loader": before, "model": torch.zeros(1 << 16)}, "/dev/full")
            states.append((len(got), before))
        assert loader.state_dict() == before
    assert got == whole
    for done, state in states:
        torch.save(state, tmp_path / "checkpoint.pt")
        loader.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
        assert whole[:done] + run(loader) == whole


# -- the user's code fails -------------------------------------------------------------------------


class BrokenRow(Exception):
    """An error of the user's own."""


def decode_the_image(columns):
    if 7 in columns["id"]:
        raise BrokenRow("cannot decode")
    return columns


@pytest.mark.parametrize(
    ("order", "workers"),
    [("none", 0), ("block", 1), ("global", 0), ("mapped", 0), ("mapped", 1)],
)
def test_an_error_in_a_transform_comes_with_its_traceback_table_and_offsets(table, order, workers):
    if order == "mapped":
        loader = mapped(table, workers, transform=decode_the_image)
    else:
        loader = iterable(table, order, workers, transform=decode_the_image)
    with pytest.raises(BrokenRow) as caught:
        run(loader)
    text = "".join(traceback.format_exception(caught.value))
    assert "in decode_the_image" in text
    assert 'raise BrokenRow("cannot decode")' in text
    assert f"of table 'points', version {table.version}" in text
    rows = text.partition(": rows [")[2].partition("]")[0]
    assert rows
    shown = {int(row) for row in rows.split(", ")}
    expected = next(batch for batch in in_order(table, order) if 7 in batch)
    assert shown == set(expected[:8])
    assert "and 92 more" in text


def in_order(table, order):
    """The batches of the first epoch."""
    return run(mapped(table) if order == "mapped" else iterable(table, order))


class OpensHere:
    """A connection factory that works in the process it was made in, and nowhere else."""

    def __init__(self, uri):
        self.uri = uri
        self.travelled = False

    def __setstate__(self, state):
        self.__dict__.update(state, travelled=True)

    def __call__(self, name):
        if self.travelled:
            raise PermissionError("no credentials in this process")
        return lancedb.connect(self.uri).open_table(name)


@pytest.mark.parametrize("make", [mapped])  # workers of the other open no table
def test_an_error_in_a_connection_factory_comes_with_its_traceback_and_table(db, table, make):
    loader = make(None, workers=1, connection_factory=OpensHere(db.uri), table_name="points")
    with pytest.raises(PermissionError) as caught:
        run(loader)
    text = "".join(traceback.format_exception(caught.value))
    assert "no credentials in this process" in text
    assert "in __call__" in text
    assert f"'points', version {table.version} at connection_factory OpensHere" in text


def test_a_plain_data_loader_shows_them_as_well(table):
    dataset = LanceTorchDataset(table, format="torch", transform=decode_the_image)
    loader = DataLoader(dataset, batch_size=10, num_workers=1, multiprocessing_context="forkserver")
    with pytest.raises(BrokenRow, match=r"rows \[0, 1, 2, 3, 4, 5, 6, 7\] and 2 more of table"):
        list(loader)


@pytest.mark.parametrize("add", [error_notes.add_note, error_notes.chain])
def test_what_is_added_to_an_error_stands_in_its_traceback_on_every_python(add):
    def fail():
        try:
            raise LookupError("the cause")
        except LookupError as cause:
            raise BrokenRow("the error") from cause

    with pytest.raises(BrokenRow) as caught:
        fail()
    add(caught.value, "rows [1] of table 'points'")
    text = "".join(traceback.format_exception(caught.value))
    for said in ("the cause", "the error", "rows [1] of table 'points'", "in fail"):
        assert said in text
    assert (caught.value.args, str(caught.value)) == (("the error",), "the error")
