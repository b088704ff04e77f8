# SPDX-License-Identifier: Apache-2.0
"""Indices, arguments and schemas from anywhere: rows as they are stored, or an error by name."""

import mmap

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import rows_of
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.arrow import take
from lancedb.integrations._torch.arrow import variable_width as views
from lancedb.integrations._torch.convert.formats import make_converter
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from lancedb.permutation import Permutation

ROWS = 100
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0)
# The tables of these tests are never written to, so that one serves all examples.
SAME_TABLE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
ODD = [None, True, -1, 0, 2**31, 2**63, -(2**70), 10**400, 1.0, float("nan"), "", "0", b"\xff"]
ANYTHING = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
BOTH = pytest.mark.parametrize("kind", [LanceTorchDataset, LanceIterableTorchDataset])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A database for the tests of this file, with the table "points"."""
    db = lancedb.connect(tmp_path_factory.mktemp("hostile") / "db")
    db.create_table("points", rows_of(ROWS))
    return db


@pytest.fixture(scope="module")
def points(home):
    return home.open_table("points")


# -- indices -----------------------------------------------------------------------------------

INDEX = st.integers(-ROWS - 2, ROWS + 2) | ANYTHING
INDICES = st.one_of(
    st.lists(st.integers(-ROWS, ROWS - 1), max_size=6),
    st.lists(INDEX, max_size=6),
    st.lists(INDEX, max_size=6).map(tuple),
    ANYTHING,
    st.slices(3 * ROWS),
    st.builds(range, st.integers(-ROWS, ROWS), st.integers(-ROWS, ROWS), st.integers(1, 9)),
    st.builds(range, st.integers(), st.integers(), st.integers(1, 2**70)),
    st.sampled_from([np.array(3), np.array([[1]]), np.array(["a"]), np.array([1, None])]),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(torch.tensor),
)


def offsets_of(indices):
    """The offsets that indices mean; None unless they are whole numbers within the rows."""
    try:
        return [range(ROWS)[int(i)] for i in indices]
    except IndexError:
        return None


def are_whole_numbers(indices):
    if isinstance(indices, (list, tuple)):
        return all(type(index) is int for index in indices)
    return isinstance(indices, (range, torch.Tensor)) or (isinstance(indices, dict) and not indices)


@pytest.mark.parametrize("how", ["fetch", "__getitems__"])
@given(indices=INDICES)
@settings(SAME_TABLE, max_examples=100)
def test_indices_mean_rows_or_are_refused(points, how, indices):
    holder = Permutation.identity(points) if how == "fetch" else LanceTorchDataset(points)
    read = getattr(holder, how)
    if isinstance(indices, slice):
        expected = list(range(ROWS))[indices]
    elif not are_whole_numbers(indices):
        with pytest.raises(TypeError, match="indices must"):
            read(indices)
        return
    elif offsets_of(indices) is None:
        with pytest.raises(IndexError, match=r"^(an )?index .* is out of range for 100 rows$"):
            read(indices)
        return
    else:
        expected = offsets_of(indices)
    assert [row["id"] for row in read(indices)] == expected


@pytest.mark.parametrize("make", [lambda huge: [huge], lambda huge: range(huge, huge + 2)])
def test_an_index_of_more_digits_than_python_prints_is_out_of_range(points, make):
    with pytest.raises(IndexError, match="an index of 16610 bits is out of range for 100 rows"):
        LanceTorchDataset(points).__getitems__(make(10**5000))


# -- arguments ---------------------------------------------------------------------------------

NAMES = [
    *["version", "columns", "filter", "split", "format", "batch_size", "fill_null", "ragged"],
    *["connect_kwargs", "connection_factory", "permutation_table", "uri", "table_name"],
]
OF_ITERABLE = ["seed", "shuffle", "block_rows", "window_rows", "lanes", "readahead", "rank"]


@pytest.mark.few(1)
@BOTH
@given(data=st.data())
@SAME_TABLE
def test_an_argument_of_any_value_makes_a_dataset_or_an_error_that_is_short(points, kind, data):
    names = NAMES + (OF_ITERABLE if kind is LanceIterableTorchDataset else [])
    name, value = data.draw(st.sampled_from(names)), data.draw(ANYTHING)
    try:
        dataset = kind(points, **{name: value})
    except (TypeError, ValueError) as error:
        raised = error
    else:
        # What may have any value, or has this one by default.
        raised = None
        next(iter(dataset), None)
    assert raised is None or 0 < len(str(raised)) < 3000


# -- schemas -----------------------------------------------------------------------------------

ODD_NAMES = [
    *[
        '"q"',
        "it's",
        "ünï",
        "日本",
        "😀",
        "a\nb",
        " ",
        "a b",
        "1",
        "-",
        "%",
        "\\",
        "a[0]",
        "x" * 999,
    ],
    *["select", "SELECT", "null", "table", "from", "Upper", "_distance", "--", ";", "$1", "{}"],
]


def assert_reads_as_stored(home, rows, **options):
    table = home.create_table("odd", rows, mode="overwrite")
    expected = [rows.to_pylist()[i] for i in (1, 0, 1)]
    assert LanceTorchDataset(table, **options)[[1, 0, 1]] == expected
    loader = LanceDataLoader(LanceIterableTorchDataset(table, batch_size=1, shuffle=True))
    found = [row for batch in loader for row in batch]
    assert sorted(map(repr, found)) == sorted(map(repr, rows.to_pylist()))
    return table


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_column_of_an_odd_name(home, name):
    table = assert_reads_as_stored(
        home, pa.table({name: [5, 6], "id": [0, 1]}), columns=[name, "id"]
    )
    batch = LanceTorchDataset(table, columns=[name], format="torch").__getitems__([1, 0])
    assert {key: values.tolist() for key, values in batch.columns.items()} == {name: [6, 5]}


# Of a name lancedb stores what comes before a null character.
@given(name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6))
@settings(SAME_TABLE, max_examples=25)
@example("*")
@example("`b`")
@example("\0")
def test_a_column_of_any_name_is_read_or_refused_where_the_dataset_is_made(home, name):
    rows = pa.table({name: [5, 6], "number": [0, 1]})
    assume(name != "number")
    try:
        table = home.create_table("named", rows, mode="overwrite")
    except (ValueError, RuntimeError):
        assume(False)  # lancedb itself takes no such name
    try:
        dataset = LanceTorchDataset(table)
    except ValueError as error:
        refused = str(error)
    else:
        refused = None
        assert dataset[[1, 0]] == rows.to_pylist()[::-1]
    assert refused is None or "cannot be read: " in refused
    assert LanceTorchDataset(table, columns=["number"])[1] == [{"number": 1}]


def nest(kind, value, depth, wrap):
    for _ in range(depth):
        kind, value = wrap(kind, value)
    return pa.array([value, value], kind)


NESTS = {
    "structs": lambda kind, value: (pa.struct([("a.b", kind)]), {"a.b": value}),
    "lists": lambda kind, value: (pa.list_(kind), [value]),
    "large lists": lambda kind, value: (pa.large_list(kind), [value]),
    "fixed-size lists": lambda kind, value: (pa.list_(kind, 1), [value]),
}


@pytest.mark.parametrize("wrap", NESTS.values(), ids=NESTS)
def test_a_column_nested_thirty_deep(home, wrap):
    rows = pa.table({"deep": nest(pa.float32(), 1.5, 30, wrap), "id": [0, 1]})
    table = assert_reads_as_stored(home, rows)
    batch = LanceTorchDataset(table, format="torch").__getitems__([1, 0])
    assert len(batch.columns["deep"]) >= 1
    assert batch.columns["id"].tolist() == [1, 0]


@BOTH
@pytest.mark.parametrize("wrap", list(NESTS.values())[:2], ids=list(NESTS)[:2])
def test_a_column_nested_deeper_than_arrow_can_say_is_an_error_that_names_the_table(
    home, wrap, kind
):
    rows = pa.table({"deep": nest(pa.float32(), 1.5, 200, wrap), "id": [0, 1]})
    table = home.create_table("abyss", rows, mode="overwrite")
    with pytest.raises(RuntimeError, match=r"opening table 'abyss', version \d at .*Recursion"):
        kind(table, columns=["id"])


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_bytes_that_are_no_text_stay_bytes(home, kind):
    values = [b"\xff\xfe\x00", b"\x80" * 300]
    table = assert_reads_as_stored(home, pa.table({"raw": pa.array(values, kind)}))
    batch = LanceTorchDataset(table, format="torch").__getitems__([1, 0])
    assert batch.columns["raw"] == values[::-1]


def test_text_that_is_no_utf8_is_an_error_that_names_the_table_and_the_rows(home):
    offsets, data = pa.py_buffer(np.array([0, 2, 3], np.int32)), pa.py_buffer(b"\xff\xfe\x80")
    text = pa.StringArray.from_buffers(2, offsets, data)
    table = home.create_table("broken", pa.table({"text": text}), mode="overwrite")
    with pytest.raises(
        RuntimeError, match=r"reading 1 rows .*table 'broken', version 1 at .*corrupt"
    ):
        LanceTorchDataset(table)[0]


def test_lists_of_width_zero_are_no_column_that_lance_stores(home):
    """So that none is ever read."""
    column = pa.array([[], []], pa.list_(pa.float32(), 0))
    with pytest.raises(RuntimeError, match="dimension must be a positive integer"):
        home.create_table("flat", pa.table({"x": [1, 2], "v": column}))


def test_a_struct_without_fields_is_refused_as_lancedb_loses_what_stands_beside_it(home):
    empty = pa.array([{}, {}], pa.struct([]))
    for name, column in {
        "top": empty,
        "nested": pa.StructArray.from_arrays([empty], ["e"]),
    }.items():
        table = home.create_table(name, pa.table({"e": column, "id": [0, 1]}), mode="overwrite")
        with pytest.raises(
            ValueError, match=r"column 'e' .* struct without fields.*columns=\['id'\]"
        ):
            LanceTorchDataset(table)
        assert LanceTorchDataset(table, columns=["id"])[1] == [{"id": 1}]


# -- offsets beyond 32 bits --------------------------------------------------------------------


BEYOND = 2**31  # what a 32-bit offset cannot say


@pytest.fixture(scope="module")
def vast():
    """Zeroed memory that is there by address only: what is not touched takes no room."""
    return mmap.mmap(-1, 2 * BEYOND, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)


def offsets_beyond(*sizes):
    return pa.py_buffer(BEYOND + np.cumsum([0, *sizes], dtype=np.int64))


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.large_string()])
def test_bytes_and_text_that_stand_beyond_32_bits(vast, kind):
    vast[BEYOND : BEYOND + 5] = b"hello"
    array = pa.Array.from_buffers(kind, 2, [None, offsets_beyond(2, 3), pa.py_buffer(vast)])
    expected = [b"he", b"llo"] if kind == pa.large_binary() else ["he", "llo"]
    batch = pa.record_batch({"raw": array})
    assert make_converter("torch")(batch)["raw"] == expected
    assert take.take(batch, np.array([1, 0, 1]))["raw"].to_pylist() == [
        expected[i] for i in (1, 0, 1)
    ]


@pytest.mark.parametrize("ragged", ["jagged", "pad", "list"])
def test_lists_that_stand_beyond_32_bits(vast, ragged):
    vast[BEYOND : BEYOND + 5] = bytes([1, 2, 3, 4, 5])
    values = pa.Array.from_buffers(pa.int8(), 2 * BEYOND, [None, pa.py_buffer(vast)])
    array = pa.Array.from_buffers(
        pa.large_list(pa.int8()), 2, [None, offsets_beyond(2, 3)], children=[values]
    )
    batch = pa.record_batch({"list": array})
    assert take.take(batch, np.array([1, 0]))["list"].to_pylist() == [[3, 4, 5], [1, 2]]
    converted = make_converter("torch", ragged=ragged)(batch)["list"]
    rows = converted if ragged != "jagged" else converted.unbind()
    assert [row.tolist() for row in rows] == [[1, 2, 0] if ragged == "pad" else [1, 2], [3, 4, 5]]


def test_vectors_that_stand_beyond_32_bits(vast):
    width, count = 2**20, 2**12
    vast[(count - 1) * width] = 7
    values = pa.Array.from_buffers(pa.int8(), width * count, [None, pa.py_buffer(vast)])
    batch = pa.record_batch({"vec": pa.FixedSizeListArray.from_arrays(values, width)})
    picked = take.take(batch, np.array([count - 1, 0]))
    for rows in (picked, batch.slice(count - 1, 1)):
        assert make_converter("torch")(rows)["vec"][0, :2].tolist() == [7, 0]


def test_lists_of_more_elements_than_32_bits_count_are_refused_and_not_wrapped_around():
    edges = np.array([0, BEYOND], np.int64)
    assert views.offsets_of(pa.large_list(pa.int8()), edges).tolist() == edges.tolist()
    with pytest.raises(pa.ArrowInvalid, match="2147483648 not in range"):
        views.offsets_of(pa.list_(pa.int8()), edges)
