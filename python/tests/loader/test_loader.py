# SPDX-License-Identifier: Apache-2.0
"""`LanceDataLoader`: epochs that move on by themselves, and what it takes and refuses."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from limits import HANGS
from loaders import KINDS, ids, iterable, mapped, run
from torch.utils.data import DataLoader, TensorDataset, default_collate, random_split

# -- epochs ------------------------------------------------------------------------------------


@pytest.mark.few(2)
@KINDS
@pytest.mark.parametrize("workers", [0, 2])
def test_every_iter_is_the_next_epoch(table, make, workers):
    loader = make(table, workers)
    epochs = [run(loader) for _ in range(3)]
    assert len(loader) == len(epochs[0]) == 20
    assert epochs[0] != epochs[1] != epochs[2]
    assert {len({id for batch in epoch for id in batch}) for epoch in epochs} == {960}
    loader.set_epoch(1)
    assert [run(loader), run(loader)] == epochs[1:]


@KINDS
def test_an_epoch_that_is_broken_off_is_over(table, make):
    epochs = [run(loader) for loader in [make(table)] for _ in range(2)]
    loader = make(table)
    run(loader, 3)
    assert run(loader) == epochs[1]


def test_the_order_depends_on_the_seed_alone(table):
    one, other = (mapped(table, seed=seed) for seed in (1, 2))
    first = run(one)
    assert first == run(mapped(table, seed=1))
    assert first != run(other)


@KINDS
@pytest.mark.parametrize("workers", [0, 2])
def test_threads_that_share_an_iterator_share_out_its_batches(table, make, workers):
    loader = make(table, workers)
    batches = iter(loader)
    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(list, [batches] * 4))
    assert sorted(ids(batch) for each in taken for batch in each) == sorted(run(make(table)))
    assert (loader.epoch, loader.step) == (1, 0)


# -- what it is given --------------------------------------------------------------------------


def test_what_belongs_to_the_dataset_is_refused(table):
    dataset = LanceIterableTorchDataset(table)
    for options in ({"batch_size": 5}, {"shuffle": True}, {"drop_last": True}, {"seed": 3}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} belongs to the dataset"):
            LanceDataLoader(dataset, **options)
    with pytest.raises(TypeError, match=r"not TensorDataset.*torch\.utils\.data\.DataLoader"):
        LanceDataLoader(TensorDataset(torch.zeros(3)))


def test_workers_start_by_forkserver_unless_told_otherwise(table):
    loader = LanceDataLoader(LanceIterableTorchDataset(table), num_workers=1)
    assert loader.multiprocessing_context.get_start_method() == "forkserver"
    assert isinstance(loader, DataLoader)


def test_two_iterators_at_once_are_two_epochs(table):
    loader = iterable(table)
    epochs = [run(iter(loader)), run(iter(loader))]
    loader.set_epoch(0)
    both = list(zip(iter(loader), iter(loader), strict=True))
    assert [ids(one) for one, _ in both] == epochs[0]
    assert [ids(other) for _, other in both] == epochs[1]


@pytest.mark.few(2)
@KINDS
@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterator_that_nothing_was_taken_from_uses_up_no_epoch(table, make, workers):
    epochs = [run(loader) for loader in [make(table)] for _ in range(3)]
    persistent = {"persistent_workers": True} if workers else {}
    loader = make(table, workers, **persistent)
    for _ in range(2):
        iter(loader)  # dropped at once
    kept = iter(loader)
    assert run(loader) == epochs[0]
    assert loader.state_dict()["epoch"] == 1
    assert run(kept) == epochs[1]
    kept = iter(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (2, 0)
    assert run(loader) == epochs[2]


def test_an_epoch_without_a_step_is_used_up(table):
    with pytest.warns(UserWarning, match="fewer than one step"):
        loader = iterable(table, batch_size=5000)
    assert [run(loader), run(loader)] == [[], []]
    iter(loader)
    assert loader.state_dict()["epoch"] == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_stats_are_summed_over_workers(table, workers):
    loader = iterable(table, workers, columns=["id", "vec"])
    run(loader)
    stats = loader.stats()
    assert stats["rows"] == 960
    assert stats["bytes"] >= 960 * 24
    assert stats["reading"] > 0


def test_a_dataset_with_a_position_pickles_without_it(table):
    loader = iterable(table)
    batches = iter(loader)
    next(batches)
    copied = pickle.loads(pickle.dumps(loader.dataset))
    assert len(run(copied)) == 20
    assert len(run(batches)) == 19


class StopsAtFourth:
    """Raises what a bare `next()` raises at its end, deep within a user's function."""

    def __init__(self):
        self.calls = 0

    def __call__(self, batch):
        self.calls += 1
        if self.calls == 4:
            raise StopIteration
        return batch


@pytest.mark.few(1)
@KINDS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_iteration_of_ones_own_does_not_pass_for_the_end(table, make, workers):
    loader = make(table, workers, collate_fn=StopsAtFourth())
    with pytest.raises(RuntimeError, match=r"raised StopIteration.*after \d+ batches"):
        run(loader)


@pytest.mark.few(1)
@KINDS
@pytest.mark.parametrize("workers", [0, 2])
def test_nor_does_one_of_a_transform(table, make, workers):
    kind = LanceIterableTorchDataset if make is iterable else LanceTorchDataset
    dataset = kind(table, columns=["id"], format="torch", transform=StopsAtFourth())
    options = {"batch_size": 100} if make is mapped else {}
    with pytest.raises(RuntimeError, match=r"raised StopIteration.*after \d+ batches"):
        run(LanceDataLoader(dataset, num_workers=workers, **options))


@KINDS
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"in_order": False}, ValueError, "in_order=False delivers batches as they come"),
        ({"workers": "2"}, ValueError, "num_workers must be a whole number from 0 on, not '2'"),
        ({"prefetch_factor": 2}, ValueError, "prefetch_factor=2 is for workers"),
        ({"workers": 1, "prefetch_factor": 0}, ValueError, "prefetch_factor must be a whole"),
        ({"workers": 1.0}, ValueError, r"num_workers must be a whole number .*, not 1\.0"),
        ({"workers": 1, "collate_fn": lambda b: b}, TypeError, "collate_fn .*cannot be sent"),
        ({"workers": 1, "worker_init_fn": lambda n: None}, TypeError, "worker_init_fn .*cannot be"),
    ],
    ids=lambda value: str(value)[:14],
)
def test_arguments_that_cannot_be_are_refused_by_name(table, make, options, error, message):
    with pytest.raises(error, match=message):
        make(table, **options)


def test_what_is_for_loaders_of_rows_is_refused_over_whole_batches(table):
    dataset = iterable(table).dataset
    with pytest.raises(ValueError, match="whole already: leave collate_fn out"):
        LanceDataLoader(dataset, collate_fn=default_collate)
    for name in ("sampler", "batch_sampler"):
        with pytest.raises(ValueError, match=f"takes no {name}.*LanceTorchDataset"):
            LanceDataLoader(dataset, **{name: range(3)})
    part, _ = random_split(dataset, [0.5, 0.5])
    with pytest.raises(TypeError, match="has no rows by number.*filter="):
        next(iter(DataLoader(part, batch_size=None)))


def test_a_mapped_loader_that_drops_all_rows_says_so(table):
    with pytest.warns(UserWarning, match="1000 rows are fewer than one step of 1 x 5000"):
        assert run(mapped(table, batch_size=5000)) == []


PLAIN_LOADER = """
import sys

import lancedb
from lancedb.integrations.torch import LanceTorchDataset
from torch.utils.data import DataLoader


def was_forked_off_one_that_imported_all(batch):
    return ["lancedb.integrations._torch.loader.worker_preload" in sys.modules]


if __name__ == "__main__":
    table = lancedb.connect(sys.argv[1]).open_table("points")
    dataset = LanceTorchDataset(table, transform=was_forked_off_one_that_imported_all)
    context = "forkserver"
    print(list(DataLoader(dataset, 1000, num_workers=1, multiprocessing_context=context)))
"""


def test_the_workers_of_a_plain_loader_start_with_their_imports_done(table, tmp_path, starter):
    script = tmp_path / "script.py"
    script.write_text(PLAIN_LOADER)
    assert starter.run(script, str(tmp_path / "db"), timeout=HANGS).strip() == "[tensor([True])]"
