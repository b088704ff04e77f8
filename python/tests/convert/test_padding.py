# SPDX-License-Identifier: Apache-2.0
"""Lists are padded with what was asked for, to the lengths that were asked for, or refused."""

import datetime
import decimal
import itertools

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch
from arrow_strategies import bfloat16_bytes
from conversions import plain
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.convert.formats import make_converter
from lancedb.integrations._torch.table.handle import empty_batch
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from torch.utils.data import ConcatDataset, DataLoader

TOKENS = [[1, 2, 3], [4], [], [5, 6]]
MODES = ["jagged", "pad", "mask", "list"]


def of_lists(kind, rows=TOKENS, **options):
    batch = pa.record_batch([pa.array(rows, pa.list_(kind))], names=["c"])
    return make_converter("torch", **options)(batch)


def check(columns, **options):
    """What a dataset does with the columns of a table before it reads any row of them."""
    schema = pa.schema(list(columns.items()))
    make_converter(options.pop("format", "torch"), **options).check(empty_batch(schema))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    lists = pa.list_(pa.list_(pa.float32()))
    columns = {
        "tokens": pa.array(TOKENS, pa.list_(pa.int32())),
        "labels": pa.array(TOKENS, pa.list_(pa.int64())),
        "regular": pa.array([[[1, 2], [3, 4]]] * 4, lists),
        "boxes": pa.array([[[1, 2], [3, 4]], [[5, 6]], [], [[7, 8]]], lists),
        "uneven": pa.array([[[1, 2], [3]], [[4, 5]], [], [[]]], lists),
        "inside": pa.array([{"a": row} for row in TOKENS], pa.struct([("a", pa.list_(pa.int8()))])),
    }
    db = lancedb.connect(tmp_path_factory.mktemp("padding"))
    return db.create_table("lists", pa.table(columns))


# -- values ----------------------------------------------------------------------------------


def test_labels_are_padded_with_what_the_loss_ignores_and_tokens_with_zero(table):
    dataset = LanceTorchDataset(
        table,
        format="torch",
        columns=["tokens", "labels"],
        ragged="pad",
        pad_value={"labels": -100},
    )
    (batch,) = DataLoader(dataset, batch_size=4)
    assert batch["tokens"].tolist() == [[1, 2, 3], [4, 0, 0], [0, 0, 0], [5, 6, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3], [4, *[-100] * 2], [-100] * 3, [5, 6, -100]]
    assert batch["labels_length"].tolist() == [3, 1, 0, 2]


def test_a_mask_says_where_values_are_in_place_of_the_lengths(table):
    dataset = LanceIterableTorchDataset(
        table, format="torch", columns=["tokens"], ragged="mask", pad_value=9, batch_size=4
    )
    (batch,) = LanceDataLoader(dataset)
    assert list(batch) == ["tokens", "tokens_mask"]
    assert batch["tokens"].tolist() == [[1, 2, 3], [4, 9, 9], [9, 9, 9], [5, 6, 9]]
    assert batch["tokens_mask"].dtype == torch.bool
    assert batch["tokens_mask"].int().tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    "value", [-1, np.int16(-1), -1.0, torch.tensor(-1), np.array(-1)], ids=lambda v: repr(v)
)
def test_a_value_is_any_number_that_fits(value):
    assert of_lists(pa.int16(), ragged="pad", pad_value=value)["c"][1].tolist() == [4, -1, -1]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.uint16(), -100),  # their tensors are of int32
        (pa.float16(), float("nan")),
        (pa.float32(), float("-inf")),
        (pa.float64(), 0.5),
        (pa.date32(), -1),
        (pa.decimal128(9, 2), 0.125),
    ],
    ids=str,
)
def test_a_value_has_to_fit_the_tensor(kind, value):
    row = [decimal.Decimal(1) if pa.types.is_decimal(kind) else 1]
    if pa.types.is_date(kind):
        row = [datetime.date(1970, 1, 2)]
    check({"c": pa.list_(kind)}, ragged="pad", pad_value=value)
    padded = of_lists(kind, [row, []], ragged="pad", pad_value=value)["c"]
    assert padded[1].tolist() == pytest.approx([value], nan_ok=True)


def test_bfloat16_is_padded_too():
    halves = [bfloat16_bytes(value) for value in (1.5, -2.0, 0.5)]
    field = pa.field("item", pa.binary(2), metadata={"ARROW:extension:name": "lance.bfloat16"})
    batch = pa.record_batch([pa.array([halves, halves[:1]], pa.list_(field))], names=["c"])
    padded = make_converter("torch", ragged="pad", pad_value=-0.25)(batch)["c"]
    assert padded.dtype == torch.bfloat16
    assert padded.tolist() == [[1.5, -2, 0.5], [1.5, -0.25, -0.25]]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int32(), 0.5),
        (pa.uint8(), -100),
        (pa.int8(), 128),
        (pa.int64(), float("nan")),
        (pa.float16(), 70_000),
        (pa.bool_(), 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_named", [True, False])
def test_a_value_that_does_not_fit_is_refused_where_the_dataset_is_made(kind, value, is_named):
    columns = {"s": pa.struct([("a", pa.list_(pa.list_(kind)))]), "t": pa.list_(pa.string())}
    with pytest.raises(ValueError, match=f"pad_value={value} does not fit column 's.a'"):
        check(columns, ragged="mask", pad_value={"s.a": value} if is_named else value)


def test_a_dataset_refuses_it_too(table):
    for made in (LanceTorchDataset, LanceIterableTorchDataset):
        with pytest.raises(ValueError, match=r"pad_value=300 does not fit column 'inside\.a'"):
            made(table, format="torch", ragged="pad", pad_value={"inside.a": 300})


@pytest.mark.parametrize("argument", ["pad_value", "pad_to"])
def test_a_name_has_to_be_of_a_column_that_is_padded(argument):
    columns = {"tokens": pa.list_(pa.int32()), "n": pa.int32(), "texts": pa.list_(pa.string())}
    with pytest.raises(ValueError, match=f"{argument} names an unknown column 'token': did you"):
        check(columns, ragged="pad", **{argument: {"token": 1}})
    for name in ("n", "texts"):
        with pytest.raises(ValueError, match=rf"{argument} names '{name}', of type.*'tokens'"):
            check(columns, ragged="pad", **{argument: {name: 1}})


@pytest.mark.parametrize("value", ["a", [0], None, np.arange(2), {"c": "a"}], ids=str)
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="pad_value must be a number"):
        make_converter("torch", ragged="pad", pad_value=value)


# -- lengths ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pad_to", "width"),
    [
        (None, 3),
        (1, 3),
        (4, 4),
        (2, 4),
        ([8, 2, 4], 4),
        ((3,), 3),
        (range(2, 9, 3), 5),
        (np.array([16]), 16),
        ({"c": 8}, 8),
        ({"c": [2, 6]}, 6),
        ({}, 3),
    ],
    ids=str,
)
def test_lengths_are_a_multiple_or_one_of_a_few(pad_to, width):
    for mode in ("pad", "mask"):
        batch = of_lists(pa.int32(), ragged=mode, pad_to=pad_to, pad_value=-1)
        rows = [row + [-1] * (width - len(row)) for row in TOKENS]
        assert batch["c"].tolist() == rows


def test_a_list_that_is_too_long_names_its_length_and_all_that_there_are(table):
    dataset = LanceTorchDataset(
        table, format="torch", columns=["tokens"], ragged="pad", pad_to=[2, 1]
    )
    assert dataset[[1, 3]].columns["tokens"].tolist() == [[4, 0], [5, 6]]
    with pytest.raises(ValueError, match=r"'tokens' has a list of 3 values, and pad_to=\[1, 2\]"):
        dataset[[0, 1]]
    advice = "array_length(tokens) <= 2"
    short = LanceTorchDataset(
        table, format="torch", columns=["tokens"], ragged="pad", pad_to=2, filter=advice
    )
    assert len(short) == 3


@pytest.mark.parametrize("pad_to", [0, -1, 1.5, True, "8", [], [0], [1.5], {"c": 0}], ids=str)
def test_what_is_no_length_is_refused(pad_to):
    with pytest.raises(ValueError, match="pad_to"):
        make_converter("torch", ragged="pad", pad_to=pad_to)


@pytest.mark.parametrize(
    ("option", "value"), [("pad_value", 1), ("pad_value", {"c": 0}), ("pad_to", 8)]
)
def test_padding_where_nothing_is_padded_is_refused(option, value):
    for mode in ("jagged", "list"):
        with pytest.raises(ValueError, match=f"{option}=.* pads nothing"):
            make_converter("torch", ragged=mode, **{option: value})
    for format in ("python", "arrow", "torch_row"):
        with pytest.raises(ValueError, match=f"{option}=.* is for format='torch'"):
            make_converter(format, **{option: value})


@pytest.mark.parametrize("name", ["block_rows", "window_rows", "lanes"])
@pytest.mark.parametrize("shuffle", [False, "global"])
def test_a_layout_of_an_order_that_has_none_is_refused(table, name, shuffle):
    with pytest.raises(ValueError, match=f"{name}=8 is for shuffle=True"):
        LanceIterableTorchDataset(table, shuffle=shuffle, **{name: 8})


def test_a_column_of_an_added_name_is_refused():
    for mode, name in (("pad", "c_length"), ("pad", "c_length_1"), ("mask", "c_mask")):
        columns = {"c": pa.list_(pa.list_(pa.int8())), name: pa.int8()}
        with pytest.raises(ValueError, match=f"ragged='{mode}' adds '{name}'"):
            check(columns, ragged=mode)


# -- against a slow reference -----------------------------------------------------------------


def padded_by_hand(rows, depth, widths, fill):
    """Lists of lists as one of its shape, element by element."""
    width = widths[0]
    if depth == 1:
        return [*rows, *[fill] * (width - len(rows))]
    inner = [padded_by_hand(row, depth - 1, widths[1:], fill) for row in rows]
    nothing = padded_by_hand([], depth - 1, widths[1:], fill)
    return inner + [nothing] * (width - len(rows))


def longest_by_hand(rows, depth):
    below = [inner for row in rows for inner in row]
    longest = max(map(len, rows), default=0)
    return [longest, *(longest_by_hand(below, depth - 1) if depth > 1 else [])]


def lengths_by_hand(rows, depth):
    return len(rows) if depth == 0 else [lengths_by_hand(row, depth - 1) for row in rows]


def values_of_rows(depth):
    rows = st.integers(-9, 9)
    for _ in range(depth):
        rows = st.lists(rows, max_size=3)
    return st.lists(rows, min_size=1, max_size=6)


@st.composite
def nests(draw):
    depth = draw(st.integers(1, 3))
    kind = pa.int16()
    for _ in range(depth):
        kind = draw(st.sampled_from([pa.list_, pa.large_list]))(kind)
    rows = draw(values_of_rows(depth))
    start = draw(st.integers(0, len(rows)))
    return depth, rows[start:], pa.array(rows, kind).slice(start)


@given(nests(), st.sampled_from([None, 2, 3, [4], [1, 2, 3]]), st.integers(-9, 9))
@settings(max_examples=150)
def test_any_nest_is_padded_as_by_hand(nest, pad_to, fill):
    depth, rows, array = nest
    widths = longest_by_hand(rows, depth)
    if isinstance(pad_to, int):
        widths[-1] = -(-widths[-1] // pad_to) * pad_to
    elif pad_to:
        widths[-1] = min(each for each in pad_to if each >= widths[-1])
    expected = [padded_by_hand(row, depth, widths, fill) for row in rows]
    batch = pa.record_batch([array], names=["c"])
    options = {"pad_to": pad_to, "pad_value": fill}
    padded = make_converter("torch", ragged="pad", **options)(batch)
    masked = make_converter("torch", ragged="mask", **options)(batch)
    shape = (len(rows), *widths)
    assert padded["c"].shape == masked["c"].shape == masked["c_mask"].shape == shape
    assert padded["c"].tolist() == masked["c"].tolist() == expected
    there = plain_map(lambda _: True, rows)
    assert masked["c_mask"].tolist() == [padded_by_hand(row, depth, widths, False) for row in there]
    for below in range(depth):
        lengths = padded["c_length" + (f"_{below}" if below else "")]
        assert lengths.shape == (len(rows), *widths[:below])
        assert lengths.tolist() == [
            padded_by_hand(lengths_by_hand(row, below), below, widths, 0) if below else len(row)
            for row in rows
        ]


def plain_map(function, value):
    if isinstance(value, list):
        return [plain_map(function, each) for each in value]
    return function(value)


@given(nests())
@settings(max_examples=100)
def test_any_nest_is_a_tensor_exactly_where_it_is_regular(nest):
    depth, rows, array = nest
    for mode in ("jagged", "list"):
        got = make_converter("torch", ragged=mode)(pa.record_batch([array], names=["c"]))["c"]
        assert everything(got) == rows
        is_tensor = isinstance(got, torch.Tensor) and not got.is_nested
        assert is_tensor == (depth > 1 and is_regular(rows, depth))


def everything(value):
    if isinstance(value, list):
        return [everything(each) for each in value]
    return plain(value)


def is_regular(rows, depth):
    if depth == 0:
        return True
    return len(set(map(len, rows))) <= 1 and is_regular([*itertools.chain(*rows)], depth - 1)


# -- lists of lists ---------------------------------------------------------------------------


def test_lists_of_lists_of_one_length_are_a_tensor(table):
    for mode in MODES:
        dataset = LanceIterableTorchDataset(
            table, format="torch", columns=["regular"], ragged=mode, batch_size=2
        )
        for batch in LanceDataLoader(dataset, num_workers=1):
            assert batch["regular"].tolist() == [[[1, 2], [3, 4]]] * 2


def test_where_only_outer_lists_differ_the_inner_length_is_a_dimension(table):
    def boxes(mode):
        dataset = LanceTorchDataset(table, format="torch", columns=["boxes"], ragged=mode)
        return dataset[range(4)].columns["boxes"]

    assert boxes("jagged").is_nested
    assert boxes("jagged").values().shape == (4, 2)
    assert [tuple(row.shape) for row in boxes("list")] == [(2, 2), (1, 2), (0, 2), (1, 2)]


def test_where_inner_lists_differ_rows_are_lists_of_tensors(table):
    for mode in ("jagged", "list"):
        dataset = LanceTorchDataset(table, format="torch", columns=["uneven"], ragged=mode)
        got = dataset[range(4)].columns["uneven"]
        assert everything(got) == [[[1, 2], [3]], [[4, 5]], [], [[]]]
        assert isinstance(got[1][0], torch.Tensor)


def test_nulls_in_lists_of_lists_are_refused_or_filled():
    kind = pa.list_(pa.list_(pa.int32()))
    for rows, filled in (([[[1], None]], [[[1], []]]), ([[[1, None]]], [[[1, 7]]]), ([None], [[]])):
        batch = pa.record_batch([pa.array(rows, kind)], names=["c"])
        with pytest.raises(ValueError, match="column 'c' has 1 null"):
            make_converter("torch")(batch)
        got = make_converter("torch", fill_null={"c": 7}, ragged="list")(batch)["c"]
        assert everything(got) == filled


@pytest.mark.parametrize(
    ("kind", "rows", "shape"),
    [
        (pa.list_(pa.list_(pa.list_(pa.float32(), 2))), [[[[1, 2]]] * 3] * 2, (2, 3, 1, 2)),
        (pa.list_(pa.list_(pa.int8()), 2), [[[1, 2, 3]] * 2] * 4, (4, 2, 3)),
        (pa.list_(pa.list_(pa.bool_())), [[[True]]], (1, 1, 1)),
        (pa.list_(pa.list_(pa.int8())), [[], []], (2, 0, 0)),
        (pa.list_(pa.list_(pa.int8())), [], (0, 0, 0)),
        (pa.large_list(pa.list_view(pa.int8())), [[[1, 2]]] * 3, (3, 1, 2)),
    ],
    ids=str,
)
def test_other_types_of_nests(kind, rows, shape):
    batch = pa.record_batch([pa.array(rows, kind)], names=["c"])
    got = make_converter("torch")(batch)["c"]
    assert (tuple(got.shape), got.tolist()) == (shape, rows)


@pytest.mark.parametrize("format", ["torch_row", "torch_col"])
def test_lists_of_lists_have_no_place_in_one_tensor_even_where_regular(table, format):
    with pytest.raises(ValueError, match="column 'regular' of type .* has no place in format"):
        LanceTorchDataset(table, columns=["regular"], format=format)


# -- rows that are read one by one -------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["tokens", "regular", "boxes", "uneven", "inside"])
def test_rows_of_several_batches_join_to_what_one_batch_would_be(table, mode, name):
    options = {"pad_value": -1, "pad_to": 2} if mode in ("pad", "mask") else {}
    dataset = LanceTorchDataset(
        table, format="torch", columns=[name], ragged=mode, unwrap=True, **options
    )
    whole = dataset[range(4)].columns
    (joined,) = DataLoader(ConcatDataset([dataset]), batch_size=4)
    assert list(joined) == list(whole)
    for key, column in whole.items():
        assert type(joined[key]) is type(column)
        assert everything_in(joined[key]) == everything_in(column)


def everything_in(value):
    if isinstance(value, dict):
        return {name: everything_in(field) for name, field in value.items()}
    return everything(value)


def test_what_a_transform_pads_is_not_padded_once_more(table):
    dataset = LanceTorchDataset(
        table, format="torch", columns=["tokens"], ragged="pad", transform=only_tokens, unwrap=True
    )
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        next(iter(DataLoader(ConcatDataset([dataset]), batch_size=4)))


def only_tokens(batch):
    return {"tokens": batch["tokens"]}
