# SPDX-License-Identifier: Apache-2.0
"""A nested tensor is what torch's own function makes of the same lists, however it was made."""

import copy
import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lancedb.integrations._torch import ragged
from lancedb.integrations._torch.nulls import NullPolicy

LISTS = [[1, 2], [3, 4, 5, 6], [], [7]]


def nested(lists, kind="int32"):
    column = pa.array(lists, pa.list_(pa.type_for_alias(kind)))
    return ragged.lists(column, "x", NullPolicy(), "jagged")[0]


def by_torch(lists, dtype=torch.int32):
    return torch.nested.nested_tensor(
        [torch.tensor(each, dtype=dtype) for each in lists], layout=torch.jagged
    )


@pytest.fixture(params=[True, False], ids=["at once", "by torch's function"])
def _way(request, monkeypatch):
    monkeypatch.setattr(ragged, "_can_be_made_at_once", lambda: request.param)


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
    for asks in (ragged._can_be_told_lengths, ragged._can_be_made_at_once):
        monkeypatch.setattr(ragged, asks.__name__, asks.__wrapped__)
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
    values, offsets = ragged._parts(column, "x", NullPolicy())
    ends = min(map(len, lists)), max(map(len, lists))
    one, other = (
        make(values, torch.from_numpy(offsets), *ends)
        for make in (ragged._made_at_once, ragged._made_by_torch)
    )
    assert torch.equal(one.values(), other.values())
    assert one._get_max_seqlen() == other._get_max_seqlen() == ends[1]
    assert one._get_min_seqlen() == other._get_min_seqlen() == ends[0]
    assert np.array_equal(one.offsets(), other.offsets())


def test_this_torch_has_the_class_that_is_expected():
    assert ragged._can_be_made_at_once()


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
    monkeypatch.setattr(ragged, "_made_at_once", make)
    ragged._can_be_made_at_once.cache_clear()
    try:
        assert torch.equal(nested(LISTS).to_padded_tensor(0), by_torch(LISTS).to_padded_tensor(0))
        assert not ragged._can_be_made_at_once()
    finally:
        ragged._can_be_made_at_once.cache_clear()
