# SPDX-License-Identifier: Apache-2.0
"""Nulls in numbers are refused with the way out, or filled with a value that fits."""

import ast
import datetime
import decimal
import itertools
import math
import re
import uuid

import numpy as np
import pandas
import pyarrow as pa
import pytest
import torch
from arrow_strategies import (
    FLOAT_TYPES,
    INTEGER_TYPES,
    NUMBER_TYPES,
    TEMPORAL_TYPES,
)
from conversions import DTYPES, column, example_of
from lancedb.integrations._torch.common.counters import Stats
from lancedb.integrations._torch.convert.formats import make_converter
from lancedb.integrations._torch.convert.transform import Output
from lancedb.integrations._torch.table.handle import empty_batch
from lancedb.integrations.torch import LanceIterableTorchDataset


@pytest.mark.parametrize("kind", NUMBER_TYPES, ids=str)
def test_nulls_name_the_column_their_count_and_the_way_out(kind):
    values, _ = example_of(kind)
    with pytest.raises(ValueError, match=r"column 'c' has 2 nulls.*c IS NOT NULL") as caught:
        column([None, *values, None], kind)
    advice = re.search(r"pass fill_null=(\S+) \(any value\)", str(caught.value))[1]
    column([None, *values, None], kind, fill_null=ast.literal_eval(advice))


INSIDE = {
    "list": (pa.list_(pa.int32()), 1),
    "large_list": (pa.large_list(pa.timestamp("us")), 5),
    "vector": (pa.list_(pa.float32(), 2), 1.0),
    "bool": (pa.list_(pa.bool_()), True),
}


@pytest.mark.parametrize("kind", INSIDE)
@pytest.mark.parametrize("ragged", ["jagged", "pad"])
def test_the_filter_advised_for_nulls_in_lists_leaves_out_those_rows_alone(db, kind, ragged):
    type, value = INSIDE[kind]
    rows = pa.array([[value, value], [None, value], [value, value]], type)
    table = db.create_table("holes", pa.table({"id": [0, 1, 2], "c": rows}))

    def made(**options):
        options = {"format": "torch", "batch_size": 2, "drop_last": False, **options}
        return list(LanceIterableTorchDataset(table, ragged=ragged, **options))

    with pytest.raises(ValueError, match="column 'c' has 1 null in its lists, which") as caught:
        made()
    advice = re.search(r"or filter='(.*)'", str(caught.value))[1]
    assert [batch["id"].tolist() for batch in made(filter=advice)] == [[0, 2]]
    assert made(fill_null=ast.literal_eval(re.search(r"fill_null=(\w+) ", str(caught.value))[1]))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.list_(pa.list_(pa.int32())), [[[1, None]]]),
        (pa.list_(pa.list_(pa.int32())), [[[1], None]]),
        (pa.list_(pa.list_(pa.int32(), 2)), [[[1, 2], None]]),
        (pa.list_(pa.list_(pa.int32(), 2)), [[[1, None]]]),
    ],
    ids=["value", "list", "vector", "value of a vector"],
)
def test_no_filter_is_advised_for_nulls_that_none_finds(kind, values):
    message = r"1 null in its lists.*\(any value\) or fill_null=\{'c': value\}$"
    with pytest.raises(ValueError, match=message):
        column(values, kind)
    assert "c" in column(values, kind, fill_null=0)


def test_the_advice_for_bytes_is_as_long_as_they_are():
    with pytest.raises(ValueError, match=r"pass fill_null=bytes\(3\) \(any value\)"):
        column([None], pa.binary(3))
    assert column([None], pa.binary(3), fill_null=bytes(3))["c"].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("kind", [*INTEGER_TYPES, *FLOAT_TYPES], ids=str)
def test_nulls_are_filled_by_a_value_for_all_or_by_column(kind):
    (one, _, three), _ = example_of(kind)
    for fill in (5, {"c": 5}):
        filled = column([one, None, three], kind, fill_null=fill)["c"]
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
        check({"c": pa.int64()}, fill_null={"d": 0})


@pytest.mark.parametrize("format", ["torch", "torch_row", "torch_col"])
@pytest.mark.parametrize("name", ["c.no_such", "c.s.b.x", "no_such.a", "a"])
def test_a_field_that_is_not_there_is_refused_with_the_near_ones(format, name):
    kind = pa.struct([("a", pa.int32()), ("s", pa.struct([("b", pa.int32())]))])
    columns = {"c": kind if format == "torch" else pa.int32()}
    with pytest.raises(ValueError, match=f"fill_null names an unknown column '{name}'"):
        check(columns, format, fill_null={name: 0})
    check({"c": kind}, fill_null={"c.a": 0, "c.s.b": 0})
    with pytest.raises(ValueError, match=r"did you mean 'c\.s\.b'"):
        check({"c": kind}, fill_null={"c.s.d": 0})


def check(columns, format="torch", **options):
    """What a dataset does with the columns of a table before it reads any row of them."""
    schema = pa.schema(list(columns.items()))
    make_converter(format, **options).check(empty_batch(schema))


@pytest.mark.parametrize(
    ("kind", "path", "wrong", "right"),
    [
        (pa.int32(), "c", 0.5, 1),
        (pa.struct([("a", pa.struct([("b", pa.uint8())]))]), "c.a.b", -1, 1),
        (pa.list_(pa.float32(), 2), "c", "x", 0.5),
        (pa.list_(pa.list_(pa.int8(), 2)), "c", 0.5, 1),
        (pa.fixed_shape_tensor(pa.int8(), [2, 2]), "c", 0.5, 1),
        (pa.dictionary(pa.int8(), pa.int64()), "c", "x", 1),
        (pa.binary(2), "c", b"abc", b"ab"),
        (pa.string(), "c", 0, ""),
        (pa.list_(pa.string()), "c", 0, []),
        (pa.list_(pa.int32()), "c", 0.5, []),
        (pa.list_(pa.float32()), "c", "x", np.float32(0)),
        (pa.decimal128(9, 2), "c", 0.125, 0.5),
    ],
    ids=str,
)
def test_a_fill_for_one_column_is_tried_before_there_is_a_null(kind, path, wrong, right):
    with pytest.raises(ValueError, match=f"fill_null={wrong!r} does not fit column '{path}'"):
        check({"c": kind, "d": pa.int8()}, fill_null={path: wrong})
    check({"c": kind, "d": pa.int8()}, fill_null={path: right})
    check({"c": kind, "d": pa.int8()}, fill_null={path: None})


LISTS = pa.list_(pa.list_(pa.int16()))


@pytest.mark.parametrize(
    ("kinds", "wrong", "right"),
    [
        ([pa.int32()], "zero", 0),
        ([pa.int32(), pa.string()], 0.5, 5),
        ([pa.bool_(), pa.date32()], "none", True),
        ([LISTS, pa.list_(pa.int8(), 2)], "zero", -1),
        ([pa.struct([("a", pa.int32())])], b"", 1),
        ([pa.int32(), pa.float32()], "zero", 0.5),  # which the second one takes
    ],
    ids=str,
)
def test_a_fill_for_all_columns_has_to_fit_one_of_them(kinds, wrong, right):
    schema = pa.schema([(f"c{number}", kind) for number, kind in enumerate(kinds)])
    with pytest.raises(ValueError, match=f"fill_null={wrong!r} does not fit column 'c0"):
        Output("torch", None, fill_null=wrong).check(empty_batch(schema))
    Output("torch", None, fill_null=right).check(empty_batch(schema))
    Output("torch", None, fill_null={}).check(empty_batch(schema))
    Output("torch", None, fill_null=wrong).check(empty_batch(pa.schema([("s", pa.string())])))


def test_a_fill_for_a_struct_is_refused_with_its_fields():
    kind = pa.struct([("a", pa.int32()), ("b", pa.int32())])
    with pytest.raises(ValueError, match=r"names 'c', a struct.*\['c\.a', 'c\.b'\]"):
        check({"c": kind}, fill_null={"c": 0})


@pytest.mark.parametrize("format", ["python", "python_col", "numpy", "pandas", "polars", "arrow"])
def test_a_fill_where_no_tensors_are_made_is_refused(format):
    with pytest.raises(ValueError, match=f"fill_null is for tensors, and format='{format}'"):
        make_converter(format, fill_null=0)


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
        (np.datetime64("NaT"), pa.timestamp("us")),
        (np.datetime64(5, "ns"), pa.timestamp("us")),
        (np.datetime64("2001-01-02T03"), pa.date32()),
        (np.datetime64(5, "D"), pa.int64()),
        (np.timedelta64(1, "ms"), pa.duration("s")),
        (np.timedelta64(1), pa.duration("s")),
        (np.timedelta64(1, "s"), pa.time32("s")),
        (pandas.NaT, pa.timestamp("ns")),
        (pandas.Timestamp(5), pa.timestamp("us")),
        (pa.scalar(300), pa.int8()),
        (pa.scalar(None, pa.int8()), pa.int8()),
        (torch.tensor([1]), pa.int8()),
        (np.array([1]), pa.int8()),
        (torch.tensor(0.5), pa.int8()),
        (decimal.Decimal("2.5"), pa.int8()),
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
        (np.float32(0.5), pa.float16(), 0.5),
        (decimal.Decimal("1.2"), pa.decimal128(9, 2), 1.2),
        (1.2, pa.decimal128(9, 2), 1.2),
        (np.int64(3), pa.decimal128(9, 2), 3),
        (decimal.Decimal("0.5"), pa.float32(), 0.5),
        (decimal.Decimal("0.5"), pa.float16(), 0.5),
        (0, pa.time32("s"), 0),
        (datetime.datetime(1970, 1, 2), pa.date32(), 1),
        (datetime.datetime(1970, 1, 2, tzinfo=datetime.timezone.utc), pa.timestamp("s"), 86_400),
        (datetime.datetime(1970, 1, 2), pa.timestamp("s", tz="UTC"), 86_400),
        (datetime.timedelta(seconds=3), pa.duration("s"), 3),
        (np.datetime64(7, "us"), pa.timestamp("us"), 7),
        (np.datetime64(7000, "ns"), pa.timestamp("us"), 7),
        (np.datetime64("1970-01-02"), pa.timestamp("s", tz="UTC"), 86_400),
        (np.datetime64("1970-01-02"), pa.date32(), 1),
        (np.datetime64("1970-02"), pa.date32(), 31),
        (np.datetime64("1970-01-01T01"), pa.timestamp("s"), 3600),
        (np.timedelta64(5, "s"), pa.duration("ms"), 5000),
        (np.timedelta64(1, "h"), pa.duration("s"), 3600),
        (pandas.Timestamp(5), pa.timestamp("ns"), 5),
        (pandas.Timedelta(5), pa.duration("ns"), 5),
        (datetime.date(1970, 1, 2), pa.timestamp("s"), 86_400),
        (datetime.timedelta(1), pa.duration("s"), 86_400),
        (np.bool_(True), pa.bool_(), True),
        (True, pa.bool8(), True),
        (torch.tensor(True), pa.bool_(), True),
        (torch.tensor(3), pa.int16(), 3),
        (torch.tensor(0.5), pa.float16(), 0.5),
        (np.float16(0.5), pa.float32(), 0.5),
        (np.array(3), pa.int16(), 3),
        (pa.scalar(3), pa.int8(), 3),
        (pa.scalar(1.5), pa.float16(), 1.5),
        (decimal.Decimal(2), pa.int8(), 2),
        (bytearray(b"ab"), pa.binary(2), list(b"ab")),
        pytest.param(memoryview(b"ab"), pa.binary(2), list(b"ab"), id="memoryview"),
        (uuid.UUID(int=5), pa.uuid(), [0] * 15 + [5]),
    ],
    ids=str,
)
def test_a_fill_of_another_type_that_holds_the_same_value_is_taken(value, kind, expected):
    assert column([None], kind, fill_null=value)["c"].tolist() == [expected]


def test_none_stays_none_among_python_values():
    assert column(["a", None], pa.string())["c"] == ["a", None]
    assert column([b"a", None], pa.binary(), fill_null=0)["c"] == [b"a", None]
    assert column(["a", None], pa.string(), fill_null={"c": None})["c"] == ["a", None]


@pytest.mark.parametrize(
    ("kind", "fill"),
    [
        (pa.string(), ""),
        (pa.large_string(), "none"),
        (pa.string_view(), ""),
        (pa.binary(), b""),
        (pa.dictionary(pa.int8(), pa.string()), ""),
        (pa.list_(pa.string()), []),
    ],
    ids=str,
)
def test_none_among_python_values_is_filled_where_its_column_is_named(kind, fill):
    value = [] if pa.types.is_list(kind) else type(fill)()
    assert column([value, None], kind, fill_null={"c": fill})["c"] == [value, fill]


def test_a_column_of_nothing_but_nulls_takes_any_value():
    assert column([None, None], pa.null(), fill_null={"c": "none"})["c"] == ["none", "none"]
    check({"c": pa.null()}, fill_null={"c": 0})


def test_lists_put_for_nulls_are_not_one_list():
    first, second = column([None, None], pa.list_(pa.string()), fill_null={"c": []})["c"]
    assert first is not second


def test_nulls_are_counted_in_all_parts_of_a_batch():
    kind = pa.struct([("a", pa.int32())])
    parts = [
        pa.record_batch(
            {"x": pa.array(values, pa.float64()), "s": pa.array([{"a": 1}] * len(values), kind)}
        )
        for values in ([1.0, 2.0], [None, 3.0], [4.0], [None, None])
    ]
    failed = Output("torch", None).convert_parts(iter(parts), Stats())
    assert str(failed.error).startswith("column 'x' has 3 nulls, which a tensor cannot hold")
    nested = [
        pa.record_batch({"s": pa.array([{"a": value} for value in values], kind)})
        for values in ([1], [None], [2, None])
    ]
    failed = Output("torch", None).convert_parts(iter(nested), Stats())
    assert str(failed.error).startswith("column 's.a' has 2 nulls")
