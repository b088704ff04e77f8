# SPDX-License-Identifier: Apache-2.0
"""``blobs="file"``: a seekable file a row, opened in whichever process reads it."""

import io
import os
import pickle

import lancedb
import pyarrow as pa
import pytest
from cloud_server import CloudServer
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from lancedb.schema import blob
from soak import FORKED
from torch.utils.data import ConcatDataset, DataLoader

ROWS = 40
SCHEMA = pa.schema([pa.field("id", pa.int64()), blob("data")])


def value(number):
    """The blob of a row: None, empty, and up to half a megabyte."""
    return None if number % 7 == 3 else bytes(range(number)) * (number % 5) * 1000


@pytest.fixture
def table(db):
    table = db.create_table("clips", schema=SCHEMA)
    table.add([{"id": n, "data": value(n)} for n in range(ROWS)])
    return table


def contents(files):
    return [None if file is None else file.read() for file in files]


def read_all(batch):
    return {"id": batch["id"], "data": contents(batch["data"])}


def check(batches, read=True):
    ids = []
    for batch in batches:
        numbers = batch["id"].tolist()
        data = contents(batch["data"]) if read else batch["data"]
        assert data == [value(number) for number in numbers]
        ids += numbers
    return sorted(ids)


def column_of(batch, format):
    if format == "python":
        return [row["data"] for row in batch]
    if format == "numpy":
        return list(batch[:, 1])
    return batch["data"].to_pylist() if format == "arrow" else list(batch["data"])


FORMATS = ["python", "python_col", "numpy", "pandas", "polars", "arrow", "torch"]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_files(table, format):
    batch = LanceTorchDataset(table, blobs="file", format=format).__getitems__([5, 3, -1, 0, 5])
    found = column_of(batch.columns if format == "torch" else batch, format)
    assert contents(found) == [value(n) for n in [5, 3, ROWS - 1, 0, 5]]


def test_a_transform_of_record_batches_has_files(table):
    def transform(batch):
        return contents(batch["data"].to_pylist())

    dataset = LanceIterableTorchDataset(table, blobs="file", transform=transform, batch_size=10)
    assert [data for batch in dataset for data in batch] == list(map(value, range(ROWS)))


@pytest.mark.parametrize("format", ["torch_row", "torch_col"])
def test_formats_of_numbers_alone_refuse_them(table, format):
    with pytest.raises(ValueError, match="column 'data' .* has no place"):
        LanceTorchDataset(table, blobs="file", format=format)


def test_it_is_a_file(table):
    file = LanceTorchDataset(table, blobs="file")[34][0]["data"]
    data = value(34)
    assert file.size == len(data)
    assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
    assert (file.seek(-5, io.SEEK_END), file.read()) == (len(data) - 5, data[-5:])
    assert (file.read(3), file.read()) == (b"", b"")
    assert (file.seek(10), file.seek(5, io.SEEK_CUR), file.tell()) == (10, 15, 15)
    assert file.read(7) == data[15:22]
    buffer = bytearray(4)
    assert file.readinto(buffer) == 4
    assert buffer == data[22:26]
    assert (file.seek(len(data) + 100), file.read(5)) == (len(data) + 100, b"")
    assert file.bytes_read < 30
    with pytest.raises(ValueError, match="nothing before the beginning"):
        file.seek(-1)
    buffered = io.BufferedReader(file, 1000)
    buffered.seek(500)
    assert buffered.read(200) == data[500:700]


def test_one_that_was_closed_says_so_and_another_is_not_closed_with_it(table):
    first, second = (LanceTorchDataset(table, blobs="file")[34][0]["data"] for _ in range(2))
    with first:
        first.read(1)
    assert "data of table 'clips', version 2" in repr(first)
    assert "closed" in repr(first)
    with pytest.raises(ValueError, match=r"BlobFile.*was closed"):
        first.read(1)
    assert second.read() == value(34)


def test_it_is_small_to_send_and_goes_on_where_it_was(table):
    dataset = LanceTorchDataset(table, blobs="file")
    files = [row["data"] for row in dataset[30:]]
    files[0].seek(100)
    sent = pickle.dumps(files[0])
    assert len(sent) < 4096
    assert pickle.loads(sent).read(3) == value(30)[100:103]
    del dataset
    assert contents(pickle.loads(pickle.dumps(files[1:]))) == [value(n) for n in range(31, ROWS)]


@pytest.mark.parametrize("context", FORKED)
def test_files_that_workers_read_and_files_that_they_send(table, context):
    """In forked workers through a process of their own; others import lancedb at the first read."""
    options = {"blobs": "file", "format": "torch", "batch_size": 10, "shuffle": True}
    for transform in (read_all, None):
        dataset = LanceIterableTorchDataset(table, transform=transform, **options)
        loader = LanceDataLoader(dataset, num_workers=1, multiprocessing_context=context)
        assert check(loader, read=transform is None) == list(range(ROWS))
    dataset = LanceTorchDataset(table, blobs="file", format="torch", transform=read_all)
    loader = DataLoader(dataset, batch_size=20, num_workers=1, multiprocessing_context=context)
    assert check(loader, read=False) == list(range(ROWS))


def test_older_versions_deletes_filters_and_caches(table):
    old = LanceTorchDataset(table, blobs="file", cache=True)
    table.delete("id % 2 = 0")
    table.optimize()
    assert contents(row["data"] for row in old[:]) == list(map(value, range(ROWS)))
    new = LanceTorchDataset(table, blobs="file", filter="id > 9", columns={"x": "data", "i": "id"})
    assert {row["i"]: row["x"] and row["x"].read() for row in new[:]} == {
        n: value(n) for n in range(11, ROWS, 2)
    }


def test_the_schema_and_the_order_of_columns(table):
    dataset = LanceIterableTorchDataset(table, blobs="file", columns=["data", "id"])
    assert dataset.schema.names == ["data", "id"]
    assert "blob_file" in str(dataset.schema.field("data").type)
    assert pickle.loads(pickle.dumps(dataset)).schema.field("id").type == pa.int64()


def test_two_tables_by_concatenation_alone(db, table):
    other = db.create_table("other", schema=SCHEMA)
    other.add([{"id": 1, "data": b"other"}])
    parts = [LanceTorchDataset(each, blobs="file", unwrap=True) for each in (table, other)]
    rows = ConcatDataset(parts)
    assert [rows[n]["data"].read() for n in (1, ROWS)] == [value(1), b"other"]
    with pytest.raises(ValueError, match=r"blobs='file' \('data'\) are not joined"):
        parts[0] + parts[1]


def test_a_table_in_memory_has_files():
    table = lancedb.connect("memory://").create_table("clips", schema=SCHEMA)
    table.add([{"id": n, "data": value(n)} for n in range(10)])
    dataset = LanceIterableTorchDataset(table, blobs="file", format="torch", batch_size=5)
    assert check(dataset) == list(range(10))


def test_what_cannot_be_read_names_the_blob_and_the_table(table, tmp_path):
    file = LanceTorchDataset(table, blobs="file")[34][0]["data"]
    for folder, _, files in os.walk(tmp_path):
        for name in files if ".lance" in folder else []:
            os.remove(os.path.join(folder, name))
    with pytest.raises((RuntimeError, ValueError), match=r"clips.*"):
        file.read(1)


@pytest.mark.parametrize("blobs", ["bytes", "file"])
def test_lancedb_cloud_is_refused_where_the_dataset_is_made(tmp_path, blobs):
    table = lancedb.connect(tmp_path / "served").create_table("clips", schema=SCHEMA)
    table.add([{"id": 1, "data": b"one"}])
    server = CloudServer(tmp_path / "served", "sk_key")
    try:
        remote = server.connect().open_table("clips")
        with pytest.raises(ValueError, match="LanceDB Cloud gives no bytes of blobs"):
            LanceTorchDataset(remote, blobs=blobs)
        assert LanceTorchDataset(remote, columns=["id"])[:] == [{"id": 1}]
    finally:
        server.stop()
