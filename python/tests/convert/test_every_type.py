# SPDX-License-Identifier: Apache-2.0
"""Every row of the type table, in every form that a column has, and any schema made of them."""

import itertools
import struct

import numpy as np
import pyarrow as pa
import pytest
import torch
from arrow_strategies import (
    LIST_TYPES,
    NUMBER_TYPES,
    TEXT_TYPES,
    BFloat16,
    array_of,
    bfloat16_bytes,
    record_batches,
)
from conversions import example_of, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.convert.formats import make_converter
from lancedb.integrations._torch.convert.nulls import NullPolicy
from lancedb.integrations._torch.convert.tensors import is_ragged
from lancedb.integrations._torch.convert.torch_columns import torch_columns

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
    (pa.bool8(), [1, 0, 1], [True, False, True]),
    (pa.list_(pa.list_(pa.int16())), [[[1], [2]]] * 3, [[[1], [2]]] * 3),
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
                assert one.dtype == whole.dtype
                if len(one) or not is_ragged(kind):  # the lengths of no lists are not known
                    assert one.shape[1:] == whole.shape[1:]
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
    return False if pa.types.is_boolean(kind) or isinstance(kind, pa.Bool8Type) else 0


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
    for convert in (
        make_converter("torch", ragged=ragged),
        make_converter("python"),
        make_converter("arrow"),
    ):
        starts = np.cumsum([0, *counts])
        alone = [convert(batch.slice(*at)) for at in zip(starts, counts, strict=False)]
        together = convert.each(batch, counts)
        if convert.format == "torch":
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
