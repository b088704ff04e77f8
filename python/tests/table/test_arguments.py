# SPDX-License-Identifier: Apache-2.0
"""What a careless user passes is refused where it is passed, by name, with the way out."""

import json
import subprocess
import sys

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from conftest import rows_of
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from lancedb.permutation import Permutation, permutation_builder
from limits import HANGS
from torch.utils.data import DataLoader


@pytest.fixture
def splits(table):
    return (
        permutation_builder(table)
        .split_random(ratios=[0.5, 0.5], seed=1, split_names=["train", "test"])
        .execute()
    )


BOTH = pytest.mark.parametrize("kind", [LanceTorchDataset, LanceIterableTorchDataset])


@BOTH
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ["vex"]}, "unknown column 'vex': did you mean 'vec'"),
        ({"columns": ["zzz"]}, r"unknown column 'zzz': there are 'id'"),
        ({"columns": []}, "columns is empty"),
        ({"columns": {}}, "columns is empty"),
        ({"columns": ["id", "vec", "id"]}, "columns names 'id' more than once"),
        ({"columns": {"x": "no_such + 1"}}, "no_such"),
        ({"columns": {"x": "id", "y": "vex"}}, "unknown column 'vex': did you mean 'vec'"),
        ({"format": "tensor"}, "unknown format 'tensor'.*there are 'python'"),
        ({"format": "torch", "ragged": "square"}, "ragged must be one of"),
        ({"format": "torch", "fill_null": {"vex": 0}}, "fill_null names an unknown column 'vex'"),
        ({"split": "train"}, "split='train' needs a permutation_table"),
        ({"filter": "id <"}, "filter 'id <' cannot be evaluated"),
        ({"filter": "no_such = 1"}, "filter 'no_such = 1' cannot be evaluated.*no_such"),
        ({"filter": " "}, "filter must be an SQL condition"),
        ({"filter": "label = 3 ADN id > 50"}, "filter 'label = 3 ADN .* found: ADN"),
        ({"filter": "id < 5 garbage"}, "found: garbage"),
        ({"filter": "id < 5; id > 3"}, "found: ;"),
        (
            {"filter": "id < 5)"},
            r"filter 'id < 5\)' cannot be evaluated: it closes a '\)' too many",
        ),
        ({"filter": "text = ')' ) or (id > 3"}, r"it closes a '\)' too many"),
        ({"filter": "(id < 5"}, "cannot be evaluated"),
        ({"version": 999}, r"version 999 of table 'points' does not exist"),
        ({"version": -1}, "version must be a tag, or a whole number from 1 on, not -1"),
        ({"version": "1"}, r"no such tag \(the version of that number is version=1\)"),
        (
            {"version": "no_tag"},
            r"'no_tag' of table 'points' .*no such tag\. table\.tags\.list\(\)",
        ),
        ({"uri": "x"}, "give either table or uri and table_name"),
        ({"connect_kwargs": {"api_key": "x"}}, "connect_kwargs belongs to uri"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on, not 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number from 1 on, not 2.5"),
        ({"format": 0}, "unknown format 0: there are"),
        ({"format": ["torch"]}, r"unknown format \['torch'\]: did you mean 'torch'"),
        ({"unwrap": "false"}, "unwrap must be one of False, True, not 'false'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_right_is_refused_by_name(kind, table, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(table, **arguments)


@BOTH
@pytest.mark.parametrize(
    "filter",
    [
        "id < 5 AND text != ')'",
        "((id) < 5)",
        "`id` < 5 -- ) a comment",
        '/* :-) */ "id" < 5',
        "text IN ('row 0', 'row 1', 'row 2', 'row 3', 'row 4', 'it''s )')",
    ],
)
def test_parentheses_in_text_names_and_comments_are_no_parentheses(kind, table, filter):
    assert kind(table, filter=filter).num_rows == 5


@BOTH
def test_a_closed_table_is_refused_with_how_to_open_it_again(kind, db, table):
    handle = db.open_table("points")
    permutation = Permutation.identity(handle)
    handle._table.close()
    for closed in (handle, permutation):
        with pytest.raises(ValueError, match=r"'points' is closed.*db\.open_table\('points'\)"):
            kind(closed)
    assert kind(table).num_rows == 1000


@BOTH
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": "id"}, r"did you mean columns=\['id'\]"),
        ({"columns": [1]}, "columns must hold names, not 1"),
        ({"columns": 1}, "columns must be a list of names, or a mapping, not 1"),
        ({"columns": np.array("id")}, "columns must be a list of names, or a mapping, not array"),
        ({"columns": {"vec"}}, r"a set has none: pass a list, \['vec'\]"),
        ({"columns": {"x": 1}}, "columns must map names to SQL expressions, not 'x' to 1"),
        ({"columns": {1: "id"}}, "columns must map names to SQL expressions, not 1 to 'id'"),
        ({"transform": 5}, "transform must be callable"),
        ({"version": 1.5}, "version must be a tag, or a whole number"),
        ({"fill_null": [0]}, "fill_null must be a value, or a dict"),
        ({"connection_factory": "x"}, "connection_factory must be a callable"),
    ],
    ids=str,
)
def test_what_has_the_wrong_type_is_refused_by_name(kind, table, arguments, message):
    with pytest.raises(TypeError, match=message):
        kind(table, **{"format": "torch", **arguments})


@BOTH
def test_a_table_has_to_be_named_in_one_way(kind, tmp_path, table):
    with pytest.raises(ValueError, match="no table given: pass table"):
        kind()
    with pytest.raises(ValueError, match="missing: table_name"):
        kind(uri=tmp_path / "db")
    for data in ([{"id": 1}], pa.table({"id": [1]}), table.to_pandas()):
        with pytest.raises(TypeError, match=r"create_table\(name, data\) makes one of it"):
            kind(data)
    with pytest.raises(ValueError, match="a table's own folder, and uri names the one around"):
        kind(uri=tmp_path / "db" / "points.lance", table_name="points")
    with pytest.raises(ValueError, match="did you mean 'points'"):
        kind(uri=tmp_path / "db", table_name="points.lance")
    with pytest.raises(TypeError, match="a path goes into uri, with table_name"):
        kind(str(tmp_path / "db"))
    with pytest.raises(TypeError, match=r"a connection opens one with open_table\(name\)"):
        kind(lancedb.connect(tmp_path / "db"))
    with pytest.raises(TypeError, match=r"connect_kwargs must be a dict.*not list"):
        kind(uri=tmp_path / "db", table_name="points", connect_kwargs=["region"])


@BOTH
@pytest.mark.filterwarnings("error")  # none of lancedb's deprecations reaches the user
def test_a_table_or_database_that_is_not_there_is_named_with_the_near_ones(kind, tmp_path, table):
    with pytest.raises(ValueError, match=r"there is no table 'point' at .*did you mean 'points'"):
        kind(uri=tmp_path / "db", table_name="point")
    with pytest.raises(ValueError, match=r"there is no table 'zzz' at .*there are 'points'"):
        kind(uri=tmp_path / "db", table_name="zzz")
    with pytest.raises(FileNotFoundError, match=r"there is no LanceDB database at uri=.*elsewhere"):
        kind(uri=tmp_path / "elsewhere", table_name="points")
    assert not (tmp_path / "elsewhere").exists()


@BOTH
def test_splits_are_checked_against_those_there_are(kind, table, splits):
    with pytest.raises(ValueError, match="unknown split 'trian': did you mean 'train'"):
        kind(table, permutation_table=splits, split="trian")
    with pytest.raises(ValueError, match="there are 'train', 'test'"):
        kind(table, permutation_table=splits, split="zzz")
    with pytest.raises(ValueError, match="no rows in split 7"):
        kind(table, permutation_table=splits, split=7)
    with pytest.raises(TypeError, match="split must be a name or a whole number"):
        kind(table, permutation_table=splits, split=1.5)
    unnamed = permutation_builder(table).shuffle(seed=1).execute()
    with pytest.raises(ValueError, match="splits have no names, give a number"):
        kind(table, permutation_table=unnamed, split="train")


@BOTH
def test_a_permutation_table_has_to_belong_to_the_table(kind, db, table, splits):
    with pytest.raises(ValueError, match=r"no column 'row_id'.*permutation_builder"):
        kind(table, permutation_table=table)
    with pytest.raises(TypeError, match=r"not PermutationBuilder; .*execute\(\)"):
        kind(table, permutation_table=permutation_builder(table))
    other = db.create_table("other", rows_of(10))
    with pytest.raises(ValueError, match=r"version \d+ of table 'other' does not exist"):
        kind(other, permutation_table=splits)
    while other.version < table.version:
        other.add(rows_of(1))
    with pytest.raises(ValueError, match=r"row ids are not in version .* of table 'other': it"):
        kind(other, permutation_table=splits)
    with pytest.raises(ValueError, match=r"Permutation\.from_tables\(.*, 'train'\)"):
        kind(Permutation.from_tables(table, splits), split="train")
    with pytest.raises(ValueError, match="a Permutation has its own permutation_table"):
        kind(Permutation.identity(table), permutation_table=splits)


@BOTH
def test_no_rows_at_all_are_pointed_out(kind, table):
    with pytest.warns(UserWarning, match="is empty: filter 'id < 0' of table 'points'"):
        assert len(kind(table, filter="id < 0")) == 0


@pytest.mark.parametrize("size", [8, 1])
def test_batches_of_batches_are_pointed_out(table, size):
    dataset = LanceIterableTorchDataset(table, columns=["id"], format="torch", batch_size=4)
    loader = DataLoader(dataset, batch_size=size)
    with pytest.warns(UserWarning, match=r"makes batches of batches.*LanceDataLoader\(dataset\)"):
        assert next(iter(loader))["id"].shape == (size, 4)


@pytest.mark.filterwarnings("error")
def test_batches_and_rows_that_are_collated_as_they_should_be_are_not(table):
    options = {"columns": ["id"], "format": "torch"}
    whole = LanceIterableTorchDataset(table, batch_size=4, **options)
    for loader in (
        LanceDataLoader(whole),
        DataLoader(whole, batch_size=None),
        DataLoader(whole, batch_size=2, collate_fn=list),
        DataLoader(LanceIterableTorchDataset(table, batch_size=1, unwrap=True, **options), 2),
    ):
        next(iter(loader))


@pytest.mark.parametrize("value", ["block", "none", 2])
def test_a_map_style_dataset_has_no_shuffle_but_the_true_one(table, value):
    with pytest.raises(ValueError, match=f"shuffle={value!r} is for LanceIterableTorchDataset"):
        LanceDataLoader(LanceTorchDataset(table), shuffle=value)


def test_numbers_of_numpys_are_whole_numbers(table):
    options = {"columns": ["id"], "batch_size": np.int64(4), "shuffle": True}
    ours, theirs = (
        LanceIterableTorchDataset(
            table,
            version=number(table.version),
            seed=number(3),
            rank=number(1),
            world_size=number(2),
            block_rows=number(2),
            window_rows=number(16),
            lanes=number(2),
            **options,
        )
        for number in (int, np.int64)
    )
    ours.set_epoch(5)
    theirs.set_epoch(np.int64(5))
    assert next(iter(ours)) == next(iter(theirs))
    assert json.dumps(ours.state_dict()) == json.dumps(theirs.state_dict())


@pytest.mark.parametrize(
    "numbers", [{"rank": "0", "world_size": 2}, {"rank": 0, "world_size": 2.0}]
)
def test_ranks_are_whole_numbers(table, numbers):
    with pytest.raises(TypeError, match="(rank|world_size) must be a whole number"):
        LanceIterableTorchDataset(table, **numbers)


def forgetful(columns):
    columns["id"] += 1


@BOTH
def test_a_transform_that_returns_nothing_is_pointed_out(kind, table):
    dataset = kind(table, columns=["id"], format="torch", transform=forgetful)
    with pytest.warns(UserWarning, match="transform forgetful returned None"):
        assert next(iter(LanceDataLoader(dataset))) is None


def test_a_memory_database_cannot_be_reached_by_uri():
    lancedb.connect("memory://").create_table("points", rows_of(5))
    with pytest.raises(ValueError, match="no table 'points'"):
        LanceTorchDataset(uri="memory://", table_name="points")


def test_a_transform_that_cannot_be_pickled_says_so_before_any_worker_starts(table):
    dataset = LanceTorchDataset(table, format="torch", transform=lambda columns: columns)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(TypeError, match=r"cannot be sent to worker processes.*top level"):
        iter(loader)
    assert len(next(iter(DataLoader(dataset, batch_size=4)))["id"]) == 4


SESSION = """
import functools, pickle, sys
import lancedb
from lancedb.integrations.torch import LanceTorchDataset
from torch.utils.data import DataLoader

def here(given, *_):
    return given

def connect(name):
    return lancedb.connect(sys.argv[1]).open_table(name)

table = connect("points")
for options in (
    {"transform": functools.partial(here)},
    {"transform": sorted, "on_error": here},
    {"connection_factory": connect},
):
    dataset = LanceTorchDataset(table, format="torch", **options)
    pickle.dumps(dataset)  # only a new process cannot import the session
    try:
        iter(DataLoader(dataset, num_workers=1, multiprocessing_context="spawn"))
    except TypeError as error:
        print(error)
"""


@pytest.mark.soak
def test_what_an_interactive_session_defines_is_refused_before_any_worker_starts(table):
    command = [sys.executable, "-c", SESSION, table._conn.uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["transform", "on_error", "connection_factory"]
    assert all("interactive session, which they cannot import" in line for line in lines), lines


def test_a_factory_that_cannot_be_pickled_says_so_before_any_worker_starts(table):
    dataset = LanceTorchDataset(table, connection_factory=lambda name: table)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(TypeError, match=r"connection_factory .* cannot be sent to worker"):
        iter(loader)


def three_rows(columns):
    return {name: column.repeat(3) for name, column in columns.items()}


def test_a_transform_that_changes_the_number_of_rows_is_refused_where_that_matters(table):
    options = {"columns": ["id"], "format": "torch", "transform": three_rows}
    with pytest.raises(ValueError, match="transform made 3 of it"):
        LanceTorchDataset(table, unwrap=True, **options)[0]
    loader = DataLoader(LanceTorchDataset(table, **options), batch_size=4)
    assert len(next(iter(loader))["id"]) == 12


def broken(columns):
    raise KeyError("brightness")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_transform_says_which_rows_of_which_table(table, workers):
    dataset = LanceTorchDataset(table, format="torch", transform=broken)
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
    )
    with pytest.raises(KeyError) as caught:
        next(iter(loader))
    text = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "brightness" in text
    if hasattr(caught.value, "add_note"):
        assert "rows [0, 1, 2, 3] of table 'points'" in text


def test_numbers_that_are_null_name_the_column_when_they_are_read(db):
    table = db.create_table("holes", [{"x": 1.0}, {"x": None}])
    dataset = LanceTorchDataset(table, format="torch")
    with pytest.raises(ValueError, match=r"column 'x' has 1 null.*fill_null=0"):
        dataset[[0, 1]]


@pytest.mark.parametrize("value", ["false", None, 2, np.array([True, False])], ids=str)
def test_whether_to_drop_the_last_batch_is_true_or_false(table, value):
    with pytest.raises(ValueError, match="drop_last must be one of False, True, not "):
        LanceIterableTorchDataset(table, drop_last=value)
    if value is not None:  # as if it were not given
        with pytest.raises(ValueError, match="drop_last must be one of None, False, True, not "):
            LanceDataLoader(LanceTorchDataset(table), batch_size=8, drop_last=value)


def test_an_argument_of_another_one_is_not_named(table):
    with pytest.raises(TypeError, match=r"^balance_by must be a column's name .*, not \[\]"):
        LanceIterableTorchDataset(table, balance_by=[])
    with pytest.raises(ValueError, match="epoch_rows must be a whole number from 1 to 4611686"):
        LanceIterableTorchDataset(table, sample_weights="id", epoch_rows=10**30)
