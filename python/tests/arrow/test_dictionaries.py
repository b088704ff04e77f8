# SPDX-License-Identifier: Apache-2.0
"""Rows of dictionary columns keep their values whatever dictionary they refer to."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lancedb.integrations._torch.arrow import dictionaries, take
from lancedb.integrations._torch.arrow.dictionaries import (
    Codes,
    CommonDictionary,
    compacted,
    own_bytes,
)

VALUES = st.lists(st.none() | st.sampled_from("abcdefghij"), max_size=20)


def column_of(values, kind=None):
    kind = kind or pa.dictionary(pa.int8(), pa.string())
    return pa.array(values, kind.value_type).dictionary_encode().cast(kind)


@given(st.lists(VALUES, max_size=6))
def test_columns_of_one_dictionary_hold_what_they_held(lists):
    common = CommonDictionary()
    columns = [common.encoded(column_of(values)) for values in lists]
    assert [column.to_pylist() for column in columns] == lists
    for one, other in itertools.pairwise(columns):
        assert one.type == other.type
        assert other.dictionary.slice(0, len(one.dictionary)).equals(one.dictionary)


def test_a_dictionary_that_cannot_grow_begins_anew(monkeypatch):
    common = CommonDictionary()
    letters = [[f"{part} {number}" for number in range(100)] for part in range(3)]
    for values in letters:  # int8 has 127 codes
        column = common.encoded(column_of(values))
        assert column.to_pylist() == values
        assert len(column.dictionary) == 100
    monkeypatch.setattr(dictionaries, "_MOST_BYTES", 50)
    column = common.encoded(column_of(["x"]))
    assert (column.to_pylist(), len(column.dictionary)) == (["x"], 1)


def test_values_that_arrow_cannot_look_up_stay_as_they_are():
    values = pa.array([[1], [2, 3]])
    column = pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), values)
    other = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), values.slice(1))
    common = CommonDictionary()
    assert common.encoded(column).to_pylist() == [[2, 3], [1]]
    assert common.encoded(other).to_pylist() == [[2, 3]]


@given(VALUES, st.data())
def test_rows_are_taken_in_any_order(values, data):
    places = data.draw(st.lists(st.integers(0, max(len(values) - 1, 0)), max_size=9))
    places = np.array(places if values else [], np.int64)
    taken = take.take_column(column_of(["z", *values]).slice(1), places)
    assert taken.to_pylist() == [values[place] for place in places]


@given(VALUES)
def test_a_batch_is_compacted_to_the_values_that_it_has(values):
    column = column_of([*values, *"uvwxyz"]).slice(0, len(values))
    batch = pa.record_batch({"a": column, "n": range(len(values))})
    found = compacted(batch)
    found.validate(full=True)
    assert found.schema == batch.schema
    assert found.to_pylist() == batch.to_pylist()
    assert len(found.column(0).dictionary) <= max(len(values), 6)


def test_codes_of_what_has_none_are_null():
    codes = Codes(pa.array(["a", "b"])).of(column_of(["b", None, "c", "a"]))
    assert codes.to_pylist() == [1, None, 0]


@pytest.mark.parametrize(
    "kind", [pa.bool_(), pa.int64(), pa.large_binary(), pa.date32(), pa.timestamp("ns", "UTC")]
)
def test_values_of_many_types_are_told_apart(kind):
    values = pa.array([1, 0, 1] if kind != pa.large_binary() else [b"b", b"a", b"b"])
    values = values.cast(pa.int32()) if kind == pa.date32() else values
    common = CommonDictionary()
    for part in (values, values[1:], values):
        part = part.cast(kind)
        assert common.encoded(part.dictionary_encode()).to_pylist() == part.to_pylist()


def test_zeros_of_both_signs_stay_two_values():
    common = CommonDictionary()
    for zeros in ([0.0, 1.0], [-0.0, 1.0]):
        found = common.encoded(pa.array(zeros).dictionary_encode()).to_pylist()
        assert str(found) == str(zeros)


def test_many_dictionaries_by_turns_are_looked_up_once(monkeypatch):
    looked_up = []
    original = Codes._looked_up

    def counting(self, dictionary):
        looked_up.append(dictionary)
        return original(self, dictionary)

    monkeypatch.setattr(Codes, "_looked_up", counting)
    common = CommonDictionary()
    columns = [column_of(order).slice(1) for order in ("abcd", "bcda", "cdab", "dabc")]
    for _ in range(20):
        for column in columns:
            assert common.encoded(column).to_pylist() == column.to_pylist()
    assert len(looked_up) == 3


@pytest.mark.parametrize("values", [["a"] * 6, ["a", "b", None, "a", "b", "a"]])
def test_a_dictionary_is_no_part_of_its_rows(values):
    large = pa.array([str(number) for number in range(10_000)])
    column = pa.DictionaryArray.from_arrays(pa.array(range(6), pa.int32()), large)
    text = pa.array(values)
    assert own_bytes(column) == 24
    assert own_bytes(pa.record_batch({"a": column, "b": text})) == 24 + text.nbytes
