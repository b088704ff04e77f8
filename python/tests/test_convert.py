# SPDX-License-Identifier: Apache-2.0
"""Every Arrow type becomes the tensor, or the Python values, that the type table says."""

import ast
import datetime
import decimal
import itertools
import math
import re
import struct

import numpy as np
import pyarrow as pa
import pytest
import torch
from arrow_strategies import (
    FLOAT_TYPES,
    INTEGER_TYPES,
    LIST_TYPES,
    NUMBER_TYPES,
    TEMPORAL_TYPES,
    TEXT_TYPES,
    BFloat16,
    array_of,
    bfloat16_bytes,
    record_batches,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.convert import FORMATS, make_converter, torch_columns
from lancedb.integrations._torch.nulls import NullPolicy

DTYPES = {
    pa.int8(): torch.int8,
    pa.int16(): torch.int16,
    pa.int32(): torch.int32,
    pa.int64(): torch.int64,
    pa.uint8(): torch.uint8,
    pa.uint16(): torch.int32,
    pa.uint32(): torch.int64,
    pa.uint64(): torch.int64,
    pa.float16(): torch.float16,
    pa.float32(): torch.float32,
    pa.float64(): torch.float64,
    pa.bool_(): torch.bool,
    pa.decimal128(9, 2): torch.float64,
    **dict.fromkeys(TEMPORAL_TYPES, torch.int64),
}
MOMENTS = {
    pa.date32(): (datetime.date(1970, 1, 3), 2),
    pa.date64(): (datetime.date(1970, 1, 2), 86_400_000),
    pa.time32("s"): (datetime.time(0, 1, 1), 61),
    pa.time32("ms"): (datetime.time(0, 0, 2), 2000),
    pa.time64("us"): (datetime.time(0, 0, 0, 7), 7),
    pa.time64("ns"): (datetime.time(0, 0, 0, 7), 7000),
    pa.timestamp("s"): (datetime.datetime(1970, 1, 1, 0, 1), 60),
    pa.timestamp("us"): (datetime.datetime(1970, 1, 1, 0, 0, 1), 1_000_000),
    pa.timestamp("ms", tz="UTC"): (datetime.datetime(1970, 1, 1, 0, 0, 1), 1000),
    pa.duration("ms"): (datetime.timedelta(seconds=3), 3000),
}


def example_of(kind):
    """Three values of a type, and the numbers that stand for them in a tensor."""
    if kind in MOMENTS:
        value, number = MOMENTS[kind]
        return [value] * 3, [number] * 3
    if pa.types.is_decimal(kind):
        return [decimal.Decimal("1.25"), decimal.Decimal("-3.50"), decimal.Decimal(0)], [
            1.25,
            -3.5,
            0,
        ]
    if pa.types.is_boolean(kind):
        return [True, False, True], [True, False, True]
    return [1, 2, 3], [1, 2, 3]


def column(values, kind, **options):
    """One column converted to torch, by name."""
    batch = pa.record_batch([pa.array(values, kind)], names=["c"])
    return make_converter("torch", **options)(batch)


def plain(value):
    """Whatever a conversion gave, as Python values."""
    if isinstance(value, torch.Tensor):
        return [plain(row) for row in value.unbind()] if value.is_nested else value.tolist()
    if isinstance(value, dict):
        return {name: plain(field) for name, field in value.items()}
    return [plain(each) if isinstance(each, torch.Tensor) else each for each in value]


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


# -- nulls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NUMBER_TYPES, ids=str)
def test_nulls_name_the_column_their_count_and_the_way_out(kind):
    values, _ = example_of(kind)
    with pytest.raises(ValueError, match=r"column 'c' has 2 nulls.*c IS NOT NULL") as caught:
        column([None, *values, None], kind)
    advice = re.search(r"pass fill_null=(\S+) \(any value\)", str(caught.value))[1]
    column([None, *values, None], kind, fill_null=ast.literal_eval(advice))


def test_the_advice_for_bytes_is_as_long_as_they_are():
    with pytest.raises(ValueError, match=r"pass fill_null=bytes\(3\) \(any value\)"):
        column([None], pa.binary(3))
    assert column([None], pa.binary(3), fill_null=bytes(3))["c"].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("kind", [*INTEGER_TYPES, *FLOAT_TYPES], ids=str)
def test_nulls_are_filled_by_a_value_for_all_or_by_column(kind):
    for fill in (5, {"c": 5}):
        filled = column([1, None, 3], kind, fill_null=fill)["c"]
        assert (filled.dtype, filled.tolist()) == (DTYPES[kind], [1, 5, 3])


def test_nulls_of_other_kinds_are_filled_too():
    assert column([True, None], pa.bool_(), fill_null=False)["c"].tolist() == [True, False]
    day = datetime.date(1970, 1, 2)
    assert column([None, day], pa.date32(), fill_null={"c": day})["c"].tolist() == [1, 1]
    vectors = column([[1.0, 2.0], None], pa.list_(pa.float32(), 2), fill_null=0)["c"]
    assert vectors.tolist() == [[1, 2], [0, 0]]
    holes = column([[1.0, None], [3.0, 4.0]], pa.list_(pa.float32(), 2), fill_null=-1)["c"]
    assert holes.tolist() == [[1, -1], [3, 4]]
    lists = column([[1], None, [None]], pa.list_(pa.int32()), fill_null=7, ragged="list")["c"]
    assert [row.tolist() for row in lists] == [[1], [], [7]]
    struct = pa.struct([("a", pa.int32())])
    assert column([{"a": None}, None], struct, fill_null={"c.a": 4})["c"]["a"].tolist() == [4, 4]


def test_a_fill_that_does_not_fit_and_an_unknown_column_are_refused():
    with pytest.raises(ValueError, match="fill_null='x' does not fit column 'c' of type int64"):
        column([None], pa.int64(), fill_null="x")
    with pytest.raises(ValueError, match="fill_null names an unknown column 'd'"):
        column([1], pa.int64(), fill_null={"d": 0})


@pytest.mark.parametrize("format", ["torch", "torch_row", "torch_col"])
@pytest.mark.parametrize("name", ["c.no_such", "c.s.b.x", "no_such.a", "a"])
def test_a_field_that_is_not_there_is_refused_with_the_near_ones(format, name):
    kind = pa.struct([("a", pa.int32()), ("s", pa.struct([("b", pa.int32())]))])
    batch = pa.record_batch([pa.array([], kind)], names=["c"])
    with pytest.raises(ValueError, match=f"fill_null names an unknown column '{name}'"):
        make_converter(format, fill_null={name: 0})(batch)
    make_converter("torch", fill_null={"c.a": 0, "c.s.b": 0})(batch)
    with pytest.raises(ValueError, match=r"did you mean 'c\.s\.b'"):
        make_converter("torch", fill_null={"c.s.d": 0})(batch)


NOON = datetime.datetime(2001, 2, 3, 12, 0, 0, 500)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *itertools.product([1.5, math.nan, math.inf], [*INTEGER_TYPES, *TEMPORAL_TYPES]),
        (-1, pa.uint8()),
        (300, pa.int8()),
        (1e300, pa.float32()),
        (70_000, pa.float16()),
        (2**53 + 1, pa.float64()),
        (math.nan, pa.decimal128(9, 2)),
        (decimal.Decimal("1.234"), pa.decimal128(9, 2)),
        (NOON, pa.timestamp("s")),
        (NOON, pa.date32()),
        (datetime.timedelta(milliseconds=1), pa.duration("s")),
        (NOON.time(), pa.time32("s")),
        ("5", pa.int64()),
        (0, pa.bool_()),
        (0, pa.binary(2)),
        ("0", pa.date32()),
    ],
    ids=str,
)
def test_a_fill_that_would_become_another_value_is_refused(value, kind):
    for array_kind, path in ((kind, "c"), (pa.struct([("a", kind)]), "c.a")):
        with pytest.raises(ValueError, match=f"does not fit column '{path}' of type"):
            column([None], array_kind, fill_null=value)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (2.0, pa.int8(), 2),
        (np.int64(2), pa.uint8(), 2),
        (np.float32(0.5), pa.float64(), 0.5),
        (math.inf, pa.float16(), math.inf),
        (decimal.Decimal("1.2"), pa.decimal128(9, 2), 1.2),
        (0, pa.time32("s"), 0),
        (datetime.datetime(1970, 1, 2), pa.date32(), 1),
        (datetime.datetime(1970, 1, 2, tzinfo=datetime.timezone.utc), pa.timestamp("s"), 86_400),
        (datetime.datetime(1970, 1, 2), pa.timestamp("s", tz="UTC"), 86_400),
        (datetime.timedelta(seconds=3), pa.duration("s"), 3),
        (np.datetime64(7, "us"), pa.timestamp("us"), 7),
    ],
    ids=str,
)
def test_a_fill_of_another_type_that_holds_the_same_value_is_taken(value, kind, expected):
    assert column([None], kind, fill_null=value)["c"].tolist() == [expected]


def test_none_stays_none_among_python_values():
    assert column(["a", None], pa.string())["c"] == ["a", None]
    assert column([b"a", None], pa.binary(), fill_null=0)["c"] == [b"a", None]


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
        (pa.list_(pa.list_(pa.int8())), [[[1], []], []]),
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


# -- every row of the table ------------------------------------------------------------------

HALVES = [bfloat16_bytes(value) for value in (1.5, -2.0, 0.5)]
SIX = np.arange(18).reshape(3, 6).tolist()
UNTYPED_BFLOAT16 = pa.field(
    "item", pa.binary(2), metadata={"ARROW:extension:name": "lance.bfloat16"}
)

# Type, three values, and what a tensor or list of them reads.
ROWS = [
    *((kind, *example_of(kind)) for kind in NUMBER_TYPES),
    (BFloat16(), HALVES, [1.5, -2, 0.5]),
    (pa.list_(UNTYPED_BFLOAT16, 2), [HALVES[:2]] * 3, [[1.5, -2]] * 3),
    (pa.list_(BFloat16(), 1), [[half] for half in HALVES], [[1.5], [-2], [0.5]]),
    (pa.list_(UNTYPED_BFLOAT16), [HALVES, [], HALVES[2:]], [[1.5, -2, 0.5], [], [0.5]]),
    (pa.list_(pa.int8(), 2), [[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [5, 6]]),
    (pa.list_(pa.list_(pa.float32(), 1), 2), [[[1], [2]]] * 3, [[[1], [2]]] * 3),
    (pa.fixed_shape_tensor(pa.int16(), [2, 3]), SIX, np.reshape(SIX, (3, 2, 3)).tolist()),
    (
        pa.fixed_shape_tensor(pa.int16(), [2, 3], permutation=[1, 0]),
        SIX,
        np.reshape(SIX, (3, 2, 3)).transpose(0, 2, 1).tolist(),
    ),
    *(
        (lists(pa.int32()), [[1, 2], [], [3]], [[1, 2], [], [3]])
        for lists in (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)
    ),
    (pa.list_(pa.list_(pa.int8(), 2)), [[[1, 2]], [], [[3, 4]] * 2], [[[1, 2]], [], [[3, 4]] * 2]),
    (pa.binary(2), [b"ab", b"cd", b"ef"], [list(b"ab"), list(b"cd"), list(b"ef")]),
    *((kind, ["a", "", "b"], ["a", "", "b"]) for kind in TEXT_TYPES[:3]),
    *((kind, [b"a", b"", b"b"], [b"a", b"", b"b"]) for kind in TEXT_TYPES[3:]),
    (pa.map_(pa.string(), pa.int32()), [[("k", 1)], [], [("l", 2)]], [[("k", 1)], [], [("l", 2)]]),
    (pa.uuid(), [bytes(16)] * 3, [[0] * 16] * 3),
    (pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a"], ["a", "b", "a"]),
    (pa.dictionary(pa.int8(), pa.int64()), [1, 2, 1], [1, 2, 1]),
]
EVERY_ROW = pytest.mark.parametrize(("kind", "values", "expected"), ROWS, ids=lambda v: str(v)[:40])


def converted(array):
    return torch_columns(pa.record_batch([array], names=["c"]))["c"]


@EVERY_ROW
def test_every_type_in_slices_chunks_structs_one_row_and_none(kind, values, expected):
    array = array_of(values, kind)
    in_struct = pa.StructArray.from_arrays([array], fields=[pa.field("a", kind)])
    deeper = pa.StructArray.from_arrays([in_struct], ["s"])
    whole = converted(array)
    for start, stop in itertools.combinations_with_replacement(range(4), 2):
        part = slice(start, stop)
        found = [
            converted(array[part]),
            converted(in_struct[part])["a"],
            converted(deeper[part])["s"]["a"],
            converted(array_of(values[part], kind)),
            *([converted(pa.nulls(0, kind))] if start == stop else []),
        ]
        for one in found:
            assert plain(one) == expected[part]
            if isinstance(whole, torch.Tensor) and not whole.is_nested:
                assert (one.dtype, one.shape[1:]) == (whole.dtype, whole.shape[1:])
    chunks = pa.chunked_array([array[:1], array[:0], array[1:]])
    assert plain(torch_columns(pa.table({"c": chunks}))["c"]) == expected


@EVERY_ROW
def test_every_type_with_nulls(kind, values, expected):
    for array, path in (
        (array_of([*values, None], kind), "c"),
        (array_of([*({"a": value} for value in values), None], pa.struct([("a", kind)])), "c.a"),
    ):
        batch = pa.record_batch([array], names=["c"]).slice(1)
        if isinstance(expected[0], (str, bytes)) or pa.types.is_map(kind):
            got, filled = torch_columns(batch)["c"], None
        else:
            with pytest.raises(ValueError, match=rf"column '{path}' has 1 null"):
                torch_columns(batch)
            value = fill_of(kind)
            got = make_converter("torch", fill_null={path: value})(batch)["c"]
            filled = [] if isinstance(kind, LIST_TYPES) else zeros_like(expected[0])
        got = got["a"] if path == "c.a" else got
        assert plain(got) == [*expected[1:], filled]


def fill_of(kind):
    """A zero of a type, as `fill_null` takes it."""
    if isinstance(kind, pa.UuidType) or pa.types.is_fixed_size_binary(kind):
        return bytes(16 if isinstance(kind, pa.UuidType) else kind.byte_width)
    return False if pa.types.is_boolean(kind) else 0


def zeros_like(value):
    return [zeros_like(each) for each in value] if isinstance(value, list) else 0


@EVERY_ROW
def test_every_type_in_batches_made_together(kind, values, expected):
    batch = pa.record_batch([array_of(values * 2, kind)], names=["c"]).slice(1)
    together = [plain(part["c"]) for part in make_converter("torch").each(batch, [2, 3])]
    assert together == [expected[1:], expected]


def test_bfloat16_is_float32_in_rows_and_its_nulls_are_nan():
    batch = pa.record_batch([array_of([*HALVES[:2], None], BFloat16())], names=["c"])
    rows = make_converter("torch_row")(batch)
    assert [row.dtype for row in rows] == [torch.float32] * 3
    assert [row.item() for row in rows[:2]] == [1.5, -2]
    assert rows[2].isnan().all()


def test_views_of_lists_that_overlap_and_are_out_of_order():
    offsets, sizes = pa.array([3, 0, 1, 0], pa.int32()), pa.array([2, 2, 3, 0], pa.int32())
    views = pa.ListViewArray.from_arrays(offsets, sizes, pa.array([10, 11, 12, 13, 14]))
    assert plain(converted(views)) == views.to_pylist()
    assert plain(converted(views[1:3])) == [[10, 11], [11, 12, 13]]


# -- any schema ------------------------------------------------------------------------------


def numbers(value, kind):
    """A Python value of a type as the tensor of it should read."""
    if isinstance(kind, BFloat16):
        return struct.unpack("<f", bytes(2) + value)[0]
    if isinstance(kind, pa.FixedShapeTensorType):
        return np.reshape(value, kind.shape).tolist()
    if isinstance(value, list) and not pa.types.is_map(kind):
        return [numbers(each, kind.value_type) for each in value]
    if isinstance(value, dict):
        return {field.name: numbers(value[field.name], field.type) for field in kind}
    if pa.types.is_decimal(kind):
        return pytest.approx(float(value))
    if pa.types.is_temporal(kind):
        return (
            pa.scalar(value, kind).cast(pa.int64() if kind.bit_width == 64 else pa.int32()).as_py()
        )
    if pa.types.is_fixed_size_binary(kind):
        return list(value)
    return value


def transposed(rows, kind):
    if pa.types.is_struct(kind):
        return {
            field.name: transposed([row[field.name] for row in rows], field.type) for field in kind
        }
    return rows


@given(record_batches(views=True))
def test_any_batch_holds_what_its_python_values_say(batch):
    got = torch_columns(batch)
    assert list(got) == batch.schema.names
    for field in batch.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        rows = [numbers(value, kind) for value in batch[field.name].to_pylist()]
        assert plain(got[field.name]) == transposed(rows, kind)


@given(
    record_batches(max_rows=20, views=True), st.data(), st.sampled_from(["jagged", "pad", "list"])
)
@settings(max_examples=60)
def test_batches_made_together_equal_batches_made_one_by_one(batch, data, ragged):
    counts, left = [], batch.num_rows
    while left:
        counts.append(data.draw(st.integers(1, left)))
        left -= counts[-1]
    for format in ("torch", "python", "arrow"):
        convert = make_converter(format, ragged=ragged)
        starts = np.cumsum([0, *counts])
        alone = [convert(batch.slice(*at)) for at in zip(starts, counts, strict=False)]
        together = convert.each(batch, counts)
        if format == "torch":
            for one, other in zip(together, alone, strict=True):
                assert plain(one) == plain(other)
                assert list(one) == list(other)
        else:
            assert together == alone


@given(record_batches(min_rows=1, nulls=True))
@settings(max_examples=60)
def test_filling_every_null_with_zero_leaves_no_null_among_numbers(batch):
    numeric = [
        f.name for f in batch.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)
    ]
    got = torch_columns(batch.select(numeric), NullPolicy(0))
    for name in numeric:
        assert got[name].tolist() == [0 if v is None else v for v in batch[name].to_pylist()]


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
    with pytest.raises(ValueError, match=", ".join(FORMATS)):
        make_converter("xyz")
    with pytest.raises(ValueError, match="ragged must be one of jagged, pad, list"):
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
