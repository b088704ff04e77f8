# SPDX-License-Identifier: Apache-2.0
"""Mixtures of which each step is of one source, with columns and a format of its own."""

import re
from collections import Counter

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import rows_of
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
)
from loaders import through_json
from torch.utils.data import DataLoader

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fewer than one step:UserWarning"),
    pytest.mark.usefixtures("small_windows"),
]

START = {"points": 0, "texts": 10_000, "pets": 20_000}
WEIGHTS = {"points": 3, "texts": 2, "pets": 1}


def counted(batch, context):
    return {"id": batch["id"], "random": torch.from_numpy(context.random())}


OPTIONS = {
    "points": {"columns": ["id", "vec"], "format": "torch"},
    "texts": {"columns": ["id", "tokens"], "format": "torch", "ragged": "pad", "pad_value": -1},
    "pets": {"columns": ["id"], "format": "torch", "fill_null": -5, "transform": counted},
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    db = lancedb.connect(tmp_path_factory.mktemp("mixed"))
    made = {
        name: db.create_table(name, rows_of(size, START[name]))
        for name, size in [("points", 900), ("texts", 500)]
    }
    ids = [None if n == 7 else START["pets"] + n for n in range(70)]
    return {**made, "pets": db.create_table("pets", pa.table({"id": ids}))}


def mixed(tables, weights=WEIGHTS, own=OPTIONS, **options):
    sources = {
        name: LanceIterableTorchDataset(table, shuffle=True, **own[name])
        for name, table in tables.items()
    }
    options = {"batch_size": 24, "stop": 24 * 12, "mix": "batches", **options}
    return LanceMixedTorchDataset(sources, weights, **options)


def plain(batch):
    """A batch as lists."""
    return {name: values.tolist() for name, values in batch.items()}


def batches_of(loader):
    return list(map(plain, loader))


def kind(batch):
    columns = frozenset(set(batch) - {"source"})
    return {
        frozenset({"id", "vec"}): "points",
        frozenset({"id", "tokens", "tokens_length"}): "texts",
        frozenset({"id", "random"}): "pets",
    }[columns]


@pytest.fixture
def whole(tables):
    """Two epochs as one process without workers delivers them."""
    loader = LanceDataLoader(mixed(tables))
    return [batches_of(loader), batches_of(loader)]


@pytest.mark.parametrize("cache", [True, False])
def test_each_step_is_of_one_source_in_its_own_format(tables, whole, cache):
    loader = LanceDataLoader(mixed(tables, cache=cache, source_column="source"))
    seen = Counter()
    for number, batch in enumerate(map(plain, loader), 1):
        seen[kind(batch)] += 1
        for name, weight in WEIGHTS.items():
            assert abs(seen[name] - number * weight / 6) < 1
        if kind(batch) == "pets":  # whose transform has only made these columns
            continue
        first = START[kind(batch)]
        assert {list(START).index(kind(batch))} == set(batch["source"])
        rows = [id - first for id in batch["id"]]
        assert all(0 <= row < 1000 for row in rows)
        if kind(batch) == "points":
            assert [vec[0] for vec in batch["vec"]] == batch["id"]
        else:
            assert [row.count(-1) for row in batch["tokens"]] == [4 - id % 5 for id in batch["id"]]
    assert seen == {"points": 6, "texts": 4, "pets": 2}
    assert len(loader) == 12
    assert loader.stats()["sources"]["pets"]["epoch"] == 48 / 70
    without = [{k: v for k, v in each.items() if k != "source"} for each in map(plain, loader)]
    assert [each["id"] for each in without] == [each["id"] for each in whole[1]]


def test_a_small_source_is_whole_before_it_repeats(tables):
    loader = LanceDataLoader(mixed(tables))
    ids, randoms = Counter(), []
    for _ in range(7):
        for batch in loader:
            if kind(batch) == "pets":
                ids.update(batch["id"].tolist())
                randoms += batch["random"].tolist()
    assert sum(ids.values()) == 7 * 48
    assert set(ids.values()) == {4, 5}  # of 70 rows, 4.8 times
    assert ids[-5] >= 4  # the null
    assert len(set(randoms)) == len(randoms)


@pytest.mark.few(1)
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_threads_make_the_same_batches(tables, whole, workers):
    loader = LanceDataLoader(
        mixed(tables, transform_threads=0 if workers else 2),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    assert [batches_of(loader), batches_of(loader)] == whole
    context = "forkserver" if workers else None
    own = DataLoader(
        mixed(tables), batch_size=None, num_workers=workers, multiprocessing_context=context
    )
    assert batches_of(own) == whole[0]


@pytest.mark.few(1)
@pytest.mark.parametrize("ranks", [3, 8])
def test_ranks_share_each_step_of_a_source(tables, whole, ranks):
    loaders = [
        LanceDataLoader(
            mixed(tables, batch_size=24 // ranks, rank=rank, world_size=ranks, cache=False)
        )
        for rank in range(ranks)
    ]
    steps = zip(*map(batches_of, loaders), strict=True)
    assert [[id for part in step for id in part["id"]] for step in steps] == [
        batch["id"] for batch in whole[0]
    ]
    states = [loader.state_dict() for loader in loaders]
    assert all(state == states[0] for state in states)


def test_a_run_resumes_at_every_step_on_other_ranks(tables, whole):
    loader = LanceDataLoader(mixed(tables))
    batches = iter(loader)
    for step in range(1, 13):
        assert plain(next(batches)) == whole[0][step - 1]
        state = through_json(loader.state_dict())
        ranks = (1, 2)[step % 2]
        parts = []
        for rank in range(ranks):
            resumed = LanceDataLoader(
                mixed(tables, batch_size=24 // ranks, rank=rank, world_size=ranks)
            )
            resumed.load_state_dict(state)
            parts.append(batches_of(resumed))
        rest = [[id for part in step for id in part["id"]] for step in zip(*parts, strict=True)]
        assert rest == [batch["id"] for batch in (whole[0][step:] or whole[1])]


def test_a_state_goes_on_with_the_same_global_batch_alone(tables):
    state = LanceDataLoader(mixed(tables)).state_dict()
    said = "global_batch was 24 and is 48"
    with pytest.raises(ValueError, match=said):
        mixed(tables, batch_size=48).load_state_dict(state)
    with pytest.raises(ValueError, match=said):
        mixed(tables, rank=0, world_size=2).load_state_dict(state)
    mixed(tables, batch_size=12, rank=0, world_size=2).load_state_dict(state)
    alike = {name: {"columns": ["id"]} for name in tables}
    rows = {name: table for name, table in tables.items() if name != "pets"}
    of_rows = mixed(rows, {"points": 1, "texts": 1}, alike, mix="rows")
    with pytest.raises(ValueError, match="mix was 'rows' and is 'batches'; global_batch was '"):
        mixed(tables).load_state_dict(of_rows.state_dict())
    state["position"] = 30
    with pytest.raises(ValueError, match="damaged: position 30 is within a step of 24"):
        mixed(tables).load_state_dict(state)


def test_weights_change_and_sources_are_added(tables):
    old = {name: tables[name] for name in ("points", "texts")}
    loader = LanceDataLoader(mixed(old, {"points": 1, "texts": 1}))
    batches = iter(loader)
    before = [id for _ in range(5) for id in next(batches)["id"].tolist()]
    state = loader.state_dict()
    resumed = LanceDataLoader(mixed(tables, {"points": 1, "pets": 1}))
    with pytest.raises(ValueError, match="'pets' is new, which load_state_dict"):
        resumed.load_state_dict(state)
    resumed.load_state_dict(state, allow={"weights"})
    after = batches_of(resumed)
    assert Counter(map(kind, after)) in ({"points": 3, "pets": 4}, {"points": 4, "pets": 3})
    assert not set(before) & {id for batch in after for id in batch["id"]}


def fail_on_three(batch):
    if (batch["id"] % 10 == 3).any():
        raise ValueError("three")
    return batch


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_that_a_transform_fails_on_are_named_with_their_source(tables, workers):
    own = {**OPTIONS, "texts": {**OPTIONS["texts"], "transform": fail_on_three}}
    loader = LanceDataLoader(mixed(tables, own=own, on_error="skip"), num_workers=workers)
    made = batches_of(loader)
    skipped = loader.skipped_rows()
    assert {name for name, _ in skipped} == {"texts"}
    assert all(offset % 10 == 3 for _, offset in skipped)
    texts = [len(batch["id"]) for batch in made if kind(batch) == "texts"]
    assert sum(texts) + len(skipped) == 4 * 24
    with pytest.raises(ValueError, match="three") as caught:
        for _ in LanceDataLoader(mixed(tables, own=own), num_workers=workers):
            pass
    assert "of 'texts'" in "".join(getattr(caught.value, "__notes__", ["of 'texts'"]))


def test_formats_may_be_any_and_codes_are_the_sources(tables):
    db = tables["points"]._conn
    kinds = pa.array(["cat", "dog"] * 30).dictionary_encode()
    rows = pa.table({"n": np.arange(60), "kind": kinds})
    pets = db.create_table("kinds", rows, mode="overwrite")
    made = {
        "arrow": LanceIterableTorchDataset(tables["points"], columns=["id"], transform=same),
        "rows": LanceIterableTorchDataset(tables["texts"], columns=["id", "text"]),
        "codes": LanceIterableTorchDataset(pets, format="torch", dictionary="codes"),
    }
    dataset = LanceMixedTorchDataset(
        made, dict.fromkeys(made, 1), batch_size=10, stop=30, mix="batches"
    )
    by_name = dict(zip(made, sorted(dataset, key=lambda batch: type(batch).__name__), strict=False))
    assert {type(batch).__name__ for batch in by_name.values()} == {"RecordBatch", "list", "dict"}
    for batch in by_name.values():
        if isinstance(batch, pa.RecordBatch):
            assert batch.schema == pa.schema([("id", pa.int64())])
            assert not batch.schema.metadata
        elif isinstance(batch, dict):
            assert (batch["kind"] == batch["n"] % 2).all()
        else:
            assert all(row["text"] == f"row {row['id']}" for row in batch)
    assert dataset.format == {"arrow": "arrow", "rows": "python", "codes": "torch"}
    assert dataset.column_names["codes"] == ["n", "kind"]
    assert dataset.schema["rows"].names == ["id", "text"]
    assert "stop=30, mix='batches'" in repr(dataset)


def same(batch):
    return batch


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "torch"}, "format with mix='batches': give it to the sources"),
        ({"fill_null": 0, "ragged": "pad"}, "fill_null, ragged with mix='batches': give them to"),
        ({"unwrap": True, "batch_size": 1}, "unwrap=True is for mix='rows'"),
        ({"stop": 20}, "stop=20 is less than one step of 24 rows"),
        ({"batch_size": 96, "stop": "first_exhausted"}, "source 'pets' has 70 rows, which are le"),
        ({"source_column": "id"}, "a column of the sources already"),
        ({"mix": "steps"}, "mix must be one of 'rows', 'batches', not 'steps'"),
    ],
)
def test_arguments_that_cannot_be_are_refused(tables, options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        mixed(tables, **options)


def test_what_belongs_to_the_mixture_is_refused_of_a_source(tables):
    own = {**OPTIONS, "pets": {**OPTIONS["pets"], "batch_size": 7, "on_error": "skip"}}
    with pytest.raises(ValueError, match="source 'pets' has on_error, batch_size.*format, tra"):
        mixed(tables, own=own)
