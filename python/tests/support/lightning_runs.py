# SPDX-License-Identifier: Apache-2.0
"""Models that keep what Lightning gives them, and runs of them.

Lightning takes seconds to import. Tests import this module where they use it, not where they are
collected, which each process does.
"""

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from loaders import ids


class _Model(lightning.LightningModule):
    """One weight, which is not trained; `ids` keeps what came."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)
        self.ids = []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch):
        self.ids.append(ids(batch))
        return self.linear(torch.ones(1, 1)).mean()


class One(_Model):
    """Keeps what it is given of one loader."""


class Remaking(_Model):
    """Makes a loader anew whenever it is asked for one, or once."""

    def __init__(self, make, anew=True, schedule=False):
        super().__init__()
        self.make, self.anew, self.schedule = make, anew, schedule
        self.loader = None

    def train_dataloader(self):
        if self.loader is None or self.anew:
            self.loader = self.make()
        return self.loader

    def configure_optimizers(self):
        if self.schedule:
            assert self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


class Both(_Model):
    """Keeps what it is given of a short and a long loader."""

    def __init__(self, table, make, mode, workers=0):
        super().__init__()
        self.mode = mode
        self.loaders = [make(table, workers, batch_size=size) for size in (200, 100)]

    def train_dataloader(self):
        return CombinedLoader(self.loaders, self.mode)

    def training_step(self, batches):
        self.ids.append([None if each is None else ids(each) for each in batches])
        return self.linear(torch.ones(1, 1)).mean()


class Module(lightning.LightningDataModule):
    """Keeps the state of its loader, also that of an epoch's end, as the docs show it."""

    def __init__(self, table, make):
        super().__init__()
        self.loader, self.state = make(table, batch_size=200), None

    def train_dataloader(self):
        if self.state is not None:
            self.loader.load_state_dict(self.state)
        return self.loader

    def state_dict(self):
        return {"loader": self.loader.state_dict()}

    def load_state_dict(self, state):
        self.state = state["loader"]


def fit(model, folder, checkpoint=None, epochs=2, every=1, datamodule=None, **options):
    """What the model has kept of some epochs, with a checkpoint every so many steps."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, ckpt_path=checkpoint, datamodule=datamodule)
    return model.ids
