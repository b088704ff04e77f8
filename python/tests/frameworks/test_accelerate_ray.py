# SPDX-License-Identifier: Apache-2.0
"""Loaders that Accelerate, Lightning and Ray take over: sharded once, and no epoch mistaken."""

import json
import warnings
from pathlib import Path

import pytest
import torch
import warm
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import DataLoaderConfiguration
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from limits import HANGS
from loaders import mixture
from torch.utils.data import DataLoader, DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader

SCRIPT = Path(__file__).parents[1] / "support/sharding_script.py"


def streamed(table):
    dataset = LanceIterableTorchDataset(
        table, columns=["id"], format="torch", batch_size=48, shuffle=True
    )
    return LanceDataLoader(dataset)


def mapped(table):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch")
    return LanceDataLoader(dataset, batch_size=48, shuffle=True, drop_last=True)


KINDS = pytest.mark.parametrize("make", [streamed, mapped, mixture])


def ids(batches):
    return [batch["id"].tolist() for batch in batches]


@pytest.mark.soak
def test_two_processes_of_accelerate_and_fabric_get_each_row_once(tmp_path, table):
    with warm.starter("lightning", "accelerate") as starter:
        starter.run(SCRIPT, str(tmp_path / "db"), str(tmp_path), ranks=2, timeout=HANGS)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for kind in ("streamed", "mapped"):
        assert first[f"{kind} is left alone"]
        orders = []
        for framework in ("accelerate", "fabric"):
            parts = [found[f"{kind} by {framework}"] for found in (first, second)]
            assert [len(part) for part in parts] == [500, 500]
            assert sorted(parts[0] + parts[1]) == list(range(1000))
            orders.append(parts)
        assert orders[0] != orders[1]  # the next epoch, shuffled as the one before
        assert all(order[0] != sorted(order[0]) for order in orders)
        whole = [found[f"{kind} by accelerate"] for found in (first, second)]
        assert [found[f"{kind} skipped"] for found in (first, second)] == [
            part[250:] for part in whole
        ]
    for kind in ("gathered", "plain, gathered"):
        assert first[kind] == second[kind]
        assert sorted(first[kind]) == list(range(105))
    assert first["gathered"][-5:] == [100, 101, 102, 103, 104]
    plain = [found["plain"] for found in (first, second)]
    assert sorted(plain[0] + plain[1]) == list(range(1000))
    assert "DataLoaderDispatcher would shard" in first["dispatched"]
    assert "DataLoaderShard would shard" in first["sharded"]
    assert "DataLoaderShard would shard" in second["sharded"]


@pytest.mark.few(2)
@KINDS
def test_accelerate_saves_and_loads_the_position(tmp_path, table, make):
    loader = make(table)
    whole = [ids(loader) for _ in range(2)]
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(make(table))
    ids(loader)
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    accelerator.save_state(tmp_path / "saved")
    accelerator.free_memory()
    other = accelerator.prepare(make(table))
    accelerator.load_state(tmp_path / "saved")
    assert ids(other) == whole[1][5:]
    accelerator.free_memory()


@KINDS
def test_skip_first_batches_skips_those_of_the_epoch_that_was_set(table, make):
    loader = make(table)
    whole = [ids(loader) for _ in range(3)]
    loader = make(table)
    loader.set_epoch(1)
    assert ids(skip_first_batches(loader, 5)) == whole[1][5:]
    loader.set_epoch(2)
    assert ids(loader) == whole[2]


@KINDS
def test_skip_first_batches_of_no_known_epoch_is_refused(table, make):
    with pytest.raises(RuntimeError, match="set_epoch"):
        ids(skip_first_batches(make(table), 5))


def test_a_batch_size_of_accelerates_is_refused(table):
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(streamed(table).dataset, batch_size=8))
    with pytest.raises(RuntimeError, match="batches of 8 whole batches"):
        next(iter(loader))
    accelerator.free_memory()


def test_the_order_of_a_loader_serves_no_other_loader(table):
    taken = DataLoader(mapped(table).dataset, batch_sampler=mapped(table).batch_sampler)
    with pytest.raises(RuntimeError, match="another loader has taken"):
        next(iter(taken))


@pytest.mark.parametrize("name", ["sampler", "batch_sampler"])
def test_samplers_are_refused(table, name):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch")
    given = DistributedSampler(dataset, num_replicas=2, rank=0)
    with pytest.raises(ValueError, match=f"takes no {name} .DistributedSampler.*use_distributed"):
        LanceDataLoader(dataset, **{name: given})


def test_a_map_style_loader_shows_frameworks_that_rows_are_sharded(table):
    assert isinstance(mapped(table).sampler, DistributedSampler)


@KINDS
def test_set_epoch_keeps_the_position_that_was_loaded(table, make):
    loader = make(table)
    whole = [ids(loader) for _ in range(2)]
    other = make(table)
    other.set_epoch(1)
    under_way = iter(other)
    for _ in range(4):
        next(under_way)
    state = other.state_dict()
    other = make(table)
    other.load_state_dict(state)
    other.set_epoch(1)
    assert ids(other) == whole[1][4:]
    other.set_epoch(1)
    assert ids(other) == whole[1]
    other.load_state_dict(state)
    other.set_epoch(0)
    assert ids(other) == whole[0]


@pytest.mark.soak
def test_set_epoch_of_a_dataset_keeps_the_position_that_was_loaded(table):
    dataset = streamed(table).dataset
    whole = ids(dataset)
    dataset.set_epoch(0)
    batches = iter(dataset)
    for _ in range(4):
        next(batches)
    state = dataset.state_dict()
    dataset.load_state_dict(state)
    dataset.set_epoch(0)
    assert ids(dataset) == whole[4:]
    dataset.set_epoch(0)
    assert ids(dataset) == whole
    dataset.load_state_dict(state)
    dataset.set_epoch(0)
    assert ids(DataLoader(dataset, batch_size=None, num_workers=2)) == whole[4:]
    dataset.set_epoch(0)
    assert ids(DataLoader(dataset, batch_size=None)) == whole


def test_the_state_of_a_loader_is_plain_data(tmp_path, table):
    loader = streamed(table)
    next(iter(loader))
    torch.save(loader.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == loader.state_dict()


@pytest.mark.parametrize("options", [{}, {"batch_size": 4}])
@pytest.mark.parametrize("kind", [DataLoader, StatefulDataLoader])
def test_batches_of_batches_are_warned_of(table, kind, options):
    with pytest.warns(UserWarning, match="makes batches of batches.*batch_size=None"):
        next(iter(kind(streamed(table).dataset, **options)))


def test_a_loader_that_makes_the_batches_is_not_warned_of(table):
    rows = LanceIterableTorchDataset(
        table, columns=["id"], format="torch", batch_size=1, unwrap=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(iter(streamed(table)))
        next(iter(DataLoader(streamed(table).dataset, batch_size=None)))
        next(iter(DataLoader(streamed(table).dataset, batch_size=4, collate_fn=list)))
        assert next(iter(DataLoader(rows, batch_size=8)))["id"].tolist() == list(range(8))


@pytest.mark.few(1)
@KINDS
def test_a_state_that_rays_loader_has_run_past_is_refused(table, make):
    from ray.train.torch.train_loop_utils import _WrappedDataLoader  # which takes seconds

    loader = make(table)
    ahead = _WrappedDataLoader(loader, torch.device("cpu"), auto_transfer=False)
    whole, state = [], None
    for batch in ahead:
        whole.append(batch["id"].tolist())
        if len(whole) < len(loader):
            with pytest.raises(RuntimeError, match="one batch more"):
                loader.state_dict()
    assert whole == ids(make(table))
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (1, 0)
    next(iter(loader))
    assert loader.state_dict()["position"] == 48


@pytest.mark.few(1)
@KINDS
def test_accelerates_stateful_loader_does_not_replace_ours(tmp_path, table, make):
    settings = DataLoaderConfiguration(use_stateful_dataloader=True)
    accelerator = Accelerator(cpu=True, dataloader_config=settings)
    loader = make(table)
    whole = ids(make(table))
    assert accelerator.prepare(loader) is loader
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    accelerator.save_state(tmp_path / "saved")
    accelerator.load_state(tmp_path / "saved")
    assert ids(loader) == whole[5:]
    accelerator.free_memory()


def test_accelerates_stateful_loader_goes_on_with_the_dataset(tmp_path, table):
    settings = DataLoaderConfiguration(use_stateful_dataloader=True)
    accelerator = Accelerator(cpu=True, dataloader_config=settings)
    whole = ids(streamed(table))
    loader = accelerator.prepare(DataLoader(streamed(table).dataset, batch_size=None))
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    state = loader.state_dict()
    del batches
    accelerator.free_memory()
    other = accelerator.prepare(DataLoader(streamed(table).dataset, batch_size=None))
    other.load_state_dict(state)
    assert ids(other) == whole[5:]
    accelerator.free_memory()


def steps_that_sync(loader, epochs=2, accumulate=8):
    """The steps at which Accelerate lets the optimizer step, epoch by epoch."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model, loader = accelerator.prepare(torch.nn.Linear(1, 1), loader)
    synced = []
    for _ in range(epochs):
        synced.append([])
        for step, _ in enumerate(loader):
            with accelerator.accumulate(model):
                if accelerator.sync_gradients:
                    synced[-1].append(step)
    assert accelerator.gradient_state.active_dataloader is None
    accelerator.free_memory()
    return synced


@pytest.mark.few(2)
@KINDS
def test_accumulated_gradients_end_with_the_epoch_as_under_accelerates_own_loader(table, make):
    plain = DataLoader(mapped(table).dataset, batch_size=48, drop_last=True)
    assert steps_that_sync(make(table)) == steps_that_sync(plain) == [[7, 15, 19]] * 2


@pytest.mark.few(1)
@KINDS
def test_an_epoch_that_was_resumed_or_left_ends_its_accumulation_where_it_ends(table, make):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=8)
    gradients = accelerator.gradient_state
    outer, inner = accelerator.prepare(make(table), make(table))
    inner.set_epoch(1)
    around = iter(outer)
    next(around)
    under_way = gradients.active_dataloader
    batches = iter(inner)
    assert gradients.active_dataloader is under_way
    next(batches)
    assert gradients.active_dataloader is not under_way
    state = inner.state_dict()
    del batches
    assert gradients.active_dataloader is under_way
    inner.load_state_dict(state)
    ends = [gradients.end_of_dataloader for _ in inner]
    assert ends == [False] * 18 + [True]
    assert gradients.active_dataloader is under_way
    accelerator.free_memory()


@KINDS
def test_accelerate_hears_nothing_of_a_loader_that_it_did_not_prepare(table, make):
    gradients = Accelerator(cpu=True).gradient_state
    batches = iter(make(table))
    next(batches)
    assert gradients.active_dataloader is None


@pytest.mark.few(1)
@KINDS
def test_first_batches_are_skipped_while_a_prepared_loader_is_under_way(table, make):
    whole = ids(make(table))
    accelerator = Accelerator(cpu=True)
    outer, loader = accelerator.prepare(make(table), make(table))
    around = iter(outer)
    next(around)
    with pytest.raises(RuntimeError, match="set_epoch"):
        ids(skip_first_batches(make(table), 5))
    loader.set_epoch(0)
    assert ids(skip_first_batches(loader, 5)) == whole[5:]
    accelerator.free_memory()
