# SPDX-License-Identifier: Apache-2.0
"""What names rows: any integers, from either end, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lancedb.integrations._torch.table.indices import distinct, normalize_indices

LENGTHS = st.integers(1, 1000)


@given(LENGTHS, st.data())
def test_every_kind_of_sequence_means_the_same_rows(length, data):
    indices = data.draw(st.lists(st.integers(-length, length - 1)))
    expected = [range(length)[index] for index in indices]
    kinds = [
        indices,
        tuple(indices),
        iter(indices),
        np.array(indices, np.int64),
        np.array(indices, np.int16),
        np.array(indices, object),
        [np.int32(index) for index in indices],
        torch.tensor(indices, dtype=torch.int32),
    ]
    for each in kinds:
        got = normalize_indices(each, length)
        assert got.dtype == np.int64
        assert got.tolist() == expected


@given(LENGTHS, st.data())
def test_slices_and_ranges_mean_what_they_mean_for_a_list(length, data):
    cut = data.draw(st.slices(length))
    assert normalize_indices(cut, length).tolist() == list(range(length))[cut]
    run = range(length)[cut]
    assert normalize_indices(run, length).tolist() == list(run)


@pytest.mark.parametrize("index", [10, 99, -11, 2**63, -(2**70)])
@pytest.mark.parametrize("make", [list, tuple, lambda one: np.array(one, object)])
def test_what_is_out_of_range_is_named_with_the_length(index, make):
    with pytest.raises(IndexError, match=rf"index {index} is out of range for 10 rows"):
        normalize_indices(make([0, index]), 10)


def test_large_unsigned_indices_do_not_wrap_around():
    with pytest.raises(IndexError, match="18446744073709551615"):
        normalize_indices(np.array([2**64 - 1], np.uint64), 10)


@pytest.mark.parametrize("run", [range(5, 15), range(-11, 3), range(10**30)])
def test_a_range_that_leaves_the_rows_is_refused_whatever_its_size(run):
    with pytest.raises(IndexError):
        normalize_indices(run, 10)


@pytest.mark.parametrize(
    "wrong",
    [
        [1.0],
        [True],
        [0, np.float32(1)],
        [np.bool_(1)],
        ["1"],
        [None],
        [[1]],
        "12",
        b"12",
        3,
        None,
        1.5,
        np.array([1.0]),
        np.array([True]),
        np.array([[1]]),
        np.array(["1"]),
        torch.tensor([1.0]),
        torch.tensor([True]),
        {"a": 1},
    ],
    ids=repr,
)
def test_what_is_no_whole_number_is_a_type_error(wrong):
    with pytest.raises(TypeError):
        normalize_indices(wrong, 10)


@pytest.mark.parametrize("none", [[], (), range(0), slice(3, 3), np.array([]), torch.tensor([])])
def test_no_index_is_no_row(none):
    assert normalize_indices(none, 10).tolist() == []


@given(st.lists(st.integers(0, 50), min_size=1))
def test_distinct_offsets_are_ascending_and_lead_back(offsets):
    known, places = distinct(np.array(offsets))
    assert (np.diff(known) > 0).all()
    assert (known if places is None else known[places]).tolist() == offsets
