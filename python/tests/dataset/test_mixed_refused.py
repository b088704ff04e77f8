# SPDX-License-Identifier: Apache-2.0
"""What no mixture can be made of."""

import re
from pathlib import Path

import pytest
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
)
from mixed_tables import mixed, of_sources, sources, tables_in

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer than one step:UserWarning")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return tables_in(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def made(tables):
    """Sources that several mixtures may be asked for, where none is made."""
    return sources(tables)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"web": -1, "code": 1}, "weight of 'web' must be a number from 0 on, not -1"),
        ({"web": float("nan")}, "must be a number from 0 on, not nan"),
        ({"web": float("inf")}, "must be a number from 0 on, not inf"),
        ({"web": True}, "must be a number from 0 on, not True"),
        ({"web": 0, "code": 0}, "positive sum"),
        ({}, "positive sum"),
        ({"wep": 1}, "'wep', which is no source: did you mean 'web'?"),
        ({"web": 1e9, "code": 1}, "less than 1/65536 of the sum"),
        ([(5, {"web": 1})], "ascend from 0: 5 is not 0"),
        ([(0, {"web": 1}), (0, {"code": 1})], "0 is not above 0"),
    ],
)
def test_weights_that_cannot_be_are_refused(made, weights, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        of_sources(made, weights=weights)


def test_sources_that_cannot_be_are_refused(tables, db):
    one = LanceIterableTorchDataset(tables["web"])
    with pytest.raises(ValueError, match="source 'b' is the dataset of 'a': give it once"):
        LanceMixedTorchDataset({"a": one, "b": one}, {"a": 1})
    again = LanceIterableTorchDataset(tables["web"])
    elsewhere = LanceIterableTorchDataset(uri=Path(tables["web"].uri).parent, table_name="web")
    with pytest.raises(ValueError, match="source 'b' has the rows and columns of 'a'"):
        LanceMixedTorchDataset({"a": one, "b": elsewhere}, {"a": 1})
    with pytest.raises(ValueError, match="source 'b' has the rows and columns of 'a'"):
        LanceMixedTorchDataset({"a": one, "b": again}, {"a": 1})
    with pytest.raises(TypeError, match="source 'a' must be a LanceIterableTorchDataset, not int"):
        LanceMixedTorchDataset({"a": 1}, {"a": 1})
    with pytest.raises(TypeError, match="must map at least one name"):
        LanceMixedTorchDataset([one], {"a": 1})
    with pytest.warns(UserWarning, match="empty"):
        none = LanceIterableTorchDataset(tables["web"], filter="id < 0")
    with pytest.raises(ValueError, match="source 'b' has no rows"):
        LanceMixedTorchDataset({"a": one, "b": none}, {"a": 1, "b": 1})
    LanceMixedTorchDataset({"a": one, "b": none}, {"a": 1})


def test_columns_that_differ_are_shown(tables):
    one = LanceIterableTorchDataset(tables["web"], columns={"id": "id", "x": "label"})
    other = LanceIterableTorchDataset(tables["code"], columns={"id": "text", "y": "label"})
    said = "'x' is in 'a' alone; 'y' is in 'b' alone; 'id' is int64 in 'a' and string in 'b'"
    with pytest.raises(ValueError, match=said):
        LanceMixedTorchDataset({"a": one, "b": other}, {"a": 1})


def test_columns_may_stand_in_another_sequence(tables):
    one = LanceIterableTorchDataset(tables["web"], columns=["id", "label"])
    other = LanceIterableTorchDataset(tables["code"], columns=["label", "id"])
    dataset = LanceMixedTorchDataset({"a": one, "b": other}, {"a": 1, "b": 1}, format="torch")
    batch = next(iter(dataset))
    assert list(batch) == ["id", "label"]
    assert (batch["label"] == batch["id"] % 7).all()


@pytest.mark.parametrize(
    "owned",
    [
        {"format": "torch"},
        {"transform": len},
        {"batch_size": 7},
        {"seed": 3},
        {"rank": 0, "world_size": 2},
        {"cache": True},
        {"transform_threads": 2},
        {"ragged": "list", "format": "torch"},
        {"drop_last": False},
        {"block_rows": 4},
    ],
    ids=lambda owned: next(iter(owned)),
)
def test_what_belongs_to_the_mixture_is_refused_of_a_source(tables, owned):
    source = LanceIterableTorchDataset(tables["web"], **{"shuffle": True, **owned})
    with pytest.raises(ValueError, match=f"source 'a' has .*{next(iter(owned))}.* to the mixture"):
        LanceMixedTorchDataset({"a": source}, {"a": 1})


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"stop": 0}, ValueError, "stop must be"),
        ({"stop": "never"}, ValueError, "stop must be"),
        ({"source_column": "id"}, ValueError, "a column of the sources already"),
        ({"seed": "x"}, TypeError, "seed must be a whole number"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"unwrap": True}, ValueError, "needs batch_size=1"),
        ({"drop_last": False, "stop": 3, "rank": 0, "world_size": 4}, ValueError, "4 ranks"),
    ],
)
def test_arguments_that_cannot_be_are_refused(made, options, error, said):
    with pytest.raises(error, match=said):
        of_sources(made, **options)


def test_an_unknown_permission_is_refused(tables):
    loader = LanceDataLoader(mixed(tables))
    with pytest.raises(ValueError, match='allow may hold "weights" alone'):
        loader.load_state_dict(loader.state_dict(), allow={"seed"})
    one = LanceDataLoader(LanceIterableTorchDataset(tables["web"]))
    with pytest.raises(ValueError, match="is for mixtures"):
        one.load_state_dict(one.state_dict(), allow={"weights"})
