# SPDX-License-Identifier: Apache-2.0
"""Loaders in Lightning's loops: each epoch has its order, and no state is lost unnoticed."""

import logging

import lightning
import pytest
import torch
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
    LanceTorchDataset,
)
from lightning.pytorch.callbacks import ModelCheckpoint

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


def mixture(table, workers=0):
    halves = {
        name: LanceIterableTorchDataset(table, columns=["id"], filter=rows, shuffle=True)
        for name, rows in {"even": "id % 2 = 0", "odd": "id % 2 = 1"}.items()
    }
    weights = {"even": 1, "odd": 1}
    dataset = LanceMixedTorchDataset(halves, weights, format="torch", batch_size=200)
    return LanceDataLoader(dataset, num_workers=workers)


KINDS = pytest.mark.parametrize("make", [streamed, mapped, mixture])


def epochs_of(loader, count):
    return [[batch["id"].tolist() for batch in loader] for _ in range(count)]


def flat(epochs):
    return [batch for epoch in epochs for batch in epoch]


class Model(lightning.LightningModule):
    """Keeps what it is given; makes a loader anew whenever it is asked for one, or once."""

    def __init__(self, make, anew=True, schedule=False):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)
        self.make, self.anew, self.schedule = make, anew, schedule
        self.loader, self.ids = None, []

    def train_dataloader(self):
        if self.loader is None or self.anew:
            self.loader = self.make()
        return self.loader

    def training_step(self, batch):
        self.ids.append(batch["id"].tolist())
        return self.linear(batch["id"].float()[:, None]).mean()

    def configure_optimizers(self):
        if self.schedule:
            assert self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(model, folder, checkpoint=None, **options):
    """The ids of the epochs that Lightning trains."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=[ModelCheckpoint(folder, "{step}", every_n_train_steps=STEPS + 2, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, ckpt_path=checkpoint)
    return model.ids


@KINDS
@pytest.mark.parametrize("anew", [True, False])
@pytest.mark.parametrize("schedule", [True, False])
def test_reloaded_loaders_go_on_with_the_next_epoch(tmp_path, table, make, anew, schedule):
    expected = epochs_of(make(table), 3)
    model = Model(lambda: make(table), anew, schedule)
    seen = fit(model, tmp_path, reload_dataloaders_every_n_epochs=1)
    assert seen == flat(expected)


def test_a_loader_that_is_reloaded_with_its_workers_goes_on_with_the_next_epoch(tmp_path, table):
    expected = epochs_of(streamed(table), 3)
    model = Model(lambda: streamed(table, workers=1), anew=False)
    assert fit(model, tmp_path, reload_dataloaders_every_n_epochs=1) == flat(expected)


@KINDS
def test_an_epoch_that_was_set_is_kept_by_a_loader_made_anew(tmp_path, table, make):
    fifth = epochs_of(make(table), 6)[5]

    def at_five():
        loader = make(table)
        loader.set_epoch(5)
        return loader

    model = Model(at_five)
    assert fit(model, tmp_path, reload_dataloaders_every_n_epochs=1) == fifth * 3


def test_overfitting_repeats_the_same_batches(tmp_path, table):
    first = epochs_of(streamed(table), 1)[0][:2]
    assert fit(Model(lambda: streamed(table)), tmp_path, overfit_batches=2) == first * 3


def test_a_sampler_to_overfit_with_is_refused(tmp_path, table):
    with pytest.raises(ValueError, match="takes no batch_sampler .*overfit with a DataLoader"):
        fit(Model(lambda: mapped(table)), tmp_path, overfit_batches=2)


@KINDS
def test_lightning_resumes_a_loader_by_itself_where_it_loads_its_state(tmp_path, table, make):
    whole = fit(Model(lambda: make(table)), tmp_path)
    checkpoint = tmp_path / f"step={STEPS + 2}.ckpt"
    resumed = fit(Model(lambda: make(table)), tmp_path / "resumed", checkpoint)
    assert resumed == whole[STEPS + 2 :]


@KINDS
def test_a_state_that_lightning_loads_too_late_is_missed(tmp_path, table, make):
    fit(Model(lambda: make(table), schedule=True), tmp_path)
    checkpoint = tmp_path / f"step={STEPS + 2}.ckpt"
    model = Model(lambda: make(table), schedule=True)
    with pytest.raises(RuntimeError, match="estimated_stepping_batches.*LightningDataModule"):
        fit(model, tmp_path / "resumed", checkpoint)
    assert model.ids == []
