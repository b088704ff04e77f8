# SPDX-License-Identifier: Apache-2.0
"""Mixtures on ranks and workers, resumed, and with other weights and sources than before."""

import itertools
import json
from collections import Counter

import pytest
from conftest import record_reads
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
)
from mixed_tables import SHUFFLES, epochs_of, flat, ids, mixed, of_sources, source_of, tables_in
from torch.utils.data import DataLoader

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer than one step:UserWarning")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return tables_in(tmp_path_factory.mktemp("mixed"))


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


@pytest.mark.soak
def test_workers_that_are_forked_anew_for_each_epoch_make_them_too(tables, small_windows):
    plain = DataLoader(mixed(tables), batch_size=None, num_workers=2)
    assert [ids(plain) for _ in range(3)] == epochs_of(tables, 3)


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
# A source's windows go on from one epoch of the mixture into the next.
@pytest.mark.parametrize(("epochs", "stop"), [(1, 9600), (20, 480)])
def test_ranks_read_each_block_once(tables, small_windows, monkeypatch, ranks, epochs, stop):
    read = record_reads(monkeypatch, lambda reader, rows: (reader.recipe.name, len(rows)))
    needed, got = Counter(), Counter()
    options = {"cache": False, "weights": {"web": 2, "code": 1}, "stop": stop}
    loaders = [
        LanceDataLoader(
            mixed(tables, batch_size=48 // ranks, rank=rank, world_size=ranks, **options)
        )
        for rank in range(ranks)
    ]
    read.clear()
    for _ in range(epochs):
        for loader in loaders:
            needed.update(source_of(id) for batch in loader for id in batch["id"].tolist())
    for name, rows in read:
        got[name] += rows
    assert needed.total() == 9600
    for name in ("web", "code"):
        assert got[name] <= 1.1 * needed[name]


@pytest.mark.few(1)
@pytest.mark.parametrize("taken", [1, 5, 9, 10])
def test_an_epoch_is_the_same_whatever_was_read_of_the_one_before(tables, small_windows, taken):
    options = {"weights": {"web": 2, "code": 1}, "cache": False}
    whole = epochs_of(tables, 4, **options)
    assert len(whole[0]) == 10
    loader = LanceDataLoader(mixed(tables, **options))
    for epoch in (0, 1, 2, 0):
        loader.set_epoch(epoch)
        assert [b["id"].tolist() for b in itertools.islice(loader, taken)] == whole[epoch][:taken]
        loader.set_epoch(epoch + 1)
        assert ids(loader) == whole[epoch + 1]


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
    with pytest.raises(ValueError, match="it is of a mixture, and this is one table"):
        LanceDataLoader(LanceIterableTorchDataset(tables["web"])).load_state_dict(state)
