# SPDX-License-Identifier: Apache-2.0
"""Loaders in Lightning's loops: each epoch has its order, and no state is lost unnoticed."""

import functools
import importlib
import logging

import pytest
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from loaders import mixture

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on speed
STEPS = 5


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def streamed(table, workers=0):
    dataset = LanceIterableTorchDataset(
        table, columns=["id"], format="torch", batch_size=200, shuffle=True
    )
    return LanceDataLoader(dataset, num_workers=workers, persistent_workers=bool(workers))


def mapped(table, workers=0):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch", batch_size=200)
    return LanceDataLoader(dataset, shuffle=True, num_workers=workers)


MIXTURE = pytest.param(functools.partial(mixture, batch_size=200), id="mixture")
KINDS = pytest.mark.parametrize("make", [streamed, mapped, MIXTURE])


def epochs_of(loader, count):
    return [[batch["id"].tolist() for batch in loader] for _ in range(count)]


def flat(epochs):
    return [batch for epoch in epochs for batch in epoch]


@pytest.fixture(scope="module")
def Model():
    return importlib.import_module("lightning_runs").Remaking


@pytest.fixture(scope="module")
def fit():
    """Three epochs, with a checkpoint in the second."""
    fit = importlib.import_module("lightning_runs").fit
    return functools.partial(fit, epochs=3, every=STEPS + 2)


@pytest.mark.few(5)
@KINDS
@pytest.mark.parametrize("anew", [True, False])
@pytest.mark.parametrize("schedule", [True, False])
def test_reloaded_loaders_go_on_with_the_next_epoch(
    tmp_path, table, Model, fit, make, anew, schedule
):
    expected = epochs_of(make(table), 3)
    model = Model(lambda: make(table), anew, schedule)
    seen = fit(model, tmp_path, reload_dataloaders_every_n_epochs=1)
    assert seen == flat(expected)


def test_a_loader_that_is_reloaded_with_its_workers_goes_on_with_the_next_epoch(
    tmp_path, table, Model, fit
):
    expected = epochs_of(streamed(table), 3)
    model = Model(lambda: streamed(table, workers=1), anew=False)
    assert fit(model, tmp_path, reload_dataloaders_every_n_epochs=1) == flat(expected)


@pytest.mark.few(1)
@KINDS
def test_an_epoch_that_was_set_is_kept_by_a_loader_made_anew(tmp_path, table, Model, fit, make):
    fifth = epochs_of(make(table), 6)[5]

    def at_five():
        loader = make(table)
        loader.set_epoch(5)
        return loader

    model = Model(at_five)
    assert fit(model, tmp_path, reload_dataloaders_every_n_epochs=1) == fifth * 3


def test_overfitting_repeats_the_same_batches(tmp_path, table, Model, fit):
    first = epochs_of(streamed(table), 1)[0][:2]
    assert fit(Model(lambda: streamed(table)), tmp_path, overfit_batches=2) == first * 3


def test_a_sampler_to_overfit_with_is_refused(tmp_path, table, Model, fit):
    with pytest.raises(ValueError, match="takes no batch_sampler .*overfit with a DataLoader"):
        fit(Model(lambda: mapped(table)), tmp_path, overfit_batches=2)


@KINDS
def test_lightning_resumes_a_loader_by_itself_where_it_loads_its_state(
    tmp_path, table, Model, fit, make
):
    whole = fit(Model(lambda: make(table)), tmp_path)
    checkpoint = tmp_path / f"step={STEPS + 2}.ckpt"
    resumed = fit(Model(lambda: make(table)), tmp_path / "resumed", checkpoint)
    assert resumed == whole[STEPS + 2 :]


@KINDS
def test_a_state_that_lightning_loads_too_late_is_missed(tmp_path, table, Model, fit, make):
    fit(Model(lambda: make(table), schedule=True), tmp_path)
    checkpoint = tmp_path / f"step={STEPS + 2}.ckpt"
    model = Model(lambda: make(table), schedule=True)
    with pytest.raises(RuntimeError, match="estimated_stepping_batches.*LightningDataModule"):
        fit(model, tmp_path / "resumed", checkpoint)
    assert model.ids == []
