# SPDX-License-Identifier: Apache-2.0
"""A nested tensor is what torch's own function makes of the same lists, however it was made."""

import copy
import io

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lancedb.integrations._torch.convert import nested_tensor as nested_tensors
from lancedb.integrations._torch.convert import ragged
from lancedb.integrations._torch.convert.nulls import NullPolicy
from lancedb.integrations._torch.convert.padding import RaggedPolicy
from limits import HANGS

LISTS = [[1, 2], [3, 4, 5, 6], [], [7]]


def nested(lists, kind="int32"):
    column = pa.array(lists, pa.list_(pa.type_for_alias(kind)))
    return ragged.lists(column, "x", NullPolicy(), RaggedPolicy())[0]


def by_torch(lists, dtype=torch.int32):
    return torch.nested.nested_tensor(
        [torch.tensor(each, dtype=dtype) for each in lists], layout=torch.jagged
    )


@pytest.fixture(params=[True, False], ids=["at once", "by torch's function"])
def _way(request, monkeypatch):
    monkeypatch.setattr(nested_tensors, "_can_be_made_at_once", lambda: request.param)


def saved_and_loaded(tensor):
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize(
    "pass_on", [lambda tensor: tensor, saved_and_loaded, copy.deepcopy, torch.clone]
)
def test_a_nested_tensor_is_as_torch_makes_it(pass_on):
    got, expected = pass_on(nested(LISTS)), by_torch(LISTS)
    assert type(got) is type(expected)
    assert (got.dtype, got.layout, got.is_contiguous()) == (torch.int32, torch.jagged, True)
    assert got.size(0) == expected.size(0) == 4
    assert torch.equal(got.values(), expected.values())
    assert torch.equal(got.offsets(), expected.offsets())
    assert torch.equal(got.to_padded_tensor(0), expected.to_padded_tensor(0))
    assert [each.tolist() for each in got.unbind()] == LISTS


def test_a_torch_that_takes_no_lengths_makes_the_same_lists(monkeypatch):
    newer = torch.nested.nested_tensor_from_jagged

    def as_in_2_4(values, offsets=None, lengths=None, jagged_dim=None):
        return newer(values, offsets, lengths, jagged_dim)

    expected = nested(LISTS)
    monkeypatch.setattr(torch.nested, "nested_tensor_from_jagged", as_in_2_4)
    for asks in (nested_tensors._takes_lengths, nested_tensors._can_be_made_at_once):
        monkeypatch.setattr(nested_tensors, asks.__name__, asks.__wrapped__)
    got = nested(LISTS)
    assert torch.equal(got.values(), expected.values())
    assert torch.equal(got.offsets(), expected.offsets())
    assert [each.tolist() for each in got.unbind()] == LISTS


@pytest.mark.usefixtures("_way")
def test_a_model_learns_through_a_nested_tensor():
    weights = torch.ones(8, 3, requires_grad=True)
    embedded = torch.nn.functional.embedding(nested(LISTS, "int64"), weights)
    embedded.to_padded_tensor(0.0).sum().backward()
    assert weights.grad.sum(1).tolist() == [0, 3, 3, 3, 3, 3, 3, 3]


@given(st.lists(st.lists(st.integers(-5, 5), max_size=6), min_size=1, max_size=8))
def test_both_ways_make_the_same(lists):
    column = pa.array(lists, pa.list_(pa.int64()))
    values, (offsets,) = ragged._parts(column, "x", NullPolicy())
    ends = min(map(len, lists)), max(map(len, lists))
    one, other = (
        make(values, torch.from_numpy(offsets), ends)
        for make in (nested_tensors._made_at_once, nested_tensors._made_by_torch)
    )
    assert torch.equal(one.values(), other.values())
    assert one._get_max_seqlen() == other._get_max_seqlen() == ends[1]
    assert one._get_min_seqlen() == other._get_min_seqlen() == ends[0]
    assert np.array_equal(one.offsets(), other.offsets())


def test_this_torch_has_the_class_that_is_expected():
    assert nested_tensors._can_be_made_at_once()
    assert nested_tensors.kind() is type(by_torch(LISTS))


@pytest.mark.usefixtures("_way")
def test_no_lists_make_a_nested_tensor_of_no_rows():
    empty = nested([])
    assert (empty.size(0), empty.layout, empty.dtype) == (0, torch.jagged, torch.int32)
    assert list(empty.unbind()) == []
    assert empty.values().tolist() == []
    assert empty.offsets().tolist() == [0]


def test_a_nested_tensor_has_all_that_torchs_own_has():
    values, offsets = torch.arange(5), torch.tensor([0, 2, 5])
    one, other = (
        vars(make(values, offsets, (2, 3)))
        for make in (nested_tensors._made_at_once, nested_tensors._made_by_torch)
    )
    assert one.keys() == other.keys()
    ends = [{name: end.shape for name, end in of["_metadata_cache"].items()} for of in (one, other)]
    assert ends[0] == ends[1] == {"min_seqlen": (2, 0), "max_seqlen": (3, 0)}


FIRST_LISTS = """
import sys
import lancedb
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset

if __name__ == "__main__":
    table = lancedb.connect(sys.argv[1]).open_table("lists")
    dataset = LanceIterableTorchDataset(table, format="torch", batch_size=2)
    lengths = [batch["x"]._get_max_seqlen() for batch in LanceDataLoader(dataset, num_workers=1)]
    lengths += [batch["x"]._get_max_seqlen() for batch in LanceDataLoader(dataset)]
    print(lengths, [name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


@pytest.mark.soak
def test_first_lists_import_none_of_torchs_compiler(tmp_path, starter):
    column = pa.array(LISTS, pa.list_(pa.int32()))
    lancedb.connect(tmp_path / "db").create_table("lists", pa.table({"x": column}))
    script = tmp_path / "script.py"
    script.write_text(FIRST_LISTS)
    printed = starter.run(script, str(tmp_path / "db"), timeout=HANGS)
    assert printed.strip() == "[4, 1, 4, 1] []"


@pytest.mark.parametrize(
    "make",
    [
        lambda *_: torch.zeros(2),
        lambda values, offsets, *_: torch.nested.nested_tensor_from_jagged(values, offsets),
        lambda: None,
    ],
    ids=["another class", "one that knows no ends", "other arguments"],
)
def test_where_torchs_class_is_another_its_function_is_asked(monkeypatch, make):
    monkeypatch.setattr(nested_tensors, "_made_at_once", make)
    nested_tensors._can_be_made_at_once.cache_clear()
    try:
        assert torch.equal(nested(LISTS).to_padded_tensor(0), by_torch(LISTS).to_padded_tensor(0))
        assert not nested_tensors._can_be_made_at_once()
    finally:
        nested_tensors._can_be_made_at_once.cache_clear()
