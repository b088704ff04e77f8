# SPDX-License-Identifier: Apache-2.0
"""Datasets that are joined: ``a + b`` by the batch, and torch's own classes row by row."""

import pickle

import pyarrow as pa
import pytest
import torch
from conftest import record_reads, rows_of
from lancedb.integrations.torch import LanceDataLoader, LanceTorchDataset
from loaders import through_json
from soak import FORKED
from torch.utils.data import ConcatDataset, DataLoader, Dataset, StackDataset, Subset, random_split

COLUMNS = ["id", "vec", "text", "tokens"]


@pytest.fixture
def two(db):
    """Tables of 300 rows from 0 on and 200 from 1,000 on."""
    return db.create_table("a", rows_of(300)), db.create_table("b", rows_of(200, 1000))


def joined(two, **options):
    a, b = (LanceTorchDataset(each, **{"format": "torch", **options}) for each in two)
    return a, b


def ids(batches):
    return [row for batch in batches for row in batch["id"].tolist()]


ALL = [*range(300), *range(1000, 1200)]


def plain(batch):
    return {
        name: [row.tolist() for row in column.unbind()] if hasattr(column, "unbind") else column
        for name, column in batch.items()
    }


def test_a_sum_of_datasets_has_the_rows_of_both(two):
    a, b = joined(two, columns=COLUMNS)
    both = a + b
    assert isinstance(both, LanceTorchDataset)
    assert len(both) == 500
    assert ids(DataLoader(both, 64)) == ALL
    assert [int(row["id"]) for row in both[[499, 0, -201, 0]]] == [1199, 0, 299, 0]
    assert both[300][0]["text"] == "row 1000"
    with pytest.raises(IndexError, match="index 500 is out of range for 500 rows"):
        both[500]
    assert ids(DataLoader(a + b + a, 64)) == [*ALL, *range(300)]
    assert both.table_name == "a + b"
    assert both.version == (1, 1)
    assert both.column_names == COLUMNS
    assert "rows=500" in repr(both)


@pytest.mark.parametrize("method", FORKED)
def test_a_sum_is_read_in_workers(two, method):
    a, b = joined(two, columns=["id"])
    loader = DataLoader(a + b, 100, num_workers=2, multiprocessing_context=method)
    assert ids(loader) == ALL


def test_a_batch_of_a_sum_takes_one_read_of_each_table(two, monkeypatch):
    a, b = joined(two, cache=False)
    reads = record_reads(monkeypatch, lambda reader, rows: (reader.recipe.name, rows.tolist()))
    (a + b).__getitems__([301, 2, 300, 1])
    assert reads == [("a", [2, 1]), ("b", [1, 0])]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_a_sum_of_datasets(two, workers):
    a, b = joined(two, columns=["id"])

    def loader():
        return LanceDataLoader(a + b, batch_size=64, shuffle=True, num_workers=workers)

    whole = loader()
    batches = iter(whole)
    next(batches), next(batches)
    state = through_json(whole.state_dict())
    rest = ids(batches)
    again = loader()
    again.load_state_dict(state)
    assert ids(again) == rest
    with pytest.raises(ValueError, match=r"table was \['a', 'b'\] and is \['b', 'a'\]"):
        LanceDataLoader(b + a, batch_size=64, shuffle=True).load_state_dict(state)


def with_count(columns):
    return {"rows": [len(columns["id"])] * len(columns["id"]), "id": columns["id"]}


def test_a_transform_is_given_the_batch_of_all(two):
    a, b = joined(two, columns=["id"], transform=with_count)
    batch = (a + b).__getitems__([0, 300, 1]).columns
    assert batch["rows"] == [3, 3, 3]
    assert batch["id"].tolist() == [0, 1000, 1]


def test_a_sum_is_padded_to_one_length(two):
    a, b = joined(two, columns=["id", "tokens"], ragged="pad")
    batch = next(iter(DataLoader(a + b, sampler=[1, 304 - 2], batch_size=2)))
    assert batch["tokens"].tolist() == [[0, 0], [0, 1]]
    assert batch["tokens_length"].tolist() == [1, 2]


def test_dictionaries_of_two_tables_are_put_together(db):
    kind = pa.dictionary(pa.int8(), pa.string())
    tables = [
        db.create_table(name, pa.table({"label": pa.array(values).cast(kind)}))
        for name, values in (("a", ["cat", "dog"]), ("b", ["owl", "cat"]))
    ]
    a, b = (LanceTorchDataset(each, format="torch") for each in tables)
    assert (a + b).__getitems__([2, 0, 1, 3]).columns["label"] == ["owl", "cat", "dog", "cat"]


def test_datasets_that_differ_are_not_joined(two, db):
    a, _ = joined(two)
    other = LanceTorchDataset(two[1], format="torch", columns={"id": "CAST(id AS INT)"})
    with pytest.raises(ValueError, match="id is int64 in one and int32 in the other"):
        LanceTorchDataset(two[0], format="torch", columns=["id"]) + other
    with pytest.raises(ValueError, match="format is torch in one and arrow in the other"):
        a + LanceTorchDataset(two[1], format="arrow")
    assert isinstance(a + torch.utils.data.TensorDataset(torch.zeros(3)), ConcatDataset)


def test_a_sum_travels_as_small_recipes(two):
    a, b = joined(two)
    len(next(iter(DataLoader(a + b, 4)))["id"])
    raw = pickle.dumps(a + b)
    assert len(raw) < 8_000
    assert pickle.loads(raw)[300][0]["id"] == 1000


def test_an_error_names_the_rows_of_each_table(two):
    def refuse(columns):
        raise ValueError("no")

    a, b = joined(two, transform=refuse)
    with pytest.raises(ValueError) as caught:
        (a + b).__getitems__([3, 302])
    if hasattr(caught.value, "__notes__"):  # Python 3.10 has none
        notes = "".join(caught.value.__notes__)
        assert "rows [3] of table 'a'" in notes
        assert "rows [2] of table 'b'" in notes


class Wrapped(Dataset):
    """A dataset of a user's own."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


MADE_OF_OTHERS = {
    "concat": lambda a, b: ConcatDataset([a, b]),
    "part of concat": lambda a, b: Subset(ConcatDataset([a, b]), range(500)),
    "concat of parts": lambda a, b: ConcatDataset([Subset(a, range(300)), b]),
    "concat of wrapped": lambda a, b: ConcatDataset([Wrapped(a), Wrapped(b)]),
    "wrapped concat": lambda a, b: Wrapped(ConcatDataset([a, b])),
    "concat of splits": lambda a, b: ConcatDataset([*random_split(a, [100, 200]), b]),
}


@pytest.mark.parametrize("make", MADE_OF_OTHERS.values(), ids=MADE_OF_OTHERS)
def test_rows_one_by_one_are_read_a_batch_at_a_time(two, monkeypatch, make):
    a, b = joined(two, columns=COLUMNS, unwrap=True, cache=False)
    whole = make(a, b)
    expected = [whole[index] for index in range(300, 310)]
    reads = record_reads(monkeypatch, lambda reader, rows: len(rows))
    batches = list(DataLoader(whole, 50, sampler=range(200, 350)))
    assert len(set(ids(batches))) == 150
    assert sum(reads) == 150
    assert len(reads) < 25  # of 16 rows until it is known how large they are
    made = {name: column[:10] for name, column in plain(batches[2]).items()}
    assert made == plain(torch.utils.data.default_collate(expected))


def test_a_concatenation_asks_for_rows_and_not_for_batches_of_one(two):
    a, b = joined(two, columns=COLUMNS)
    whole = ConcatDataset([a, b])
    assert whole[300]["text"] == "row 1000"
    assert ids(DataLoader(whole, 64)) == ALL
    pairs = StackDataset(a, Subset(b, [0] * 300))
    assert pairs[3][1]["id"] == 1000
    x, y = next(iter(DataLoader(pairs, 4)))
    assert (x["id"].tolist(), y["id"].tolist()) == ([0, 1, 2, 3], [1000] * 4)
    assert a[3][0]["id"] == 3


def test_rows_that_come_twice_share_no_memory(two):
    class Cleared(Wrapped):
        def __getitem__(self, index):
            row = self.rows[index]
            row["vec"] += 1
            return row

    a, _ = joined(two, columns=["vec"], unwrap=True)
    [batch] = DataLoader(Cleared(a), sampler=[7, 7, 8, 7], batch_size=4)
    assert batch["vec"][:, 0].tolist() == [8.0, 8.0, 9.0, 8.0]


def test_what_a_dataset_of_ones_own_does_to_a_row_is_in_the_batch(two):
    class Changed(Wrapped):
        def __getitem__(self, index):
            row = self.rows[index]
            row["vec"] = row["vec"][:2] * 10
            row["text"] = torch.tensor(len(row["text"]))
            row["more"] = index
            return row

    a, _ = joined(two, columns=["id", "vec", "text"], unwrap=True)
    batch = next(iter(DataLoader(Changed(a), 3)))
    assert batch["vec"].tolist() == [[0.0, 1.25], [10.0, 11.25], [20.0, 21.25]]
    assert batch["text"].tolist() == [5, 5, 5]
    assert batch["more"].tolist() == [0, 1, 2]
    assert batch["id"].tolist() == [0, 1, 2]


def test_indices_that_a_dataset_of_ones_own_makes_up_are_not_guessed_for_long(two, monkeypatch):
    class Elsewhere(Wrapped):
        def __getitem__(self, index):
            return self.rows[(index * 97 + 13) % 300]

    a, _ = joined(two, columns=["id"], unwrap=True, cache=False)
    reads = record_reads(monkeypatch, lambda reader, rows: len(rows))
    got = ids(DataLoader(Elsewhere(a), 30))
    assert got == [(index * 97 + 13) % 300 for index in range(300)]
    assert sum(reads) < 300 + 1000


def test_one_row_that_cannot_be_made_does_not_stop_the_others(db):
    rows = pa.table({"x": pa.array([1.0, None, 3.0])})
    dataset = LanceTorchDataset(db.create_table("t", rows), format="torch", unwrap=True)

    class Brave(Wrapped):
        def __getitem__(self, index):
            try:
                return self.rows[index]["x"]
            except ValueError as error:
                failed.append(error)
                return torch.tensor(-1.0)

    failed = []
    assert next(iter(DataLoader(Brave(dataset), 3))).tolist() == [1.0, -1.0, 3.0]
    assert "rows [1]" in getattr(failed[0], "__notes__", ["rows [1]"])[0]


def test_padded_rows_one_by_one_are_padded_alike(two):
    a, b = joined(two, columns=["id", "tokens"], ragged="pad", pad_value=-1)
    loader = DataLoader(ConcatDataset([a, b]), sampler=[1, 304, 3], batch_size=3)
    [batch] = loader
    assert batch["tokens"].tolist() == [[0, -1, -1, -1], [0, 1, 2, 3], [0, 1, 2, -1]]
    assert batch["tokens_length"].tolist() == [1, 4, 3]


@pytest.mark.parametrize("argument", [{"pad_value": -1}, {"pad_to": 8}, {"ragged": "mask"}])
def test_datasets_that_are_padded_otherwise_are_not_joined(two, argument):
    a, _ = joined(two, ragged="pad")
    _, b = joined(two, **{"ragged": "pad", **argument})
    with pytest.raises(ValueError, match=f"{next(iter(argument))}"):
        a + b
