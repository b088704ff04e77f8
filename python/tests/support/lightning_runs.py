# SPDX-License-Identifier: Apache-2.0
"""Models that keep what Lightning gives them, and runs of them.

Lightning takes seconds to import. Tests import this module where they use it, not where they are
collected, which each process does.
"""

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
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

    def __init__(self, table, make, mode, workers=0, sizes=(140, 100)):
        super().__init__()
        self.mode = mode
        self.loaders = [make(table, workers, batch_size=size) for size in sizes]

    def train_dataloader(self):
        return CombinedLoader(self.loaders, self.mode)

    def training_step(self, batches):
        self.ids.append([None if each is None else ids(each) for each in batches])
        return self.linear(torch.ones(1, 1)).mean()


class Module(lightning.LightningDataModule):
    """Keeps the states of loaders, also those of an epoch's end, as the docs show it."""

    def __init__(self, loaders, mode=None):
        super().__init__()
        self.loaders, self.mode, self.states = loaders, mode, []

    def train_dataloader(self):
        for loader, state in zip(self.loaders, self.states, strict=False):
            loader.load_state_dict(state)
        return CombinedLoader(self.loaders, self.mode) if self.mode else self.loaders[0]

    def state_dict(self):
        return {"loaders": [loader.state_dict() for loader in self.loaders]}

    def load_state_dict(self, state):
        self.states = state["loaders"]


class StopAt(Callback):
    """Stops training after so many steps, as a time limit does."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop |= trainer.global_step == self.step


def fit(
    model, folder, checkpoint=None, epochs=2, every=1, datamodule=None, callbacks=(), **options
):
    """What the model has kept of some epochs, with a checkpoint every so many steps.

    Or, where that is None, at each epoch's end.
    """
    saving = {"every_n_train_steps": every} if every else {"every_n_epochs": 1}
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[ModelCheckpoint(folder, "{step}", save_top_k=-1, **saving), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, ckpt_path=checkpoint, datamodule=datamodule)
    return model.ids
