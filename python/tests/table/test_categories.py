# SPDX-License-Identifier: Apache-2.0
"""A dictionary column is its values, or codes that mean the same wherever they are read."""

import pickle

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from torch.utils.data import DataLoader

# Of three fragments, each with a dictionary of its own.
PARTS = [["b", "a", None, "b", "a"], ["z", "a", "q", "a", "z"], ["q", "b", "c", None, "z"]]
LABELS = [label for part in PARTS for label in part]
SORTED = ["a", "b", "c", "q", "z"]
CODES = [-1 if label is None else SORTED.index(label) for label in LABELS]


def part_of(labels, start):
    ids = pa.array(range(start, start + len(labels)), pa.int64())
    return pa.table({"id": ids, "label": pa.array(labels).dictionary_encode()})


@pytest.fixture
def table(db):
    table = db.create_table("labels", part_of(PARTS[0], 0))
    for number, labels in enumerate(PARTS[1:], 1):
        table.add(part_of(labels, 5 * number))
    return table


def coded(table, kind=LanceTorchDataset, **options):
    options = {"format": "torch", "fill_null": -1, "dictionary": "codes", **options}
    return kind(table, **options)


def streamed(table, **options):
    return coded(table, LanceIterableTorchDataset, batch_size=4, drop_last=False, **options)


def codes_of(batches):
    found = {}
    for batch in batches:
        assert batch["label"].dtype == torch.int64
        found |= dict(zip(batch["id"].tolist(), batch["label"].tolist(), strict=True))
    return [found[row] for row in range(len(LABELS))]


def test_codes_are_places_in_the_sorted_list_of_all_values(table):
    dataset = coded(table)
    assert dataset.categories == {"label": SORTED}
    assert dataset.schema.field("label").type == pa.int64()
    assert dataset.__getitems__(range(15)).columns["label"].tolist() == CODES
    for row in range(15):
        assert dataset[row][0]["label"].item() == CODES[row]


@pytest.mark.parametrize("shuffle", [False, True, "global"])
@pytest.mark.parametrize("cache", [False, True])
def test_codes_are_the_same_in_every_order(table, shuffle, cache):
    assert codes_of(streamed(table, shuffle=shuffle, cache=cache)) == CODES


def test_codes_are_the_same_in_workers(table):
    streaming = LanceDataLoader(streamed(table, shuffle=True), num_workers=1)
    mapped = DataLoader(coded(table), 4, num_workers=1, multiprocessing_context="forkserver")
    for loader in (streaming, mapped):
        assert codes_of(loader) == CODES


def test_codes_are_the_same_for_some_of_the_rows(table):
    dataset = coded(table, filter="id >= 10", columns={"kind": "label"})
    assert dataset.categories == {"kind": SORTED}
    assert dataset.__getitems__(range(5)).columns["kind"].tolist() == CODES[10:]


def test_codes_are_those_of_the_pinned_version(table):
    dataset = coded(table)
    again = pickle.loads(pickle.dumps(dataset))
    table.add(part_of(["new"], 15))
    table.delete("id < 5")
    table.optimize()
    for each in (dataset, again):
        assert each.__getitems__(range(15)).columns["label"].tolist() == CODES
        assert each.categories == {"label": SORTED}
    assert "new" in coded(table).categories["label"]


@pytest.mark.parametrize("format", ["python", "python_col", "pandas", "polars", "arrow"])
def test_codes_are_whole_numbers_in_every_format(table, format):
    batch = coded(table, format=format, fill_null=None).__getitems__([0, 1, 5, 6])
    labels = [row["label"] for row in batch] if format == "python" else batch["label"]
    labels = labels.to_pylist() if format == "arrow" else list(labels)
    assert labels == [CODES[row] for row in (0, 1, 5, 6)]


def test_a_null_has_no_code(table):
    with pytest.raises(ValueError, match="column 'label' has 1 null.*fill_null"):
        coded(table, fill_null=None).__getitems__([1, 2])
    assert coded(table, format="python", fill_null=None)[2] == [{"id": 2, "label": None}]


def test_transforms_see_codes(table):
    dataset = coded(table, transform=lambda batch: torch.nn.functional.one_hot(batch["label"], 5))
    assert dataset.__getitems__([0, 5]).columns.tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_fields_of_structs_have_codes_as_columns(db):
    labels = pa.array(["x", "y", "x"]).dictionary_encode()
    rows = pa.StructArray.from_arrays([labels, pa.array([1, 2, 3])], ["label", "n"])
    table = db.create_table("nested", pa.table({"meta": rows}))
    dataset = coded(table, columns={"label": "meta.label"})
    assert dataset.__getitems__([0, 1, 2]).columns["label"].tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="'meta' holds a dictionary within.*'struct.label'"):
        coded(table)


def test_numbers_have_codes_too(db):
    numbers = pa.array([30, 10, 30], pa.int64()).dictionary_encode()
    table = db.create_table("numbers", pa.table({"n": numbers}))
    dataset = coded(table)
    assert dataset.categories == {"n": [10, 30]}
    assert dataset.__getitems__([2, 1]).columns["n"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dictionary": "code"}, "dictionary must be one of 'values', 'codes', not 'code'"),
        ({"columns": ["id"]}, "none of the columns that are read is one: id is int64"),
        (
            {"columns": {"x": "arrow_cast(label, 'Dictionary(Int32, Utf8)')"}},
            "column 'x' is made by SQL",
        ),
    ],
)
def test_codes_of_what_has_none_are_refused(table, options, message):
    with pytest.raises(ValueError, match=message):
        coded(table, **options)


def test_without_codes_there_are_no_categories(table):
    with pytest.raises(AttributeError, match="has no 'categories': pass dictionary='codes'"):
        _ = LanceTorchDataset(table).categories


def test_joined_datasets_have_the_same_categories(db, table):
    joined = coded(table) + coded(table, filter="id > 9")
    assert joined.categories == {"label": SORTED}
    assert joined.__getitems__([0, 15]).columns["label"].tolist() == [CODES[0], CODES[10]]
    other = db.create_table("other", part_of(PARTS[1], 0))
    with pytest.raises(ValueError, match="categories is .* in one and .* in the other"):
        coded(table) + coded(other)


def test_a_table_in_memory_has_categories_in_its_copies():
    table = lancedb.connect("memory://").create_table("labels", part_of(PARTS[0], 0))
    table.add(part_of(PARTS[1], 5))
    dataset = coded(table)
    again = pickle.loads(pickle.dumps(dataset))
    assert again.categories == dataset.categories == {"label": ["a", "b", "q", "z"]}
    for each in (dataset, again):
        codes = each.__getitems__(range(10)).columns["label"].tolist()
        assert codes == [-1 if label is None else "abqz".index(label) for label in LABELS[:10]]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Dictionaries of 20,000 values, in two fragments in two orders; strings of the same values."""
    db = lancedb.connect(tmp_path_factory.mktemp("many") / "db")
    values = np.array([f"value {number}" for number in range(20_000)])
    picks = np.random.default_rng(0).permutation(len(values))[:4000]
    table = None
    for order in (values, values[::-1]):
        column = pa.DictionaryArray.from_arrays(pa.array(picks, pa.int32()), pa.array(order))
        rows = pa.table({"label": column, "text": column.dictionary_decode()})
        if table is None:
            table = db.create_table("many", rows)
        else:
            table.add(rows)
    return table


def test_many_categories_do_not_travel_in_a_recipe(many):
    dataset = coded(many, columns=["label"])
    sent = pickle.dumps(dataset)
    assert len(sent) < 4096
    assert pickle.loads(sent).categories == dataset.categories
    assert len(dataset.categories["label"]) > 5000


@pytest.mark.parametrize("shuffle", [False, True, "global"])
@pytest.mark.parametrize("dictionary", ["values", "codes"])
def test_many_values_come_right_and_share_a_dictionary(many, shuffle, dictionary):
    dataset = LanceIterableTorchDataset(
        many, format="arrow", shuffle=shuffle, batch_size=100, dictionary=dictionary, cache=False
    )
    lengths = set()
    for batch in dataset:
        labels = batch["label"]
        if dictionary == "codes":
            known = dataset.categories["label"]
            found = [known[code] for code in labels.to_pylist()]
        else:
            lengths.add(len(labels.dictionary))
            found = labels.to_pylist()
        assert found == batch["text"].to_pylist()
    if dictionary == "values":
        assert len(lengths) <= 8  # it grows with the first few reads, and is the same in all others


def test_a_row_is_as_large_as_its_code(many):
    dataset = LanceIterableTorchDataset(many, columns=["label"], shuffle=True)
    assert dataset._order.row_bytes == 4


def test_batches_reach_workers_with_the_values_that_they_have(many):
    dataset = LanceIterableTorchDataset(many, format="arrow", batch_size=400, shuffle=True)
    for batch in LanceDataLoader(dataset, num_workers=1):
        assert len(batch["label"].dictionary) <= 400
        assert batch["label"].to_pylist() == batch["text"].to_pylist()
