# SPDX-License-Identifier: Apache-2.0
"""What a loader says of its place, looking ahead without a trace, and loops that end right."""

import warnings

import pytest
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset, LanceTorchDataset
from loaders import KINDS, ids, iterable, mapped, run, through_json

STEPS = 20


@pytest.fixture
def whole(table, request):
    return [run(loader) for loader in [request.getfixturevalue("make")(table)] for _ in range(4)]


@pytest.mark.few(2)
@KINDS
@pytest.mark.parametrize("workers", [0, 2])
def test_looking_at_the_first_batch_uses_nothing_up(table, make, workers, whole):
    persistent = {"persistent_workers": True} if workers else {}
    loader = make(table, workers, **persistent)
    for epoch in range(2):
        state = loader.state_dict()
        assert ids(loader.peek()) == ids(loader.peek()) == whole[epoch][0]
        assert (loader.state_dict(), loader.epoch, loader.step) == (state, epoch, 0)
        assert run(loader) == whole[epoch]
    loader.load_state_dict({**through_json(loader.state_dict()), "epoch": 1, "position": 48 * 4})
    assert ids(loader.peek()) == whole[1][4]
    assert loader.step == 4
    assert run(loader) == whole[1][4:]


@KINDS
@pytest.mark.parametrize("workers", [0, 2])
def test_looking_ahead_in_an_epoch_leaves_its_iterator_all_batches(table, make, workers, whole):
    loader = make(table, workers, persistent_workers=workers > 0)
    got = []
    for batch in loader:
        got.append(ids(batch))
        state, place = loader.state_dict(), (loader.epoch, loader.step)
        expected = whole[0][len(got)] if len(got) < STEPS else whole[1][0]
        assert ids(loader.peek()) == expected
        assert loader.state_dict() == state
        assert (loader.epoch, loader.step) == place or len(got) == STEPS
    assert got == whole[0]
    assert run(loader) == whole[1]


@KINDS
def test_a_look_is_given_up_where_an_epoch_is_named(table, make, whole):
    loader = make(table)
    look = loader.peek()
    loader.set_epoch(0)
    assert next(iter(loader))["id"] is look["id"]
    loader.peek()
    loader.set_epoch(3)
    assert ids(loader.peek()) == whole[3][0]
    assert run(loader) == whole[3]


@KINDS
def test_a_look_past_an_epoch_that_has_ended(table, make, whole):
    loader = make(table)
    run(loader)
    loader.load_state_dict(through_json(loader.state_dict()))
    loader.set_epoch(0)
    assert ids(loader.peek()) == whole[1][0]
    assert [run(loader), run(loader)] == [[], whole[1]]


def test_without_a_batch_there_is_none_to_look_at(table):
    with pytest.warns(UserWarning, match="fewer than one step"):
        loader = iterable(table, batch_size=5000)
    with pytest.raises(ValueError, match="no batch to look at"):
        loader.peek()


# -- epochs ----------------------------------------------------------------------------------------


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("make", "stop"),
    [(iterable, 0), (mapped, 7), (iterable, 20), (mapped, 20), (iterable, 25), (mapped, 40),
     (iterable, 60)],
)  # fmt: skip
def test_a_loop_over_epochs_goes_on_where_a_state_stands(table, make, stop, whole):
    def train(loader, steps, done):
        for epoch in loader.epochs(3):
            for batch in loader:
                done.append((epoch, ids(batch)))
                if len(done) == steps:
                    return

    expected = [(epoch, batch) for epoch in range(3) for batch in whole[epoch]]
    loader, done = make(table), []
    if stop:
        train(loader, stop, done)
    resumed, rest = make(table), []
    resumed.load_state_dict(through_json(loader.state_dict()))
    assert ids(resumed.peek()) == expected[stop][1] if stop < 60 else True
    train(resumed, None, rest)
    assert done + rest == expected
    assert list(resumed.epochs(3)) == []


@KINDS
def test_each_epoch_is_once_around_whatever_the_loop_does_with_it(table, make, whole):
    loader = make(table)
    assert [(epoch, run(loader, 2)) for epoch in loader.epochs(3)] == [
        (epoch, whole[epoch][:2]) for epoch in range(3)
    ]
    loader = make(table)
    assert list(loader.epochs(3)) == [0, 1, 2]  # and iterated none
    assert run(loader) == whole[3]


@KINDS
def test_an_epoch_that_was_begun_before_the_loop_goes_on_in_it(table, make, whole):
    loader = make(table)
    next(iter(loader))
    assert [run(loader) for _ in loader.epochs(2)] == [whole[0][1:], whole[1]]


def test_a_loop_goes_back_where_a_state_is_loaded_in_it(table):
    loader = iterable(table)
    state, seen = loader.state_dict(), []
    for epoch in loader.epochs(2):
        seen.append(epoch)
        run(loader)
        if seen == [0, 1]:
            loader.load_state_dict(state)
    assert seen == [0, 1, 0, 1]


@pytest.mark.parametrize("count", [-1, 1.5, None, True])
def test_epochs_wants_a_number(table, count):
    with pytest.raises(ValueError, match="count must be a whole number from 0 on"):
        iterable(table).epochs(count)


# -- what a loader says of itself ------------------------------------------------------------------


@KINDS
def test_a_loader_says_where_it_stands(table, make):
    loader = make(table)
    assert repr(loader.dataset) in repr(loader)
    places = [(loader.epoch, loader.step)]
    for _ in loader:
        places.append((loader.epoch, loader.step))
    places.append((loader.epoch, loader.step))
    assert places == [(0, step) for step in range(21)] + [(1, 0)]
    run(loader, 3)
    assert (loader.epoch, loader.step) == (1, 3)
    assert "epoch=1, step=3 of 20, num_workers=0" in repr(loader)
    resumed = make(table)
    resumed.load_state_dict(loader.state_dict())
    assert (resumed.epoch, resumed.step) == (1, 3)


def test_batch_size_is_that_of_the_batches(table):
    for loader in (iterable(table), mapped(table)):
        assert loader.batch_size == 48 == len(ids(next(iter(loader))))


def test_nothing_internal_stands_in_public(table):
    expected = {
        "batch_size",
        "epoch",
        "epochs",
        "load_state_dict",
        "metric_attributes",
        "peek",
        "postfix",
        "set_epoch",
        "skipped_rows",
        "state_dict",
        "stats",
        "step",
        "use_stateful_dataloader",
    }
    from torch.utils.data import DataLoader, IterableDataset

    loader = iterable(table)
    names = {name for name in dir(loader) if not name.startswith("_")}
    assert names - set(dir(DataLoader(range(3)))) <= expected
    names = {name for name in dir(loader.dataset) if not name.startswith("_")}
    assert names - set(dir(IterableDataset)) == {
        *("batch_size", "cache", "categories", "column_names", "drop_last", "format"),
        "load_state_dict",
        *("num_rows", "rank_and_world_size", "readahead", "schema", "set_epoch", "shuffle"),
        *("skipped_rows", "state_dict", "stats", "table_name", "transform_threads", "unwrap"),
        "version",
    }


def test_methods_of_other_packages_name_the_argument(table):
    with pytest.raises(TypeError, match="pass shuffle=True, seed=1"):
        iterable(table).dataset.shuffle(seed=1)
    mapped_dataset = LanceTorchDataset(table)
    for call, argument in (
        (lambda dataset: dataset.map(len), "transform="),
        (lambda dataset: dataset.filter("id < 3"), "filter="),
        (lambda dataset: dataset.shuffle(seed=1), "shuffle=True, seed=1"),
    ):
        with pytest.raises((AttributeError, TypeError), match=argument):
            call(mapped_dataset)
    assert not hasattr(mapped_dataset, "map")
    with pytest.raises(AttributeError, match="has no 'nonsense'$"):
        _ = mapped_dataset.nonsense


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_belongs_to_the_iterable_dataset(table, seed):
    with pytest.raises(ValueError, match="seed belongs to the dataset"):
        LanceDataLoader(LanceIterableTorchDataset(table), seed=seed)


def test_rows_that_are_always_left_out_are_said_once(table):
    with pytest.warns(UserWarning, match="40 of 1000 rows .*the same ones.*drop_last=False"):
        iterable(table, order="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        iterable(table)
        iterable(table, order="none", batch_size=50)
        iterable(table, order="none", drop_last=False)
