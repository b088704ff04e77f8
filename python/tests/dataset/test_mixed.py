# SPDX-License-Identifier: Apache-2.0
"""Mixtures of tables: their rows, shares, order, states, and what is refused."""

import itertools
import json
import pickle
import re
import threading
from collections import Counter
from pathlib import Path

import lancedb
import numpy as np
import pytest
import torch
from conftest import record_reads, rows_of
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
)
from torch.utils.data import DataLoader

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer than one step:UserWarning")

SIZES = {"web": 1500, "code": 900, "books": 31}
SHUFFLES = {"web": True, "code": "global", "books": False}
WEIGHTS = {"web": 0.6, "code": 0.3, "books": 0.1}
FIRST = {name: 10_000 * number for number, name in enumerate(SIZES)}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Tables whose ids say which they are."""
    db = lancedb.connect(tmp_path_factory.mktemp("mixed"))
    return {name: db.create_table(name, rows_of(size, FIRST[name])) for name, size in SIZES.items()}


def sources(tables, **more):
    return {
        name: LanceIterableTorchDataset(table, shuffle=SHUFFLES.get(name, True), **more)
        for name, table in tables.items()
    }


@pytest.fixture(scope="module")
def made(tables):
    """Sources that several mixtures may be asked for, where none is made."""
    return sources(tables)


def mixed(tables, weights=WEIGHTS, **options):
    return of_sources(sources(tables), weights, **options)


def of_sources(sources, weights=WEIGHTS, **options):
    options = {"batch_size": 48, "format": "torch", "stop": 480, **options}
    return LanceMixedTorchDataset(sources, weights, **options)


def ids(loader):
    return [batch["id"].tolist() for batch in loader]


def epochs_of(tables, count=3, **options):
    loader = LanceDataLoader(mixed(tables, **options))
    return [ids(loader) for _ in range(count)]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def source_of(id):
    return max((first, name) for name, first in FIRST.items() if first <= id)[1]


# -- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [False, True])
def test_rows_are_those_of_their_tables(tables, small_windows, cache):
    dataset = mixed(tables, source_column="source", cache=cache, format="arrow")
    names = list(SIZES)
    for batch in LanceDataLoader(dataset):
        assert batch.num_rows == 48
        for row in batch.to_pylist():
            name, i = names[row["source"]], row["id"]
            assert source_of(i) == name
            assert row["text"] == f"row {i}"
            assert row["tokens"] == list(range(i % 5))
            assert row["vec"] == [i, i + 0.125, i + 0.25, i + 0.375]
    assert dataset.schema.names[-1] == "source"


@pytest.mark.parametrize("cache", [True, "auto"])
def test_batches_are_the_same_in_memory_and_from_windows(tables, small_windows, cache):
    assert epochs_of(tables, cache=cache) == epochs_of(tables, cache=False)


def test_sources_are_within_two_rows_a_shard_of_their_shares(tables, small_windows):
    given = Counter()
    total = sum(WEIGHTS.values())
    for number, batch in enumerate(epochs_of(tables, 1)[0], 1):
        given.update(map(source_of, batch))
        for name, weight in WEIGHTS.items():
            assert abs(given[name] - 48 * number * weight / total) <= 2 * 8


def test_sources_are_gone_through_before_rows_repeat(tables, small_windows):
    came = Counter(id for epoch in epochs_of(tables, 12) for batch in epoch for id in batch)
    for name, size in SIZES.items():
        times = [came[FIRST[name] + row] for row in range(size)]
        assert sum(times) > size
        # Parts of a source differ by a few rows in how far they have come.
        assert max(times) - min(times) <= 2
        middle = sorted(times)[len(times) // 2]
        assert sum(abs(n - middle) > 1 for n in times) == 0


def test_an_epoch_ends_before_a_source_repeats(tables):
    loader = LanceDataLoader(mixed(tables, stop="first_exhausted", batch_size=8))
    counts = Counter(id for batch in loader for id in batch["id"].tolist())
    assert 280 <= sum(counts.values()) <= 326  # 31 books are a tenth
    # Shards may draw a row or two more of their part than others.
    assert sum(times > 1 for times in counts.values()) <= 2 * 8


def test_an_epoch_that_waits_for_all_delivers_every_row(tables):
    loader = LanceDataLoader(
        mixed(
            tables,
            stop="all_exhausted",
            batch_size=8,
            drop_last=False,
            weights={"web": 1, "code": 1},
        )
    )
    names = Counter(source_of(id) for batch in loader for id in batch["id"].tolist())
    assert 3000 <= names["web"] + names["code"] <= 3010
    assert abs(names["web"] - names["code"]) <= 16


# -- ranks, workers, resume ----------------------------------------------------------------------


@pytest.mark.few(1)
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_make_the_batches_of_one_process(tables, small_windows, workers):
    loader = LanceDataLoader(mixed(tables), num_workers=workers, persistent_workers=True)
    assert [ids(loader), ids(loader)] == epochs_of(tables, 2)
    plain = DataLoader(
        mixed(tables), batch_size=None, num_workers=workers, multiprocessing_context="forkserver"
    )
    assert [ids(plain), ids(plain)] == epochs_of(tables, 2)


@pytest.mark.few(2)
# The shards are 8: divided by the ranks, and not.
@pytest.mark.parametrize(("ranks", "drop_last"), [(2, True), (3, False), (3, True), (8, False)])
def test_ranks_make_the_steps_of_one_process(tables, small_windows, ranks, drop_last):
    options = {"drop_last": drop_last, "stop": 500}
    whole = epochs_of(tables, 2, **options)
    loaders = [
        LanceDataLoader(
            mixed(tables, batch_size=48 // ranks, rank=rank, world_size=ranks, **options)
        )
        for rank in range(ranks)
    ]
    for epoch in whole:
        of_ranks = [ids(loader) for loader in loaders]
        assert len({len(batches) for batches in of_ranks}) == 1
        steps = [flat(batches) for batches in zip(*of_ranks, strict=True)]
        assert flat(steps) == flat(epoch)
        states = [loader.state_dict() for loader in loaders]
        assert all(state == states[0] for state in states)


def test_a_run_resumes_at_every_step_on_other_ranks(tables, small_windows):
    first, second = epochs_of(tables, 2)
    loader = LanceDataLoader(mixed(tables))
    batches = iter(loader)
    for step in range(1, len(first) + 1):
        assert next(batches)["id"].tolist() == first[step - 1]
        state = json.loads(json.dumps(loader.state_dict()))
        ranks = (1, 2, 3, 4)[step % 4]
        loaders = [
            LanceDataLoader(mixed(tables, batch_size=48 // ranks, rank=rank, world_size=ranks))
            for rank in range(ranks)
        ]
        for each in loaders:
            each.load_state_dict(state)
        rest = [flat(parts) for parts in zip(*map(ids, loaders), strict=True)]
        assert rest == (first[step:] or second)


def test_a_run_resumes_with_other_workers_and_of_a_plain_loader(tables, small_windows):
    first, second = epochs_of(tables, 2)
    loader = LanceDataLoader(mixed(tables), num_workers=2)
    batches = iter(loader)
    for _ in range(4):
        next(batches)
    state = loader.state_dict()
    del batches
    for workers in (0, 1):
        resumed = LanceDataLoader(mixed(tables), num_workers=workers)
        resumed.load_state_dict(state)
        assert [ids(resumed), ids(resumed)] == [first[4:], second]
    dataset = mixed(tables)
    dataset.load_state_dict(state)
    plain = DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context="forkserver"
    )
    assert [ids(plain), ids(plain)] == [first[4:], second]


def test_a_state_goes_on_with_another_batch_size(tables, small_windows):
    loader = LanceDataLoader(mixed(tables))
    batches = iter(loader)
    seen = [id for _ in range(5) for id in next(batches)["id"].tolist()]
    resumed = LanceDataLoader(mixed(tables, batch_size=10))
    resumed.load_state_dict(loader.state_dict())
    whole = flat(epochs_of(tables, 1)[0])
    assert sorted(seen + flat(ids(resumed))) == sorted(whole)


def test_peeking_and_counting_epochs_are_as_for_one_table(tables):
    loader = LanceDataLoader(mixed(tables))
    look = loader.peek()["id"].tolist()
    taken = [ids(loader) for _ in loader.epochs(2)]
    assert taken == epochs_of(tables, 2)
    assert taken[0][0] == look


@pytest.mark.few(2)
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_ranks_read_each_block_once(tables, small_windows, monkeypatch, ranks):
    read = record_reads(monkeypatch, lambda reader, rows: (reader.recipe.name, len(rows)))
    needed, got = Counter(), Counter()
    options = {"cache": False, "weights": {"web": 2, "code": 1}, "stop": 9600}
    loaders = [
        LanceDataLoader(
            mixed(tables, batch_size=48 // ranks, rank=rank, world_size=ranks, **options)
        )
        for rank in range(ranks)
    ]
    read.clear()
    for loader in loaders:
        needed.update(source_of(id) for batch in loader for id in batch["id"].tolist())
    for name, rows in read:
        got[name] += rows
    assert needed.total() == 9600
    for name in ("web", "code"):
        assert got[name] <= 1.1 * needed[name]


# -- weights that change -------------------------------------------------------------------------


def test_weights_change_at_a_row(tables, small_windows):
    weights = [(0, {"web": 1}), (600, {"code": 1})]
    first, second = epochs_of(tables, 2, weights=weights)
    names = [source_of(id) for epoch in (first, second) for batch in epoch for id in batch]
    assert set(names[:576]) == {"web"}
    assert set(names[624:]) == {"code"}
    assert names.count("web") == 600


def test_a_run_goes_on_with_other_weights_only_where_they_are_allowed(tables, small_windows):
    loader = LanceDataLoader(mixed(tables))
    batches = iter(loader)
    before = [next(batches)["id"].tolist() for _ in range(4)]
    state = loader.state_dict()
    changed = {"web": 0.1, "code": 0.8, "books": 0.1}
    resumed = LanceDataLoader(mixed(tables, weights=changed))
    said = r"weights were \{.*\} from row 192 of the mixture on, and are .*allow=\{\"weights\"\}"
    with pytest.raises(ValueError, match=said):
        resumed.load_state_dict(state)
    for allow in ("weights", None):
        with pytest.raises(TypeError, match="allow must be a set"):
            resumed.load_state_dict(state, allow=allow)
    resumed.load_state_dict(state, allow={"weights"})
    after = ids(resumed)
    names = Counter(source_of(id) for batch in after for id in batch)
    assert 0.7 < names["code"] / names.total() < 0.9
    assert not {id for batch in before for id in batch} & {
        id for batch in after for id in batch if source_of(id) != "books"
    }
    # What was allowed stands in later states, and need not be allowed again.
    again = LanceDataLoader(mixed(tables, weights=changed))
    again.load_state_dict(resumed.state_dict())
    assert ids(again) == ids(resumed)


@pytest.mark.few(1)
@pytest.mark.parametrize("sources", [{}, {"balance_by": "id % 7 = 0"}], ids=["all", "balanced"])
def test_allowed_weights_make_the_same_steps_on_any_ranks(tables, small_windows, sources):
    old = {name: tables[name] for name in ("web", "code")}
    before, after = {"web": 0.7, "code": 0.3}, {"web": 0.2, "code": 0.5, "books": 0.3}

    def made(tables, weights, rank=0, ranks=1):
        place = {"rank": rank, "world_size": ranks, "batch_size": 48 // ranks}
        return of_sources(datasets(tables), weights, source_column="source", **place)

    def datasets(tables):
        return {
            name: LanceIterableTorchDataset(each, shuffle=SHUFFLES.get(name, True), **sources)
            for name, each in tables.items()
        }

    def resumed(state, ranks, workers=0):
        shares = []
        for rank in range(ranks):
            loader = LanceDataLoader(made(tables, after, rank, ranks), num_workers=workers)
            loader.load_state_dict(state, allow={"weights"})
            shares.append(ids(loader) + ids(loader))
        return [flat(step) for step in zip(*shares, strict=True)], loader.state_dict()

    loader = LanceDataLoader(made(old, before, 0, 2))
    for _ in zip(range(3), loader, strict=False):
        pass
    state = loader.state_dict()
    whole = resumed(state, 1)
    # As if these weights had been there from that row on, but for windows, which are the state's.
    weights = [(0, before), (144, after)]
    planned = LanceDataLoader(of_sources(datasets({**old, "books": tables["books"]}), weights))
    steps = (ids(planned) + ids(planned))[3:]
    assert [[*map(source_of, step)] for step in steps] == [
        [*map(source_of, step)] for step in whole[0]
    ]
    for ranks, workers in ((2, 1), (4, 0)):
        assert resumed(state, ranks, workers) == whole


def test_a_source_is_added_where_that_is_allowed(tables, small_windows):
    old = {name: tables[name] for name in ("web", "code")}
    loader = LanceDataLoader(mixed(old, weights={"web": 1, "code": 1}))
    next(iter(loader))
    state = loader.state_dict()
    new = {"books": tables["books"], **old}
    make = {"weights": {"web": 1, "code": 1, "books": 2}, "source_column": "source"}
    resumed = LanceDataLoader(mixed(new, **make))
    with pytest.raises(ValueError, match="'books' is new, which load_state_dict"):
        resumed.load_state_dict(state)
    resumed.load_state_dict(state, allow={"weights"})
    for batch in resumed:
        # The numbers of a state's sources are first.
        expected = [["web", "code", "books"].index(source_of(id)) for id in batch["id"].tolist()]
        assert batch["source"].tolist() == expected
    assert list(resumed.state_dict()["plan"]["sources"]) == ["web", "code", "books"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"stop": 960}, "stop was 480 and is 960"),
    ],
)
def test_states_of_other_orders_are_refused(tables, change, said):
    state = LanceDataLoader(mixed(tables)).state_dict()
    with pytest.raises(ValueError, match=said):
        LanceDataLoader(mixed(tables, **change)).load_state_dict(state)


def test_states_name_each_difference_of_each_source(tables, tmp_path):
    state = LanceDataLoader(mixed(tables)).state_dict()
    state["plan"]["sources"]["web"]["version"] = 7
    state["plan"]["sources"]["code"]["shuffle"] = "none"
    said = "version of source 'web' was 7 and is 1; shuffle of source 'code' was 'none' and is 'gl"
    with pytest.raises(ValueError, match=said):
        LanceDataLoader(mixed(tables)).load_state_dict(state)
    fewer = {name: tables[name] for name in ("web", "code")}
    with pytest.raises(ValueError, match="'books' is missing: keep it, with a weight of 0"):
        LanceDataLoader(mixed(fewer, weights={"web": 1})).load_state_dict(state)
    one = LanceDataLoader(LanceIterableTorchDataset(tables["web"])).state_dict()
    with pytest.raises(ValueError, match="it is of one table, and this is a mixture"):
        LanceDataLoader(mixed(tables)).load_state_dict(one)
    with pytest.raises(ValueError, match="belongs to other data"):
        LanceIterableTorchDataset(tables["web"]).load_state_dict(state)


# -- what is refused -----------------------------------------------------------------------------


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


# -- what is seen of it --------------------------------------------------------------------------


def test_figures_show_how_far_each_source_has_come(tables):
    loader = LanceDataLoader(mixed(tables))
    for _ in loader:
        pass
    shown = loader.stats()["sources"]
    assert sum(source["rows"] for source in shown.values()) == 480
    assert shown["books"] == {"rows": shown["books"]["rows"], "epoch": shown["books"]["rows"] / 31}
    assert loader.postfix()["web"] == f"{shown['web']['epoch']:.2f}"
    assert loader.dataset.stats()["sources"].keys() == SIZES.keys()


def test_its_repr_reads_as_a_recipe(tables):
    shown = repr(mixed(tables, source_column="source"))
    assert "'web': table 'web', version 1" in shown
    assert "weights={'web': 0.6, 'code': 0.3, 'books': 0.1}" in shown
    assert "stop=480, source_column='source'" in shown


def test_its_pickle_is_small(tables):
    dataset = mixed(tables)
    next(iter(dataset))
    assert len(pickle.dumps(dataset)) < 4096 * len(tables)
    assert next(iter(pickle.loads(pickle.dumps(dataset))))["id"].shape == (48,)


def test_errors_name_the_rows_and_their_tables(tables):
    def fail(batch):
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError) as caught:
        next(iter(mixed(tables, transform=fail)))
    notes = "".join(getattr(caught.value, "__notes__", ["of 'web'"]))
    assert "of 'web'" in notes


class Odd:
    """Fails on odd ids."""

    def __call__(self, batch):
        if (batch["id"] % 2).any():
            raise ValueError("odd")
        return batch


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_that_are_left_out_are_named_with_their_source(tables, workers):
    dataset = mixed(tables, transform=Odd(), on_error="skip", stop=96)
    loader = LanceDataLoader(dataset, num_workers=workers)
    even = {id for batch in loader for id in batch["id"].tolist()}
    assert all(id % 2 == 0 for id in even)
    skipped = loader.skipped_rows()
    assert len(skipped) + len(even) == 96
    assert all((FIRST[name] + offset) % 2 for name, offset in skipped)
    assert {name for name, _ in skipped} == set(SIZES)


def test_rows_come_one_by_one(tables):
    row = next(
        iter(
            mixed(tables, batch_size=1, unwrap=True, columns=None)
            if False
            else mixed(tables, batch_size=1, unwrap=True)
        )
    )
    assert row["id"].shape == ()


def test_twenty_tables_take_no_more_threads_than_one(tmp_path):
    db = lancedb.connect(tmp_path)
    made = {f"t{n}": db.create_table(f"t{n}", rows_of(200, 10_000 * n)) for n in range(20)}

    def threads(names):
        dataset = LanceMixedTorchDataset(
            {name: LanceIterableTorchDataset(made[name], shuffle=True) for name in names},
            dict.fromkeys(names, 1),
            cache=False,
            format="torch",
        )
        batches = iter(dataset)
        next(batches)
        count = threading.active_count()
        batches.close()
        return count

    threads(["t0"])
    assert threads(list(made)) <= threads(["t0"])


def test_values_are_those_of_the_tables_with_nulls_in_one_of_them(db):
    clean = db.create_table("clean", rows_of(50).select(["id"]))
    rows = rows_of(50).select(["id"]).to_pylist()
    nulls = db.create_table("nulls", [{"id": None if row["id"] % 2 else row["id"]} for row in rows])
    made = {"a": LanceIterableTorchDataset(clean), "b": LanceIterableTorchDataset(nulls)}
    dataset = LanceMixedTorchDataset(
        made, {"a": 1, "b": 1}, batch_size=20, format="torch", fill_null=-1, stop=100, cache=False
    )
    values = torch.cat([batch["id"] for batch in dataset])
    assert abs(np.count_nonzero(values == -1) - 25) <= 2 * 4
