# SPDX-License-Identifier: Apache-2.0
"""An epoch that has ended is over for whoever goes on from its last batch."""

import itertools

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from loaders import KINDS, ids, iterable, run, through_json
from soak import soaked
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

STEPS = 20


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


def plain_loader(table, workers):
    context = "forkserver" if workers else None
    return DataLoader(
        iterable(table).dataset, None, num_workers=workers, multiprocessing_context=context
    )


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


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("to_the_end", [True, False])
def test_torchdatas_loader_goes_on_after_an_epochs_last_batch(table, workers, to_the_end):
    def loader():
        context = "forkserver" if workers else None
        return StatefulDataLoader(
            iterable(table).dataset, None, num_workers=workers, multiprocessing_context=context
        )

    epochs = [run(loader) for loader in [iterable(table)] for _ in range(2)]
    first = loader()
    batches = iter(first)
    assert list(map(ids, itertools.islice(batches, None if to_the_end else STEPS))) == epochs[0]
    state = first.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    assert (run(resumed) or run(resumed)) == epochs[1]


# -- loaders of different lengths, together ------------------------------------------------------


class Both(lightning.LightningModule):
    """Keeps what it is given of a short and a long loader; with a data module for their states."""

    def __init__(self, table, make, mode, workers=0):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)
        self.ids, self.mode = [], mode
        self.loaders = [make(table, workers, batch_size=size) for size in (200, 100)]

    def train_dataloader(self):
        return CombinedLoader(self.loaders, self.mode)

    def training_step(self, batches):
        self.ids.append([None if each is None else ids(each) for each in batches])
        return self.linear(torch.ones(1, 1)).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(model, folder, checkpoint=None, **options):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        callbacks=[ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, ckpt_path=checkpoint, **options)
    return model.ids


@pytest.mark.filterwarnings("ignore")
@KINDS
@pytest.mark.parametrize("mode", ["max_size", soaked("max_size_cycle"), soaked("min_size")])
def test_lightnings_combined_loader_goes_on_with_the_longer_one(tmp_path, table, make, mode):
    whole = fit(Both(table, make, mode), tmp_path)
    steps = len(whole) // 2
    for done in range(1, len(whole)):
        if done == steps:
            continue  # an epoch's end, of which Lightning loads no state
        resumed = fit(Both(table, make, mode), tmp_path / "again", tmp_path / f"step={done}.ckpt")
        assert resumed == whole[done:]


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


class One(lightning.LightningModule):
    """Keeps what it is given of one loader."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)
        self.ids = []

    def training_step(self, batch):
        self.ids.append(ids(batch))
        return self.linear(torch.ones(1, 1)).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore")
@KINDS
def test_lightning_goes_on_with_the_next_epoch_after_the_last_batch(tmp_path, table, make):
    whole = fit(One(), tmp_path, datamodule=Module(table, make))
    for done in (len(whole) // 2 - 1, len(whole) // 2):
        checkpoint = tmp_path / f"step={done}.ckpt"
        module = Module(table, make)
        resumed = fit(One(), tmp_path / "again", checkpoint, datamodule=module)
        assert resumed == whole[done:]


@pytest.mark.parametrize("mode", ["max_size", "max_size_cycle", "min_size", "sequential"])
def test_a_combined_loader_without_a_trainer_does_too(table, mode):
    def combined(states=()):
        both = [iterable(table, batch_size=size) for size in (200, 100)]
        for loader, state in zip(both, states, strict=False):
            loader.load_state_dict(state)
        return both, CombinedLoader(both, mode)

    both, loader = combined()
    whole, states = [], []
    for batches, *_ in loader:
        each = batches if isinstance(batches, list) else [batches]
        whole.append([None if batch is None else ids(batch) for batch in each])
        states.append(through_json([each.state_dict() for each in both]))
    for done, state in enumerate(states[:-1], 1):
        rest = []
        for batches, *_ in combined(state)[1]:
            each = batches if isinstance(batches, list) else [batches]
            rest.append([None if batch is None else ids(batch) for batch in each])
        assert rest[: len(whole) - done] == whole[done:], done
