# SPDX-License-Identifier: Apache-2.0
"""Sources of a mixture whose rows are drawn by weights."""

from collections import Counter

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from conftest import rows_of, shrink_windows
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
    TokenBudget,
)
from loaders import through_json

SHUFFLES = [False, True, "global"]
START = 10_000  # the first id of the source that is not drawn


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Of "rated" a row's quality is its id modulo 5, and one in ten is of kind "b"."""
    db = lancedb.connect(tmp_path_factory.mktemp("mixed"))
    rows = rows_of(600).select(["id"])
    ids = rows["id"].to_numpy()
    rows = rows.append_column("quality", pa.array(ids % 5, pa.int16()))
    rows = rows.append_column("kind", pa.array(np.where(ids % 10 == 3, "b", "a")))
    return db.create_table("rated", rows), db.create_table("plain", rows_of(500, START))


@pytest.fixture(autouse=True)
def smaller_windows(monkeypatch):
    shrink_windows(monkeypatch, 4000, 100, 32, 200)


def mixed(tables, drawn, shuffle=True, **options):
    rated, plain = tables
    sources = {
        "rated": LanceIterableTorchDataset(rated, columns=["id"], shuffle=shuffle, **drawn),
        "plain": LanceIterableTorchDataset(plain, columns=["id"], shuffle=True),
    }
    options = {"batch_size": 48, "stop": 480, "format": "torch", **options}
    return LanceMixedTorchDataset(sources, {"rated": 3, "plain": 1}, **options)


def rated_of(loader, epochs=1):
    found = [id for _ in range(epochs) for batch in loader for id in batch["id"].tolist()]
    return [id for id in found if id < START]


@pytest.mark.few(3)
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_a_sources_own_sequence_is_the_weighted_one(tables, shuffle, cache):
    drawn = {"sample_weights": "quality", "epoch_rows": 1200}
    options = {"cache": cache, "stop": 1600, "batch_size": 40}
    loader = LanceDataLoader(mixed(tables, drawn, shuffle, **options))
    # Four epochs of the mixture are four of the source, but for a few rows of each shard.
    counts = Counter(rated_of(loader, 4))
    assert sum(counts.values()) == 4800
    off = [abs(counts[id] - 4 * (id % 5)) for id in range(600)]
    assert max(off) <= 1
    assert sum(off) <= 3 * 8
    assert not any(counts[id] for id in range(0, 600, 5))


def test_classes_of_a_source_are_balanced(tables):
    found = rated_of(LanceDataLoader(mixed(tables, {"balance_by": "kind"})), 4)
    assert abs(sum(id % 10 == 3 for id in found) / len(found) - 0.5) < 0.05


@pytest.mark.parametrize("stop", ["first_exhausted", "all_exhausted"])
def test_rows_of_an_epoch_are_as_many_as_the_source_draws(tables, stop):
    drawn = {"sample_weights": "quality", "epoch_rows": 150}
    dataset = mixed(tables, drawn, stop=stop, batch_size=8)
    assert abs(dataset.num_rows - {"first_exhausted": 200, "all_exhausted": 2000}[stop]) <= 16
    shown = LanceDataLoader(dataset)
    for _ in shown:
        pass
    source = shown.stats()["sources"]["rated"]
    assert source["epoch"] == source["rows"] / 150


def test_ranks_workers_and_resumed_runs_draw_alike(tables):
    drawn = {"sample_weights": "quality", "epoch_rows": 300}
    whole = [batch["id"].tolist() for batch in LanceDataLoader(mixed(tables, drawn))]
    loader = LanceDataLoader(mixed(tables, drawn), num_workers=1)
    batches = iter(loader)
    assert [next(batches)["id"].tolist() for _ in range(3)] == whole[:3]
    state = through_json(loader.state_dict())
    assert state["plan"]["sources"]["rated"]["sample_weights"] == "quality"
    for ranks in (1, 2, 4):
        loaders = [
            LanceDataLoader(
                mixed(tables, drawn, batch_size=48 // ranks, rank=rank, world_size=ranks)
            )
            for rank in range(ranks)
        ]
        for each in loaders:
            each.load_state_dict(state)
        steps = zip(*loaders, strict=True)
        rest = [[id for part in step for id in part["id"].tolist()] for step in steps]
        assert rest == whole[3:]


def augment(batch, context):
    return {"id": batch["id"].tolist(), "random": context.random().tolist()}


def test_a_row_that_is_drawn_several_times_draws_anew_each_time(tables):
    drawn = {"sample_weights": "quality", "epoch_rows": 1200}
    made = list(LanceDataLoader(mixed(tables, drawn, transform=augment, stop=1600)))
    assert max(Counter(id for batch in made for id in batch["id"]).values()) >= 3
    values = [value for batch in made for value in batch["random"]]
    assert len(set(values)) == len(values) == 1584


def test_a_state_of_other_weights_is_refused(tables):
    state = LanceDataLoader(mixed(tables, {"sample_weights": "quality"})).state_dict()
    said = "sample_weights of source 'rated' was 'quality' and is 'quality \\+ 1'"
    with pytest.raises(ValueError, match=said):
        mixed(tables, {"sample_weights": "quality + 1"}).load_state_dict(state)
    with pytest.raises(ValueError, match="sample_weights of source 'rated' was 'quality'"):
        mixed(tables, {}).load_state_dict(state)


@pytest.mark.filterwarnings("ignore:.*fewer than one step:UserWarning")
def test_few_draws_of_a_large_table_do_not_keep_all_of_it(tables, monkeypatch):
    monkeypatch.undo()
    dataset = mixed(tables, {"sample_weights": "quality", "epoch_rows": 20}, world_size=2, rank=0)
    in_memory = {
        order.name: order.in_memory for order in dataset._plan(dataset._cursor.next, None).sources
    }
    assert in_memory == {"rated": False, "plain": True}


def test_a_repr_says_how_a_source_draws(tables):
    shown = repr(mixed(tables, {"sample_weights": "quality", "epoch_rows": 300}))
    assert "rows=600 (all rows), block, sample_weights='quality', epoch_rows=300" in shown


def test_batches_by_tokens_are_refused_of_a_source(tables):
    source = LanceIterableTorchDataset(tables[0], batching=TokenBudget(64, lengths="id"))
    with pytest.raises(ValueError, match="source 'a' has batching=.*leave it out"):
        LanceMixedTorchDataset({"a": source}, {"a": 1})
