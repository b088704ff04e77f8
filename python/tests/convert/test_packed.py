# SPDX-License-Identifier: Apache-2.0
"""Packed batches: where each document is, what stands beside it, and what cannot be packed."""

import itertools

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch
from documents import ORDERS, documents
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.arrow.documents import Planned, with_plan
from lancedb.integrations._torch.arrow.large_rows import Limits
from lancedb.integrations._torch.convert.packed import PackedRows, make_packed_converter
from lancedb.integrations._torch.datasets.sharded import ShardedDataset
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset, Packing

COLUMNS = {
    "id": pa.array([1, 2, 3]),
    "tokens": pa.array([[11, 12, 13], [21, 22], [31, 32, 33, 34]], pa.list_(pa.int32())),
    "mask": pa.array([[1.0, 0.5, 0.0], [0.0, 1.0], [0.5] * 4], pa.list_(pa.float16())),
    "name": pa.array(["a", "b", "c"]),
}


def planned(columns, units, starts=None, lengths=None):
    batch = pa.record_batch(columns)
    lengths = batch["tokens"].value_lengths().to_numpy() if lengths is None else lengths
    starts = np.zeros(batch.num_rows, np.int64) if starts is None else starts
    return with_plan(batch, Planned(np.array(units), np.array(starts), np.array(lengths)))


def converter(length=6, format="torch", column="tokens", fill_null=None, pad_value=0):
    rows = PackedRows(column, length)
    options = {"fill_null": fill_null, "pad_value": pad_value, "ragged": "jagged", "pad_to": None}
    return make_packed_converter(rows, format, **options)


def test_the_picture_in_the_module():
    batch = converter()(planned(COLUMNS, [4, 4, 5]))
    assert batch["tokens"].tolist() == [[11, 12, 13, 21, 22, 0], [31, 32, 33, 34, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 1]]
    assert batch["document_ids"].tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]]
    assert batch["cu_seqlens"].tolist() == [0, 3, 5, 6, 10, 12]
    assert batch["cu_seqlens"].dtype == torch.int32
    assert batch["max_seqlen"] == 4
    assert batch["tokens"].dtype == torch.int32


def test_other_lists_are_packed_alongside_and_all_else_is_one_value_a_document():
    batch = converter(pad_value={"tokens": 7, "mask": -1})(planned(COLUMNS, [0, 0, 1]))
    assert batch["mask"].tolist() == [[1.0, 0.5, 0.0, 0.0, 1.0, -1.0], [0.5] * 4 + [-1.0] * 2]
    assert batch["mask"].dtype == torch.float16
    assert batch["tokens"][0, -1] == 7
    assert batch["id"].tolist() == [1, 2, 3]
    assert batch["name"] == ["a", "b", "c"]


def test_numpy_gives_the_same_as_arrays():
    of_torch, of_numpy = (converter(format=each)(planned(COLUMNS, [0, 0, 1])) for each in FORMATS)
    for name, value in of_numpy.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(value, of_torch[name].numpy())
    assert all(isinstance(of_numpy[name], np.ndarray) for name in ("id", "tokens", "cu_seqlens"))


FORMATS = ("torch", "numpy")


def test_pieces_of_a_document_are_documents():
    twice = {name: column.take(pa.array([2, 2, 1])) for name, column in COLUMNS.items()}
    batch = converter(length=3)(planned(twice, [0, 1, 1], [0, 3, 0]))
    assert batch["tokens"].tolist() == [[31, 32, 33], [34, 21, 22]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 0, 1]]
    assert batch["document_ids"].tolist() == [[1, 1, 1], [1, 2, 2]]
    assert batch["cu_seqlens"].tolist() == [0, 3, 4, 6]
    assert batch["id"].tolist() == [3, 3, 2]


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=5),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_segments_are_the_documents_and_what_is_left_of_rows(rows, sliced):
    lengths = [length for row in rows for length in row]
    units = [number for number, row in enumerate(rows) for _ in row]
    tokens = pa.array([[n] * n for n in [5, *lengths]], pa.large_list(pa.int64()))
    tokens = tokens[1:] if sliced else pa.concat_arrays([tokens[1:]])
    batch = converter(36)(planned({"tokens": tokens}, units))
    edges = batch["cu_seqlens"].tolist()
    flat, documents, places = (
        batch[name].flatten().tolist() for name in ("tokens", "document_ids", "position_ids")
    )
    found = []
    for start, stop in itertools.pairwise(edges):
        assert places[start:stop] == list(range(stop - start))
        assert len(set(documents[start:stop])) == 1
        if documents[start]:
            found.append(flat[start:stop])
    assert found == [[n] * n for n in lengths]
    assert edges[-1] == 36 * len(rows)
    assert batch["max_seqlen"] == max(np.diff(edges))


def test_vectors_of_each_token_and_bfloat16_are_packed_too():
    vectors = pa.array(
        [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]], pa.list_(pa.list_(pa.float32(), 2))
    )
    storage = pa.array([[b"\x80\x3f"], [b"\0\0", b"\x80\x3f"]], pa.list_(pa.binary(2)))
    of = pa.field("item", pa.binary(2), metadata={"ARROW:extension:name": "lance.bfloat16"})
    halves = pa.ListArray.from_arrays(storage.offsets, storage.values, type=pa.list_(of))
    tokens = pa.array([[1], [2, 3]], pa.list_(pa.int64()))
    batch = converter(4)(planned({"tokens": tokens, "v": vectors, "h": halves}, [0, 0]))
    assert batch["v"].tolist() == [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [0.0, 0.0]]]
    assert batch["h"].dtype == torch.bfloat16
    assert batch["h"].tolist() == [[1.0, 0.0, 1.0, 0.0]]


# -- what cannot be packed -----------------------------------------------------------------------


def packing(table, **options):
    of_dataset = {"format": "torch", **options}
    how = {"rows": 2, **of_dataset.pop("packing", {})}
    return LanceIterableTorchDataset(table, batching=Packing(16, **how), **of_dataset)


@pytest.fixture
def table(db):
    return db.create_table("docs", documents(100))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packing": {"column": "id"}}, "lists of numbers, and column 'id' is of type int64"),
        ({"packing": {"column": "token"}}, "'token', which is not there: did you mean 'tokens'"),
        ({"format": "python"}, "'torch' or 'numpy', not 'python'"),
        ({"ragged": "pad"}, r"ragged='pad' is for lists that stay apart"),
        ({"pad_to": 8}, r"pad_to=8 is for lists that stay apart, and .* rows of 16"),
        ({"pad_value": 0.5}, "pad_value=0.5 does not fit column 'tokens'"),
        ({"pad_value": {"x": 1}}, "pad_value names an unknown column 'x'"),
        ({"fill_null": "zero"}, "fill_null='zero' does not fit column 'id'"),
        ({"fill_null": {"tokens": "zero"}}, "fill_null='zero' does not fit column 'tokens'"),
        ({"columns": {"tokens": "tokens", "max_seqlen": "n"}}, "adds 'max_seqlen', and there is"),
        ({"on_error": "skip", "transform": len}, "on_error='skip' leaves rows out"),
        ({"batch_size": 4}, r"batch_size=4 and batching=Packing\(...\) both say"),
        ({"unwrap": True}, "unwrap=True is for batch_size=1"),
        ({"packing": {"lengths": "nn"}}, "lengths='nn' cannot be evaluated"),
        (
            {"packing": {"lengths": "cast(n as double)"}},
            "of type double: it must be whole",
        ),
    ],
)
def test_arguments_that_cannot_be_are_refused_where_the_dataset_is_made(table, options, message):
    with pytest.raises(ValueError, match=message):
        packing(table, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packing": {"lengths": "n + 1"}}, r"column 'tokens' has \d+ values, and .* counts \d+"),
        (
            {"packing": {"too_long": "error"}},
            r"row \d+ of .* tokens, more than .*length=16",
        ),
        ({"packing": {"lengths": "n - 2"}}, r"row \d+ of table .* is empty by lengths='n - 2'"),
        ({"packing": {"lengths": "n * 1000000000"}}, r"row \d+ of .* which are \d+ pieces of 16"),
        ({"packing": {"lengths": "n + 2"}}, r"column 'tokens' has \d+ values, and .* counts \d+"),
        (
            {"columns": {"tokens": "tokens", "others": "array_append(tokens, 1)"}},
            r"'others' has a list of \d+ values beside \d+ of column 'tokens'",
        ),
    ],
)
def test_documents_that_cannot_be_packed_are_an_error_at_the_first_batch(table, options, message):
    with pytest.raises(ValueError, match=message):
        next(iter(packing(table, **options)))


@pytest.mark.parametrize("format", ["torch", "numpy"])
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], r"row 3 of table .* is empty by lengths='tokens'.*leave such rows out with filter="),
        (None, r"row 3 of table .* is null there: pass filter='tokens IS NOT NULL'"),
        ([1, None], "column 'tokens' has 1 null.*fill_null=0"),
    ],
)
def test_documents_that_are_none_are_an_error_that_says_what_to_do(db, format, tokens, message):
    rows = pa.array([[1, 2], [3], [4], tokens, [5, 6]], pa.list_(pa.int64()))
    table = db.create_table("some", pa.table({"tokens": rows}))
    with pytest.raises(ValueError, match=message):
        list(packing(table, format=format, drop_last=False))
    if tokens:
        filled = packing(table, format=format, drop_last=False, fill_null=0)
        assert sum(int((batch["document_ids"] > 0).sum()) for batch in filled) == 8


@pytest.mark.parametrize("kind", [pa.string(), pa.list_(pa.int64())], ids=str)
def test_lists_of_what_is_no_number_are_not_packed(db, kind):
    values = {pa.string(): "a"}.get(kind, [1, 2])
    table = db.create_table("some", pa.table({"tokens": pa.array([[values]], pa.list_(kind))}))
    with pytest.raises(ValueError, match=r"lists of numbers, and column 'tokens' .*name another"):
        packing(table)


def test_an_error_of_lengths_is_the_same_with_workers(table):
    loader = LanceDataLoader(packing(table, packing={"lengths": "n - 2"}), num_workers=1)
    with pytest.raises(ValueError, match=r"row \d+ of table .* is empty by lengths='n - 2'"):
        next(iter(loader))


def test_truncated_documents_lose_their_end(table):
    batches = list(packing(table, packing={"too_long": "truncate"}, drop_last=False))
    ids = sorted(each for batch in batches for each in batch["id"].tolist())
    assert ids == list(range(100))
    assert sum(int((batch["document_ids"] > 0).sum()) for batch in batches) == int(
        np.minimum(documents(100)["n"].to_numpy(), 16).sum()
    )


def test_a_transform_is_given_the_packed_batch_in_workers_too(table):
    dataset = packing(table, transform=shapes_of, columns=["tokens"])
    assert next(iter(LanceDataLoader(dataset, num_workers=1))) == (2, 16)


def shapes_of(batch):
    return tuple(batch["tokens"].shape)


def with_context(batch, context):
    assert len(context) == len(batch["id"])
    return {**batch, "at": context.offsets, "drawn": context.random(2)}


def firsts_of(batch):
    """The first token of each document."""
    starts = batch["cu_seqlens"][:-1].long()
    return batch["tokens"].flatten()[starts[batch["document_ids"].flatten()[starts] > 0]].tolist()


def drawn(batches):
    """For each document: its first token, which says its row, and what was drawn for it."""
    found = []
    for batch in batches:
        firsts = firsts_of(batch)
        assert [first // 100 for first in firsts] == batch["id"].tolist() == batch["at"].tolist()
        found += zip(firsts, map(tuple, batch["drawn"].tolist()), strict=True)
    return found


@pytest.mark.few(2)
@pytest.mark.parametrize("order", list(ORDERS))
def test_a_transform_with_a_context_has_one_of_each_for_each_document(table, order):
    def made(workers=0, **options):
        of_order = {**ORDERS[order], "transform": with_context, "drop_last": False, **options}
        return drawn(LanceDataLoader(packing(table, **of_order), num_workers=workers))

    documents = made()
    assert len(documents) > 100
    assert len({values for _, values in documents}) == len(documents)  # pieces draw anew
    ranks = [made(rank=rank, world_size=2) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == sorted(documents)
    other = made(packing={"rows": 5, "group_rows": 16})
    assert sorted(other) == sorted(documents)


def test_documents_draw_the_same_in_workers(table):
    made = [
        drawn(LanceDataLoader(packing(table, transform=with_context, shuffle=True), num_workers=n))
        for n in (0, 1)
    ]
    assert made[0] == made[1] != []


def test_the_schema_of_a_dataset_of_packed_documents_is_that_of_its_rows(table):
    assert packing(table).schema.names == table.schema.names


def test_a_batch_of_more_bytes_than_may_be_ahead_is_packed_like_any_other(tmp_path, monkeypatch):
    tokens = np.arange(40 * 20_000).reshape(40, -1)
    rows = pa.table({"id": np.arange(40), "tokens": list(tokens)})
    large = lancedb.connect(tmp_path).create_table("large", rows)
    options = {"format": "torch", "batching": Packing(20_000, rows=8)}
    whole = ids_of(LanceIterableTorchDataset(large, **options))
    monkeypatch.setattr(ShardedDataset, "_limits", Limits(1 << 20, 1 << 20))
    assert ids_of(LanceIterableTorchDataset(large, **options)) == whole
    assert len(whole) == 5


def ids_of(batches):
    return [batch["id"].tolist() for batch in batches]
