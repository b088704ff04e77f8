# SPDX-License-Identifier: Apache-2.0
"""Batches without a ``collate_fn`` are made of any column, or the error says what to do."""

import datetime
import decimal

import lancedb
import pyarrow as pa
import pytest
import torch
from lancedb.integrations.torch import LanceDataLoader, LanceTorchDataset
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

DAY = datetime.datetime(2024, 1, 2)
LOADERS = {
    "torch": lambda dataset: DataLoader(dataset, 2),
    "bulk": lambda dataset: DataLoader(
        dataset, None, sampler=BatchSampler(SequentialSampler(dataset), 2, False)
    ),
    "lance": lambda dataset: LanceDataLoader(dataset, batch_size=2),
}


@pytest.fixture
def mixed(db):
    data = {"id": [1, 2], "text": ["a", None], "when": [DAY, DAY], "x": [1.0, None]}
    data["price"] = [decimal.Decimal("1.50")] * 2
    return db.create_table("mixed", pa.table(data))


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("unwrap", [False, True])
def test_arrays_of_objects_are_handed_on_and_those_of_numbers_are_tensors(mixed, loader, unwrap):
    options = {"format": "numpy", "unwrap": unwrap}
    [batch] = loader(LanceTorchDataset(mixed, columns=["id", "text"], **options))
    assert batch[:, 0].tolist() == [1, 2]
    assert batch[0, 1] == "a"
    [batch] = loader(LanceTorchDataset(mixed, columns=["id"], **options))
    assert isinstance(batch, torch.Tensor)
    assert batch.tolist() == [[1], [2]]


def test_arrays_of_times_are_handed_on(mixed):
    [batch] = DataLoader(LanceTorchDataset(mixed, columns=["when"], format="numpy"), 2)
    assert batch.astype("datetime64[D]").tolist() == [[DAY.date()]] * 2


def test_an_array_of_text_that_a_transform_makes_is_handed_on(mixed):
    dataset = LanceTorchDataset(mixed, columns=["text"], format="numpy", transform=_as_text)
    [batch] = DataLoader(dataset, 2)
    assert batch.tolist() == [["a"], ["nan"]]


def _as_text(batch):
    return batch.astype(str)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("when", r"'when' holds timestamp\[us\], .*format='torch'"),
        ("price", r"'price' holds decimal128\(3, 2\), .*format='torch'"),
        ("x", r"'x' holds 1 null, .*fill_null=, or filter='x IS NOT NULL'.*collate_fn="),
    ],
)
def test_rows_that_torch_makes_no_tensor_of_are_refused_by_name(mixed, column, message):
    dataset = LanceTorchDataset(mixed, columns=["id", column])
    with pytest.raises(TypeError, match=message):
        list(DataLoader(dataset, 2))
    [rows] = DataLoader(dataset, 2, collate_fn=list)
    assert [row["id"] for row in rows] == [1, 2] == [row["id"] for row in dataset[[0, 1]]]


STRUCT = pa.struct([("when", pa.date32()), ("n", pa.int64())])
NESTED = {
    "text": pa.array([None, "a"]),
    "bytes": pa.array([None, b"a"]),
    "kind": pa.array([None, "a"]).dictionary_encode(),
    "words": pa.array([[None], ["a"]]),
    "point": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
    "parts": pa.array([[1.0, None], [2.0, 3.0]]),
    "ragged": pa.array([[1.0], [2.0, 3.0]]),
    "days": pa.array([[DAY.date()], [DAY.date()]]),
    "dated": pa.array([{"when": DAY.date(), "n": 1}] * 2, STRUCT),
    "counted": pa.array([{"n": 1}, {"n": None}]),
    "struct": pa.array([{"n": 1}, None]),
    "hash": pa.array([2**63, 1], pa.uint64()),
}
SAID = {
    "text": "'text' holds 1 null, .*format='torch', which has None for them",
    "bytes": "'bytes' holds 1 null, ",
    "kind": "'kind' holds 1 null, ",
    "words": "'words' holds 1 null, ",
    "point": "'point' holds 1 null, .*filter='point IS NOT NULL'",
    "parts": "'parts' holds 1 null, .*fill_null=, leave it out",
    "ragged": "'ragged' holds lists of different lengths, .*ragged=",
    "days": r"'days' holds date32\[day\], ",
    "dated": r"'dated.when' holds date32\[day\], ",
    "counted": "'counted.n' holds 1 null, .*filter='counted.n IS NOT NULL'",
    "struct": "'struct' holds 1 null, ",
    "hash": r"'hash' holds numbers from 2\*\*63 on, ",
}


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    db = lancedb.connect(tmp_path_factory.mktemp("nested"))
    return db.create_table("nested", pa.table(NESTED))


@pytest.mark.parametrize("column", NESTED)
def test_what_stands_within_a_column_is_refused_by_name_too(nested, column):
    dataset = LanceTorchDataset(nested, columns=[column])
    with pytest.raises(TypeError, match=SAID[column]):
        list(DataLoader(dataset, 2))


def test_lists_of_one_length_structs_and_text_are_as_they_were(db):
    data = {"words": [["a"], ["b"]], "vector": [[1.0, 2.0]] * 2, "struct": [{"n": 1}] * 2}
    [batch] = DataLoader(LanceTorchDataset(db.create_table("plain", pa.table(data))), 2)
    assert batch["words"] == [("a", "b")]
    assert batch["struct"]["n"].tolist() == [1, 1]
    assert [part.tolist() for part in batch["vector"]] == [[1, 1], [2, 2]]


def test_text_with_nulls_and_arrays_of_numbers_are_as_they_were(mixed):
    [batch] = DataLoader(LanceTorchDataset(mixed, columns=["text"]), 2)
    assert batch == {"text": ["a", None]}
    [batch] = DataLoader(LanceTorchDataset(mixed, columns=["x"], format="numpy"), 2)
    assert batch[1].isnan().all()
