# SPDX-License-Identifier: Apache-2.0
"""A few rows say how large a row is and which data this is, also where some rows are very large."""

import pyarrow as pa
import pytest
from conftest import record_reads
from lancedb.integrations._torch.table import sample
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset


def row_bytes(table):
    return sample.average_row_bytes(LanceIterableTorchDataset(table)._rows.new_reader())


@pytest.mark.parametrize("place", [0, -1])
def test_a_large_row_at_the_beginning_or_the_end_does_not_decide(db, place):
    texts = ["x" * 10] * 5000
    texts[place] = "x" * 2_000_000
    assert row_bytes(db.create_table("uneven", pa.table({"text": texts}))) < 100


def test_a_large_row_among_those_looked_at_counts_as_one_of_many(db):
    texts = ["x" * 10] * 3200
    texts[100] = "x" * 2_000_000  # the middle of the first sixteenth
    assert row_bytes(db.create_table("uneven", pa.table({"text": texts}))) < 10_000


def test_of_large_rows_sixteen_are_enough(db, monkeypatch):
    table = db.create_table("images", pa.table({"image": [bytes(100_000)] * 100}))
    dataset = LanceIterableTorchDataset(table)
    read = record_reads(monkeypatch, lambda reader, rows: len(rows))
    assert sample.average_row_bytes(dataset._rows.new_reader()) == pytest.approx(100_000, rel=0.01)
    assert read == [16]


def text_of(numbers):
    return "".join(map(chr, numbers))


@pytest.mark.parametrize(
    ("kind", "value_of"),
    [
        (pa.binary(), bytes),
        (pa.large_binary(), bytes),
        (pa.string(), text_of),
        (pa.large_string(), text_of),
        (pa.list_(pa.int8()), list),
        (pa.large_list(pa.int8()), list),
        (pa.list_(pa.int8(), 1200), list),
    ],
    ids=lambda of: str(of) if isinstance(of, pa.DataType) else of.__name__,
)
def test_of_large_values_the_beginnings_tell_tables_apart(db, monkeypatch, kind, value_of):
    monkeypatch.setattr(sample, "_MUCH_TO_SHOW", 100)
    prints = []
    for name, first in (("one", 1), ("same", 1), ("other", 2)):
        value = value_of([first, *range(100), *[3] * 1099])
        column = pa.array([value, None, value], kind)
        table = db.create_table(name, pa.table({"x": column}))
        prints.append(LanceIterableTorchDataset(table)._rows.describe()["fingerprint"])
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.filterwarnings("error", "ignore:this dataset is empty")
def test_a_table_without_rows_is_sampled_in_silence(db):
    empty = db.create_table("empty", schema=pa.schema([("text", pa.string())]))
    loader = LanceDataLoader(LanceIterableTorchDataset(empty, format="torch", shuffle=True))
    assert list(loader) == []
