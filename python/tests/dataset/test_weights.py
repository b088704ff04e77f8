# SPDX-License-Identifier: Apache-2.0
"""Rows drawn by weights, and classes balanced, out of real tables."""

import pickle
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from conftest import rows_of
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset, LanceTorchDataset
from lancedb.permutation import permutation_builder
from loaders import through_json

SHUFFLES = [False, True, "global"]


@pytest.fixture
def rated(db):
    """1,000 rows, of which a row's quality is its id modulo 5, and one in ten is of class "b"."""
    rows = rows_of(1000)
    ids = rows["id"].to_numpy()
    rows = rows.append_column("quality", pa.array(ids % 5, pa.int16()))
    rows = rows.append_column("kind", pa.array(np.where(ids % 10 == 3, "b", "a")))
    table = db.create_table("rated", rows.slice(0, 600))
    table.add(rows.slice(600))
    return table


def dataset_of(table, **options):
    return LanceIterableTorchDataset(
        table, **{"format": "torch", "batch_size": 50, "columns": ["id"], "seed": 1, **options}
    )


def ids(batches):
    return [id for batch in batches for id in batch["id"].tolist()]


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_rows_come_in_proportion_to_a_column(rated, shuffle):
    dataset = dataset_of(rated, shuffle=shuffle, sample_weights="quality")
    assert (len(dataset), dataset.num_rows) == (20, 1000)
    counts = Counter(ids(dataset))
    assert sum(counts.values()) == 1000
    assert all(counts[id] in {id % 5 // 2, -(-(id % 5) // 2)} for id in range(1000))


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_every_value_of_a_column_is_as_frequent(rated, shuffle):
    dataset = dataset_of(rated, shuffle=shuffle, balance_by="kind", epoch_rows=3000)
    counts = Counter(id % 10 == 3 for id in ids(dataset))
    assert abs(counts[True] - 1500) <= 100  # each of its 100 rows within one of what is expected
    assert set(ids(dataset)) == set(range(1000))


@pytest.mark.parametrize("column", ["label", "text", "quality > 1", "CAST(label AS DOUBLE)"])
def test_columns_of_any_plain_kind_balance(rated, column):
    assert len(set(ids(dataset_of(rated, balance_by=column, epoch_rows=100)))) <= 100


def test_a_dictionary_column_balances(db):
    values = pa.array(["x"] * 90 + ["y"] * 10).dictionary_encode()
    table = db.create_table("coded", pa.table({"id": range(100), "kind": values}))
    counts = Counter(id >= 90 for id in ids(dataset_of(table, balance_by="kind")))
    assert abs(counts[True] - 50) <= 10


def test_sql_makes_weights(rated):
    dataset = dataset_of(rated, sample_weights="CAST(id < 10 AS INT) * 1.5")
    assert Counter(ids(dataset)) == dict.fromkeys(range(10), 100)


@pytest.mark.parametrize("argument", ["sample_weights", "balance_by"])
def test_double_quotes_are_a_name_as_in_filters_and_columns(rated, argument):
    options = {"shuffle": True, "epoch_rows": 200}
    quoted = dataset_of(rated, **{argument: '"quality" + 1'}, **options)
    assert ids(quoted) == ids(dataset_of(rated, **{argument: "quality + 1"}, **options))


def test_weights_are_those_of_the_rows_that_were_chosen(rated):
    chosen = {"filter": "id >= 500", "sample_weights": "quality", "shuffle": True}
    counts = Counter(ids(dataset_of(rated, **chosen)))
    assert min(counts) > 500
    assert all(id % 5 for id in counts)
    split = permutation_builder(rated).split_random(ratios=[0.5, 0.5], seed=3).execute()
    dataset = dataset_of(rated, permutation_table=split, split=1, sample_weights="quality")
    rows = LanceTorchDataset(rated, permutation_table=split, split=1, columns=["id"])
    mine = {row["id"] for row in rows.__getitems__(range(len(rows)))}
    assert set(ids(dataset)) <= mine


@pytest.mark.parametrize("shuffle", [True, "global"])
def test_each_epoch_draws_other_rows_and_orders_them_anew(rated, shuffle):
    dataset = dataset_of(rated, shuffle=shuffle, sample_weights="quality", epoch_rows=300)
    first, second = ids(dataset), ids(dataset)
    assert sorted(first) != sorted(second)
    assert (
        ids(dataset_of(rated, shuffle=shuffle, sample_weights="quality", epoch_rows=300)) == first
    )


@pytest.mark.few(1)
@pytest.mark.parametrize(("shuffle", "cache"), [(True, False), ("global", False), ("global", True)])
def test_a_run_resumes_at_every_batch(rated, shuffle, cache):
    options = {"shuffle": shuffle, "sample_weights": "quality", "cache": cache}
    whole = [batch["id"].tolist() for batch in dataset_of(rated, **options)]
    loader, rest = (LanceDataLoader(dataset_of(rated, **options)) for _ in range(2))
    for done, _ in enumerate(loader, 1):
        if done == len(whole):
            break
        rest.load_state_dict(through_json(loader.state_dict()))
        assert next(iter(rest))["id"].tolist() == whole[done]


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_the_draws(rated, workers):
    options = {"shuffle": True, "balance_by": "kind"}
    whole = [batch["id"].tolist() for batch in dataset_of(rated, **options)]
    halves = [
        LanceDataLoader(
            dataset_of(rated, batch_size=25, rank=rank, world_size=2, **options),
            num_workers=workers,
        )
        for rank in range(2)
    ]
    steps = zip(*([batch["id"].tolist() for batch in half] for half in halves), strict=True)
    assert [a + b for a, b in steps] == whole


def test_a_pickled_dataset_draws_the_same(rated):
    dataset = dataset_of(rated, shuffle=True, sample_weights="quality")
    copy = pickle.loads(pickle.dumps(dataset))
    assert ids(copy) == ids(dataset)


def test_a_state_of_other_weights_is_refused(rated):
    weighted = LanceDataLoader(dataset_of(rated, shuffle=True, sample_weights="quality"))
    plain = LanceDataLoader(dataset_of(rated, shuffle=True))
    state = weighted.state_dict()
    with pytest.raises(ValueError, match="sample_weights was 'quality'"):
        plain.load_state_dict(state)
    with pytest.raises(ValueError, match=r"sample_weights was '\(missing\)' and is 'quality'"):
        weighted.load_state_dict(plain.state_dict())
    fewer = dataset_of(rated, shuffle=True, sample_weights="quality", epoch_rows=500)
    with pytest.raises(ValueError, match="rows was 1000 and is 500"):
        LanceDataLoader(fewer).load_state_dict(state)


def test_a_repr_says_how_rows_are_drawn(rated):
    dataset = dataset_of(rated, sample_weights="quality", epoch_rows=500)
    assert "sample_weights='quality', epoch_rows=500" in repr(dataset)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_weights": "quality - 1"}, r"is -1\.0 in row 0 of table 'rated'.* 200 of 1000"),
        ({"sample_weights": "NULLIF(quality, 2)"}, "is null or NaN in row 2 "),
        ({"sample_weights": "CAST(quality AS DOUBLE) * 1e308 * 10"}, "is inf in row 1 "),
        ({"sample_weights": "quality * 0"}, "is 0 in every row"),
        ({"sample_weights": "text"}, "is of type string, and weights are numbers"),
        ({"sample_weights": "qualty"}, "sample_weights='qualty' cannot be read"),
        ({"balance_by": "NULLIF(quality, 2)"}, "null in row 2 .*200 of 1000 rows.* IS NOT NULL"),
        ({"balance_by": "vec"}, "balance_by='vec' is of type fixed_size_list"),
        ({"balance_by": "kind", "sample_weights": "quality"}, "not both"),
        ({"epoch_rows": 10}, "epoch_rows=10 is for rows that are drawn"),
        (
            {"sample_weights": "quality", "epoch_rows": 0},
            "epoch_rows must be a whole number from 1",
        ),
    ],
)
def test_what_are_no_weights_is_refused_where_the_dataset_is_made(rated, arguments, message):
    with pytest.raises(ValueError, match=message):
        dataset_of(rated, **arguments)


@pytest.mark.parametrize(
    "bad",
    [
        "quality - 1",
        "NULLIF(quality, 2)",
        "CAST(quality AS DOUBLE) * 1e308 * 10",
        "ACOS(quality)",
        "NULLIF(quality > 1, false)",
    ],
)
def test_the_expression_that_an_error_gives_in_place_of_bad_weights_is_taken(rated, bad):
    with pytest.raises(ValueError, match="an expression such as") as caught:
        dataset_of(rated, sample_weights=bad)
    (given,) = re.findall("such as ['\"](.*)['\"]$", str(caught.value))
    assert len(next(iter(dataset_of(rated, sample_weights=given))))


@pytest.mark.parametrize("name", ["sample_weights", "balance_by"])
def test_weights_are_named_by_a_string(rated, name):
    with pytest.raises(TypeError, match=f"{name} must be a column's name"):
        dataset_of(rated, **{name: [0.5] * 1000})
