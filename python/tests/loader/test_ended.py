# SPDX-License-Identifier: Apache-2.0
"""An epoch that has ended is over for whoever goes on from its last batch."""

import importlib
import itertools

import pytest
from loaders import KINDS, ids, iterable, run, through_json
from soak import soaked
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

STEPS = 20


@pytest.mark.few(2)
@KINDS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_names_each_epoch_repeats_none(table, make, workers):
    epochs = [run(loader) for loader in [make(table)] for _ in range(3)]
    for ended in (0, 1):
        loader = make(table)
        loader.set_epoch(ended)
        run(loader)
        state = through_json(loader.state_dict())
        assert state["ended"] == ended
        persistent = {"persistent_workers": True} if workers else {}
        resumed = make(table, workers, **persistent)
        resumed.load_state_dict(state)
        done = []
        for epoch in range(ended, 3):
            resumed.set_epoch(epoch)
            assert resumed.state_dict() == state or epoch != ended
            done.append(run(resumed))
        assert done == [[], *epochs[ended + 1 :]]


@KINDS
def test_who_names_none_goes_on_with_the_next_epoch(table, make):
    loader = make(table)
    epochs = [run(loader) for _ in range(3)]
    loader.set_epoch(0)
    run(loader)
    resumed = make(table)
    resumed.load_state_dict(through_json(loader.state_dict()))
    assert [run(resumed), run(resumed)] == epochs[1:]


@KINDS
def test_an_epoch_that_is_named_again_in_one_process_is_repeated(table, make):
    loader = make(table)
    first = run(loader)
    for _ in range(2):
        loader.set_epoch(0)
        assert run(loader) == first


@KINDS
def test_a_state_of_before_loads_as_before(table, make):
    loader = make(table)
    first = run(loader)
    state = through_json(loader.state_dict())
    del state["ended"]
    loader.load_state_dict(state)
    loader.set_epoch(0)
    assert run(loader) == first


def dataset_alone(table, workers):
    return iterable(table).dataset


def plain_loader(table, workers, kind=DataLoader):
    context = "forkserver" if workers else None
    return kind(iterable(table).dataset, None, num_workers=workers, multiprocessing_context=context)


def torchdata_loader(table, workers):
    return plain_loader(table, workers, StatefulDataLoader)


@pytest.mark.parametrize(("kind", "workers"), [(dataset_alone, 0), (plain_loader, 0)])
def test_the_datasets_own_state_says_so_too(table, kind, workers):
    epochs = [run(loader) for loader in [iterable(table)] for _ in range(2)]
    subject = kind(table, workers)
    dataset = getattr(subject, "dataset", subject)
    assert run(subject) == epochs[0]
    state = through_json(dataset.state_dict())
    assert state["ended"] == 0
    resumed = kind(table, workers)
    dataset = getattr(resumed, "dataset", resumed)
    dataset.load_state_dict(state)
    dataset.set_epoch(0)
    assert run(resumed) == []
    dataset.set_epoch(1)
    assert run(resumed) == epochs[1]


def test_workers_of_a_plain_loader_hear_that_an_epoch_has_ended(table):
    epochs = [run(loader) for loader in [iterable(table)] for _ in range(2)]
    dataset = iterable(table).dataset
    run(dataset)
    resumed = plain_loader(table, 2)
    resumed.dataset.load_state_dict(through_json(dataset.state_dict()))
    resumed.dataset.set_epoch(0)
    assert [run(resumed), run(resumed)] == [[], epochs[1]]


@pytest.mark.few(2)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("to_the_end", [True, False])
def test_torchdatas_loader_goes_on_after_an_epochs_last_batch(table, workers, to_the_end):
    epochs = [run(loader) for loader in [iterable(table)] for _ in range(2)]
    first = torchdata_loader(table, workers)
    batches = iter(first)
    assert list(map(ids, itertools.islice(batches, None if to_the_end else STEPS))) == epochs[0]
    state = first.state_dict()
    resumed = torchdata_loader(table, workers)
    resumed.load_state_dict(state)
    assert (run(resumed) or run(resumed)) == epochs[1]


@pytest.mark.few(1)
@pytest.mark.parametrize(("to_the_end", "workers"), [(True, 0), (False, 0), (False, 2)])
def test_torchdatas_loader_repeats_no_epoch_that_is_named(table, workers, to_the_end):
    epochs = [run(loader) for loader in [iterable(table)] for _ in range(3)]
    first = torchdata_loader(table, workers)
    first.dataset.set_epoch(0)
    list(itertools.islice(first, None if to_the_end else STEPS))
    resumed = torchdata_loader(table, workers)
    resumed.load_state_dict(first.state_dict())
    done = []
    for epoch in range(3):
        resumed.dataset.set_epoch(epoch)
        done.append(run(resumed))
    assert done == [[], *epochs[1:]]


# -- loaders of different lengths, together ------------------------------------------------------


@pytest.fixture(scope="module")
def lightning_runs():
    return importlib.import_module("lightning_runs")


@pytest.mark.few(1)
@pytest.mark.filterwarnings("ignore")
@KINDS
@pytest.mark.parametrize("mode", ["max_size", soaked("max_size_cycle"), soaked("min_size")])
def test_lightnings_combined_loader_goes_on_with_the_longer_one(
    tmp_path, table, lightning_runs, make, mode
):
    Both, fit = lightning_runs.Both, lightning_runs.fit
    whole = fit(Both(table, make, mode), tmp_path)
    steps = len(whole) // 2
    for done in {1, 7, 8, steps - 1, steps, steps + 1, len(whole) - 1}:
        resumed = fit(Both(table, make, mode), tmp_path / "again", tmp_path / f"step={done}.ckpt")
        assert resumed == whole[done:]


@pytest.mark.filterwarnings("ignore")
@KINDS
def test_lightning_goes_on_with_the_next_epoch_after_the_last_batch(
    tmp_path, table, lightning_runs, make
):
    One, Module, fit = lightning_runs.One, lightning_runs.Module, lightning_runs.fit
    whole = fit(One(), tmp_path, datamodule=Module([make(table, batch_size=200)]))
    for done in (len(whole) // 2 - 1, len(whole) // 2):
        checkpoint = tmp_path / f"step={done}.ckpt"
        module = Module([make(table, batch_size=200)])
        resumed = fit(One(), tmp_path / "again", checkpoint, datamodule=module)
        assert resumed == whole[done:]


@pytest.fixture(scope="module")
def combined_loader():
    return importlib.import_module("lightning.pytorch.utilities").CombinedLoader


@pytest.mark.few(2)
@pytest.mark.parametrize("mode", ["max_size", "max_size_cycle", "min_size", "sequential"])
def test_a_combined_loader_without_a_trainer_does_too(table, combined_loader, mode):
    def combined(states=()):
        both = [iterable(table, batch_size=size) for size in (200, 100)]
        for loader, state in zip(both, states, strict=False):
            loader.load_state_dict(state)
        return both, combined_loader(both, mode)

    def epoch(loader):
        for batches, *_ in loader:
            each = batches if isinstance(batches, list) else [batches]
            yield [None if batch is None else ids(batch) for batch in each]

    both, loader = combined()
    whole, states = [], []
    for each in epoch(loader):
        whole.append(each)
        states.append(through_json([each.state_dict() for each in both]))
    following = list(epoch(loader))
    for done, state in enumerate(states[:-1], 1):
        rest = list(epoch(combined(state)[1]))
        assert rest[: len(whole) - done] == whole[done:], done
    if mode != "max_size_cycle":  # it takes batches of the short one more before it sees the end
        assert list(epoch(combined(states[-1])[1])) == following
