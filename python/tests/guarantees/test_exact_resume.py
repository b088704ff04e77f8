# SPDX-License-Identifier: Apache-2.0
"""Resuming at any batch goes on as if nothing had happened; states of anything else are refused."""

import json

import pytest
from conftest import rows_of
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
)
from loaders import KINDS, flat, ids, iterable, mapped, run, through_json
from soak import soaked
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

# -- resume ------------------------------------------------------------------------------------


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("order", "format", "drop_last"),
    [
        ("none", "torch", True),
        ("block", "torch", False),
        ("block", "python", True),
        ("global", "torch", True),
        ("global", "python", False),
    ],
)
def test_resuming_at_every_batch_gives_the_rest_of_the_epoch(table, order, format, drop_last):
    options = {"order": order, "format": format, "drop_last": drop_last}
    loader = iterable(table, **options)
    states, epoch = [loader.state_dict()], []
    for batch in loader:
        epoch.append(ids(batch))
        states.append(loader.state_dict())
    next_epoch = run(loader)
    resumed = iterable(table, **options)
    for done, state in enumerate(states[:-1]):
        resumed.load_state_dict(through_json(state))
        assert run(resumed) == epoch[done:]
    resumed.load_state_dict(states[-1])
    assert run(resumed) == next_epoch


@pytest.mark.few(1)
@pytest.mark.parametrize(("workers", "format"), [(1, "python"), (2, "torch"), (3, "torch")])
def test_resuming_at_every_batch_with_workers(table, workers, format):
    options = {"format": format, "batch_size": 120, "persistent_workers": True}
    loader = iterable(table, workers, **options)
    states, epoch = [loader.state_dict()], []
    for batch in loader:
        epoch.append(ids(batch))
        states.append(loader.state_dict())
    alone = iterable(table, format=format, batch_size=120)
    assert run(alone) == epoch
    next_epoch = run(alone)
    for done, state in enumerate(states):
        loader.load_state_dict(through_json(state))
        assert run(loader) == (epoch[done:] or next_epoch)


@pytest.mark.few(1)
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_map_style_dataset_resumes_at_every_batch(table, workers):
    options = {"batch_size": 120, "drop_last": False, "persistent_workers": workers > 0}
    loader = mapped(table, workers, **options)
    states, epoch = [loader.state_dict()], []
    for batch in loader:
        epoch.append(ids(batch))
        states.append(loader.state_dict())
    next_epoch = run(mapped(table, **{**options, "persistent_workers": False}))
    assert epoch == next_epoch
    for done, state in enumerate(states[:-1]):
        loader.load_state_dict(through_json(state))
        assert run(loader) == epoch[done:]


@pytest.mark.few(1)
@KINDS
def test_the_number_of_workers_may_change_at_a_resume(table, make):
    whole = run(make(table))
    done, state = [], None
    for workers, steps in ((2, 3), (0, 5), (3, 4), (1, None)):
        loader = make(table, workers)
        if state is not None:
            loader.load_state_dict(state)
        done += run(loader, steps)
        state = loader.state_dict()
    assert done == whole


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("make", "prefetch_factor", "persistent"),
    [(iterable, 1, False), (iterable, 8, True), (mapped, 1, True), (mapped, 8, False)],
)
def test_what_was_prefetched_is_not_counted(table, make, prefetch_factor, persistent):
    whole = run(make(table))
    loader = make(table, 2, prefetch_factor=prefetch_factor, persistent_workers=persistent)
    batches = iter(loader)
    for delivered in range(1, 4):
        next(batches)
        state = loader.state_dict()
        assert state["position"] == delivered * 48
    loader.load_state_dict(state)
    assert run(loader) == whole[3:]


@pytest.mark.few(2)
@KINDS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_may_be_loaded_before_after_and_instead_of_iter(table, make, workers):
    whole = run(make(table))
    first = make(table)
    run(first, 7)
    state = first.state_dict()
    loader = make(table, workers)
    batches = iter(loader)
    next(batches)
    loader.load_state_dict(state)
    assert ids(next(batches)) == whole[7]
    assert loader.state_dict()["position"] == 8 * 48
    loader.load_state_dict(state)
    loader.load_state_dict(state)
    assert loader.state_dict() == state
    assert run(loader) == whole[7:]


@KINDS
def test_states_at_the_very_start_and_the_very_end(table, make):
    loader = make(table)
    start = loader.state_dict()
    assert (start["epoch"], start["position"]) == (0, 0)
    epoch = run(loader)
    end = loader.state_dict()
    assert (end["epoch"], end["position"]) == (1, 0)
    second = run(loader)
    for state, expected in ((start, epoch), (end, second)):
        other = make(table)
        other.load_state_dict(state)
        assert run(other) == expected
    other.set_epoch(0)
    assert run(other) == epoch


@KINDS
def test_the_epoch_after_a_resumed_one_is_a_whole_one(table, make):
    loader = make(table)
    epochs = [run(loader) for _ in range(3)]
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "position": 48 * 4})
    assert run(loader) == epochs[1][4:]
    assert run(loader) == epochs[2]


@KINDS
def test_a_state_is_small_plain_and_the_same_on_every_rank(table, make, monkeypatch):
    states = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        loader = make(table, batch_size=24)
        run(loader, 5)
        states.append(loader.state_dict())
    assert states[0] == states[1]
    assert states[0]["format_version"] == 3
    assert states[0]["position"] == 5 * 48
    assert through_json(states[0]) == states[0]
    assert len(json.dumps(states[0])) < 1000


def test_ranks_may_change_at_a_resume_if_the_steps_stay_as_large(table):
    whole = run(iterable(table))
    options = {"batch_size": 12, "world_size": 4}
    loaders = [iterable(table, rank=rank, **options) for rank in range(4)]
    done = [flat(step) for step in zip(*(run(loader, 6) for loader in loaders), strict=True)]
    state = loaders[3].state_dict()
    on_two = [iterable(table, rank=rank, world_size=2, batch_size=24) for rank in range(2)]
    for loader in on_two:
        loader.load_state_dict(state)
    done += [flat(step) for step in zip(*(run(loader, 5) for loader in on_two), strict=True)]
    alone = iterable(table)
    alone.load_state_dict(on_two[0].state_dict())
    assert done + run(alone) == whole


def test_another_batch_size_goes_on_without_losing_or_repeating_a_row(table):
    whole = flat(run(iterable(table, drop_last=False)))
    loader = iterable(table, drop_last=False)
    done = flat(run(loader, 5))
    other = iterable(table, batch_size=70, drop_last=False)
    other.load_state_dict(loader.state_dict())
    assert done + flat(run(other)) == whole


def test_the_layout_is_taken_from_the_state(wide_range):
    loader = iterable(wide_range, **{"block_rows": 16, "window_rows": 512, "lanes": 8})
    whole = run(loader)
    loader.set_epoch(0)
    run(loader, 9)
    dataset = LanceIterableTorchDataset(
        wide_range, columns=["id"], format="torch", batch_size=48, shuffle=True
    )
    other = LanceDataLoader(dataset)
    other.load_state_dict(loader.state_dict())
    assert run(other) == whole[9:]


def test_what_is_written_between_the_halves_changes_nothing(table):
    whole = run(iterable(table))
    version = table.version
    first = iterable(table)
    done = run(first, 8)
    state = first.state_dict()
    table.add(rows_of(100, 9000))
    table.delete("id < 500")
    table.optimize()
    second = iterable(table, workers=2, version=version)
    second.load_state_dict(state)
    assert done + run(second) == whole


@pytest.mark.soak
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_start_methods_resume_too(table, method):
    whole = run(iterable(table))
    loader = iterable(table, 1, multiprocessing_context=method)
    first = run(loader, 4)
    loader.load_state_dict(loader.state_dict())
    assert first + run(loader) == whole


# -- the dataset's own state -------------------------------------------------------------------


def test_the_dataset_alone_resumes_at_every_batch(table):
    dataset = iterable(table).dataset
    states, epoch = [dataset.state_dict()], []
    for batch in dataset:
        epoch.append(ids(batch))
        states.append(dataset.state_dict())
    for done, state in enumerate(states[:-1]):
        dataset.load_state_dict(through_json(state))
        assert run(dataset) == epoch[done:]
    dataset.load_state_dict(states[-1])
    assert run(dataset) != epoch


def test_the_dataset_does_not_guess_what_a_plain_loader_has_delivered(table):
    dataset = iterable(table).dataset
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, multiprocessing_context="forkserver"
    )
    run(loader, 2)
    with pytest.raises(RuntimeError, match=r"LanceDataLoader\(dataset\)\.state_dict"):
        dataset.state_dict()


# -- states that are refused -------------------------------------------------------------------


def test_a_state_of_other_data_or_another_order_is_refused_by_name(db, table):
    loader = iterable(table)
    run(loader, 2)
    state = loader.state_dict()
    other_table = db.create_table("others", rows_of(1000, 5))
    for changed, field in (
        (iterable(table, seed=5), "seed was 0 and is 5"),
        (iterable(table, order="global"), "shuffle was 'block' and is 'global'"),
        (iterable(table, filter="id < 900"), "selection was 'all rows' and is"),
        (iterable(table, filter="id < 900"), "rows was 1000 and is 900"),
        (iterable(other_table), "table was 'points' and is 'others'"),
        (iterable(other_table), "fingerprint was"),
    ):
        with pytest.raises(ValueError, match=field):
            changed.load_state_dict(state)
    table.add(rows_of(1))
    with pytest.raises(ValueError, match=r"version was \d and is \d.*version= pins"):
        iterable(table).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda state: None, TypeError, "not NoneType"),
        (lambda state: {}, ValueError, "lacks format_version, epoch, position, plan"),
        (lambda state: {**state, "format_version": 2}, ValueError, "format_version 2"),
        (lambda state: {**state, "epoch": -1}, ValueError, "epoch must be a whole number"),
        (lambda state: {**state, "epoch": 1.0}, ValueError, "epoch must be a whole number"),
        (lambda state: {**state, "position": 10**9}, ValueError, "position must be a whole"),
        (lambda state: {**state, "position": True}, ValueError, "position must be a whole"),
        (lambda state: {**state, "plan": []}, ValueError, "plan must be a dict"),
        (lambda state: {**state, "plan": {}}, ValueError, r"seed was '\(missing\)'"),
        (
            lambda state: {**state, "plan": {**state["plan"], "lanes": 0}},
            ValueError,
            "lanes must be a whole number from 1",
        ),
    ],
)
@KINDS
def test_a_damaged_state_is_refused_and_says_why(table, make, change, error, message):
    loader = make(table)
    before = loader.state_dict()
    with pytest.raises(error, match=message):
        loader.load_state_dict(change(before))
    assert loader.state_dict() == before


# -- torchdata -----------------------------------------------------------------------------------


@pytest.mark.few(1)
@pytest.mark.parametrize("workers", [0, soaked(1), 2])
@pytest.mark.parametrize("order", ["block", soaked("none"), soaked("global")])
def test_torchdatas_stateful_loader_resumes_exactly(table, workers, order):
    def loader():
        return StatefulDataLoader(
            iterable(table, order=order).dataset,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context="forkserver" if workers else None,
        )

    whole, steps = run(loader()), (0, 1, 7) if workers else (0, 1, 9, 19)
    for done in steps:
        first = loader()
        batches = iter(first)
        assert [ids(next(batches)) for _ in range(done)] == whole[:done]
        state = first.state_dict()
        del batches
        second = loader()
        second.load_state_dict(state)
        assert run(second) == whole[done:]


def test_the_state_of_one_worker_is_refused_elsewhere(table):
    loader = iterable(table)
    state = {**loader.state_dict(), "worker": {"id": 1, "of": 2, "steps": 3}}
    for each in (loader, loader.dataset):
        with pytest.raises(ValueError, match=r"state is of one worker .*this is worker 0 of 1"):
            each.load_state_dict(state)
