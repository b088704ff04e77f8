# SPDX-License-Identifier: Apache-2.0
"""Every Arrow type becomes the tensor, or the Python values, that the type table says."""

import itertools
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from arrow_strategies import (
    NUMBER_TYPES,
)
from conversions import DTYPES, column, example_of
from lancedb.integrations._torch.convert.formats import FORMATS, make_converter
from lancedb.integrations._torch.convert.nulls import NullPolicy
from lancedb.integrations._torch.convert.padding import RaggedPolicy
from lancedb.integrations._torch.convert.torch_columns import torch_batches, torch_columns

# -- batches ---------------------------------------------------------------------------------


class CountedSchema:
    """A schema that counts how often all its names are made, which takes a time for each."""

    def __init__(self, schema):
        self.schema, self.made = schema, 0

    def __iter__(self):
        return iter(self.schema)

    @property
    def names(self):
        self.made += 1
        return self.schema.names


@pytest.mark.parametrize("convert", [torch_columns, torch_batches])
def test_the_time_of_a_conversion_grows_with_the_columns_and_not_with_their_square(convert):
    wide = pa.record_batch({f"c{number}": [number, 0] for number in range(50)})
    batch = SimpleNamespace(schema=CountedSchema(wide.schema), columns=wide.columns)
    convert(batch, *([[1, 1], NullPolicy(), RaggedPolicy()] if convert is torch_batches else []))
    assert batch.schema.made == 1


# -- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NUMBER_TYPES, ids=str)
def test_numbers_have_the_dtype_of_the_table_and_their_values(kind):
    values, expected = example_of(kind)
    tensor = column(values, kind)["c"]
    assert tensor.dtype == DTYPES[kind]
    assert tensor.shape == (3,)
    assert tensor.tolist() == expected


@pytest.mark.parametrize("kind", NUMBER_TYPES, ids=str)
def test_slices_empty_batches_and_one_row_convert_rightly(kind):
    values, expected = example_of(kind)
    batch = pa.record_batch([pa.array(values, kind)], names=["c"])
    for start, stop in itertools.combinations_with_replacement(range(4), 2):
        tensor = torch_columns(batch.slice(start, stop - start))["c"]
        assert tensor.dtype == DTYPES[kind]
        assert tensor.tolist() == expected[start:stop]


@pytest.mark.parametrize("kind", NUMBER_TYPES, ids=str)
def test_several_chunks_convert_to_one_tensor(kind):
    values, expected = example_of(kind)
    table = pa.table({"c": pa.chunked_array([values[:1], [], values[1:]], kind)})
    assert torch_columns(table)["c"].tolist() == expected


@pytest.mark.parametrize("kind", NUMBER_TYPES, ids=str)
def test_numbers_in_structs_lists_and_dictionaries(kind):
    values, expected = example_of(kind)
    struct = column([{"a": value} for value in values], pa.struct([("a", kind)]))["c"]["a"]
    assert (struct.dtype, struct.tolist()) == (DTYPES[kind], expected)
    fixed = column([values, values], pa.list_(kind, 3))["c"]
    assert (fixed.dtype, fixed.tolist()) == (DTYPES[kind], [expected, expected])
    lists = column([values, []], pa.list_(kind), ragged="list")["c"]
    assert [row.tolist() for row in lists] == [expected, []]
    if not pa.types.is_boolean(kind) and not pa.types.is_float16(kind):
        encoded = pa.array(values, kind).dictionary_encode()
        assert torch_columns(pa.record_batch([encoded], names=["c"]))["c"].tolist() == expected


def test_the_largest_unsigned_numbers_fit_or_are_refused():
    assert column([2**16 - 1], pa.uint16())["c"].tolist() == [2**16 - 1]
    assert column([2**32 - 1], pa.uint32())["c"].tolist() == [2**32 - 1]
    assert column([2**63 - 1], pa.uint64())["c"].tolist() == [2**63 - 1]
    with pytest.raises(ValueError, match=r"column 'c' holds 9223372036854775808"):
        column([1, 2**63], pa.uint64())


@pytest.mark.parametrize("registered", [True, False])
def test_lances_bfloat16(registered):
    floats = torch.tensor([1.5, -2.0, 0.0]).bfloat16()
    raw = floats.view(torch.int16).numpy().tobytes()
    array = pa.Array.from_buffers(pa.binary(2), 3, [None, pa.py_buffer(raw)])
    metadata = {"ARROW:extension:name": "lance.bfloat16"} if registered else {}
    schema = pa.schema([pa.field("c", array.type, metadata=metadata)])
    tensor = torch_columns(pa.record_batch([array], schema=schema))["c"]
    assert tensor.dtype == (torch.bfloat16 if registered else torch.uint8)
    if registered:
        assert tensor.equal(floats)


# -- shapes ----------------------------------------------------------------------------------


def test_fixed_size_lists_are_tensors_with_a_dimension_for_each_level():
    kind = pa.list_(pa.list_(pa.float32(), 2), 3)
    rows = np.arange(24, dtype=np.float32).reshape(4, 3, 2).tolist()
    batch = pa.record_batch([pa.array(rows, kind)], names=["c"])
    assert torch_columns(batch)["c"].shape == (4, 3, 2)
    assert torch_columns(batch.slice(1, 2))["c"].tolist() == rows[1:3]
    assert torch_columns(batch.slice(4))["c"].shape == (0, 3, 2)


@pytest.mark.parametrize("order", [None, [2, 0, 1]])
def test_fixed_shape_tensors_have_their_logical_shape(order):
    kind = pa.fixed_shape_tensor(pa.int16(), [2, 3, 4], permutation=order)
    storage = pa.array(np.arange(48).reshape(2, 24).tolist(), kind.storage_type)
    array = pa.ExtensionArray.from_storage(kind, storage)
    tensor = torch_columns(pa.record_batch([array], names=["c"]))["c"]
    physical = np.arange(48).reshape(2, 2, 3, 4)
    # Arrow's specification: dimension i of the tensor is dimension permutation[i] of the storage.
    logical = physical if order is None else physical.transpose(0, 3, 1, 2)
    assert np.array_equal(tensor.numpy(), logical)


def test_fixed_size_binary_is_bytes():
    tensor = column([b"abc", b"xyz"], pa.binary(3))["c"]
    assert (tensor.dtype, tensor.tolist()) == (torch.uint8, [list(b"abc"), list(b"xyz")])
    assert column([], pa.binary(3))["c"].shape == (0, 3)


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_lists_become_nested_tensors_padded_ones_or_lists(kind):
    rows = [[9], [1, 2, 3], [], [4, 5]]
    batch = pa.record_batch([pa.array(rows, kind(pa.int32()))], names=["c"]).slice(1)
    nested = make_converter("torch")(batch)["c"]
    assert nested.is_nested
    assert nested.layout == torch.jagged
    assert [row.tolist() for row in nested.unbind()] == rows[1:]
    # torch pads to the longest list only if it is told which that is.
    assert nested.to_padded_tensor(-1).tolist() == [[1, 2, 3], [-1, -1, -1], [4, 5, -1]]
    padded = make_converter("torch", ragged="pad")(batch)
    assert padded["c"].tolist() == [[1, 2, 3], [0, 0, 0], [4, 5, 0]]
    assert padded["c_length"].tolist() == [3, 0, 2]
    listed = make_converter("torch", ragged="list")(batch)["c"]
    assert [row.tolist() for row in listed] == rows[1:]


def test_lists_of_vectors_are_ragged_in_one_dimension_only():
    rows = [[[1, 2], [3, 4]], [[5, 6]]]
    padded = column(rows, pa.list_(pa.list_(pa.int64(), 2)), ragged="pad")
    assert padded["c"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [0, 0]]]


def test_no_rows_at_all_make_empty_batches_of_the_same_kind():
    kind = pa.list_(pa.float32())
    assert column([], kind)["c"].size(0) == 0
    assert column([], kind, ragged="pad")["c"].shape == (0, 0)
    assert column([], kind, ragged="list")["c"] == []
    assert column([], pa.string())["c"] == []


def test_a_length_column_that_is_there_already_is_refused():
    arrays = [pa.array([[1]]), pa.array([1])]
    batch = pa.record_batch(arrays, names=["c", "c_length"])
    with pytest.raises(ValueError, match="'c_length'"):
        make_converter("torch", ragged="pad")(batch)


# -- Python values ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string(), ["a", "b"]),
        (pa.large_string(), ["a", "b"]),
        (pa.string_view(), ["a", "b"]),
        (pa.binary(), [b"a", b"b"]),
        (pa.large_binary(), [b"a", b"b"]),
        (pa.binary_view(), [b"a", b"b"]),
        (pa.map_(pa.string(), pa.int32()), [[("k", 1)], []]),
        (pa.list_(pa.string()), [["a"], []]),
        (pa.list_(pa.string(), 1), [["a"], ["b"]]),
        (pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
        (pa.null(), [None, None]),
    ],
    ids=str,
)
def test_what_is_no_number_stays_python_values(kind, values):
    assert column(values, kind)["c"] == values
    nested = column([{"a": value} for value in values], pa.struct([("a", kind)]))
    assert nested["c"]["a"] == values


def test_unions_are_python_values():
    types = pa.array([0, 1, 0], pa.int8())
    union = pa.UnionArray.from_sparse(types, [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])])
    assert torch_columns(pa.record_batch([union], names=["c"]))["c"] == [1, "b", 3]


def test_structs_are_dicts_nested_as_deep_as_they_are():
    kind = pa.struct([("a", pa.int32()), ("b", pa.struct([("c", pa.string())]))])
    values = column([{"a": 1, "b": {"c": "x"}}, {"a": 2, "b": {"c": "y"}}], kind)["c"]
    assert values["a"].tolist() == [1, 2]
    assert values["b"] == {"c": ["x", "y"]}


def test_a_struct_without_fields_is_an_empty_dict():
    batch = pa.record_batch([pa.array([{}, {}], pa.struct([]))], names=["c"])
    assert make_converter("torch")(batch) == {"c": {}}
    assert make_converter("torch").each(batch, [1, 1]) == [{"c": {}}, {"c": {}}]


# -- memory ----------------------------------------------------------------------------------


def test_tensors_share_the_memory_of_the_column_where_they_can():
    batch = pa.record_batch({"x": np.arange(100), "y": np.zeros(100, np.float32)})
    for name, tensor in torch_columns(batch.slice(10)).items():
        assert tensor.data_ptr() == batch[name].buffers()[1].address + 10 * tensor.element_size()


@pytest.mark.parametrize(
    "convert", [torch_columns, lambda batch: make_converter("torch").each(batch, [2])[0]]
)
def test_no_two_tensors_share_memory(convert):
    number, text = pa.array([1, 2, 3]), pa.array(["a", "b", "c"])
    lists = pa.array([[1], [], [2, 3]], pa.list_(pa.int16()))
    vectors = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2))
    struct = pa.StructArray.from_arrays([number, lists, vectors], ["x", "l", "v"])
    arrays = [number, number, struct, struct, lists, vectors, text, text]
    batch = pa.record_batch(arrays, names=list("abcdefgh")).slice(1)
    got = convert(batch)
    assert got["a"].tolist() == got["b"].tolist() == got["d"]["x"].tolist() == [2, 3]
    leaves = [got["a"], got["b"], got["e"].values(), got["f"]]
    for name in ("c", "d"):
        leaves += [got[name]["x"], got[name]["l"].values(), got[name]["v"]]
    for number, leaf in enumerate(leaves):
        leaf.fill_(number)
    for number, leaf in enumerate(leaves):
        assert leaf.unique().tolist() == [number]


def test_tensors_outlive_the_batch_they_came_from():
    batch = pa.record_batch(
        {"x": np.arange(1000), "v": pa.array([[1.0, 2.0]] * 1000, pa.list_(pa.float64(), 2))}
    )
    columns = torch_columns(batch)
    del batch
    pa.array(np.zeros(100_000))
    assert columns["x"].sum() == 499_500
    assert columns["v"].sum() == 3000


def test_batches_made_together_may_be_changed_and_saved_apart():
    batch = pa.record_batch({"x": np.arange(10), "b": pa.array([b"ab"] * 10, pa.binary(2))})
    first, second = make_converter("torch").each(batch, [5, 5])
    second["x"].requires_grad_(False).mul_(2)
    assert first["x"].tolist() == [0, 1, 2, 3, 4]
    assert first["x"]._version == 0
    assert first["x"].untyped_storage().nbytes() == 5 * 8
    assert second["x"].tolist() == [10, 12, 14, 16, 18]


# -- formats ---------------------------------------------------------------------------------


def test_an_unknown_format_names_the_near_one_and_all():
    with pytest.raises(ValueError, match="unknown format 'toch': did you mean 'torch'"):
        make_converter("toch")
    with pytest.raises(ValueError, match=", ".join(map(repr, FORMATS))):
        make_converter("xyz")
    with pytest.raises(ValueError, match="ragged must be one of 'jagged', 'pad', 'mask', 'list'"):
        make_converter("torch", ragged="square")


@pytest.mark.parametrize("format", ["torch_row", "torch_col"])
def test_text_has_no_place_in_a_matrix(format):
    batch = pa.record_batch({"x": [1], "s": ["a"]})
    with pytest.raises(ValueError, match=f"column 's' of type string has no place.*{format}"):
        make_converter(format)(batch)


def test_rows_are_promoted_to_one_dtype_and_vectors_add_their_elements():
    batch = pa.record_batch(
        {"x": [1, 2], "v": pa.array([[0.5, 1.5], [2.5, 3.5]], pa.list_(pa.float32(), 2))}
    )
    rows = make_converter("torch_row")(batch)
    assert [row.tolist() for row in rows] == [[1, 0.5, 1.5], [2, 2.5, 3.5]]
    with pytest.raises(ValueError, match="must have one shape"):
        make_converter("torch_col")(batch)
