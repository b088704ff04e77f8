# SPDX-License-Identifier: Apache-2.0
"""A loader's own process reads, each row once; its workers convert and transform."""

import logging
import os
import pickle
import subprocess
import sys
from functools import partial

import pytest
import soak
import torch
from lancedb.integrations._torch.table.reader import Reader
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from loaders import flat, ids, iterable, run
from torch.utils.data import DataLoader, get_worker_info

METHODS = pytest.mark.parametrize("method", soak.METHODS)


@pytest.fixture
def asked(monkeypatch):
    """How many rows this process has asked its table for, read by read."""
    counts = []
    begin = Reader.begin

    def counted(self, rows, *others):
        counts.append(len(rows))
        return begin(self, rows, *others)

    monkeypatch.setattr(Reader, "begin", counted)
    return counts


@pytest.mark.few(4)
@pytest.mark.parametrize("workers", [0, 1, 3, 8])
@pytest.mark.parametrize("order", ["none", "block", "global"])
def test_each_row_is_read_once_whatever_the_number_of_workers(table, asked, workers, order):
    loader = iterable(table, workers, order, drop_last=False)
    asked.clear()
    assert sorted(flat(run(loader))) == list(range(table.count_rows()))
    assert sum(asked) == table.count_rows()


def seen(batch):
    """Which modules a worker has, and which process it is."""
    batch["loaded"] = "lancedb.table" in sys.modules
    batch["pid"] = os.getpid()
    return batch


@METHODS
def test_workers_make_the_batches_of_one_process(table, method):
    alone = run(iterable(table))
    loader = iterable(table, 2, transform=seen, multiprocessing_context=method)
    batches = list(loader)
    assert [ids(batch) for batch in batches] == alone
    assert len({batch["pid"] for batch in batches} - {os.getpid()}) == 2


SCRIPT = """
import pickle, sys
import pyarrow as pa

made = pickle.load(open(sys.argv[1], "rb"))
batch = pa.record_batch({"id": [1, 2], "s": ["a", "b"], "l": [[1], [1, 2]]})
pickle.dumps(made._output._convert(batch))
assert "lancedb.table" not in sys.modules
import lancedb
exec(sys.argv[2])
from lancedb.integrations.torch import LanceDataLoader

assert lancedb.connect and lancedb.table and lancedb.permutation.Permutation.fetch
assert isinstance(made, sys.modules[type(made).__module__].WorkerDataset)
"""


@pytest.mark.parametrize(
    "asks",
    ["lancedb.connect", soak.soaked("from lancedb.integrations._torch.table import reader")],
)
def test_a_worker_does_without_lancedb_until_somebody_asks_for_it(table, tmp_path, asks):
    made = iterable(table, 1)._adapter.worker_dataset(None, None)
    (tmp_path / "dataset").write_bytes(pickle.dumps(made))
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "dataset", asks], check=True)


class Keeper:
    """A transform that keeps what it was given, and looks whether it has changed since."""

    def __init__(self):
        self.kept = []

    def __call__(self, batch):
        self.kept.append((batch["vec"], batch["vec"].clone()))
        assert all(torch.equal(was, copy) for was, copy in self.kept)
        return batch


def test_what_a_transform_keeps_does_not_change(table):
    loader = iterable(table, 2, columns=["id", "vec"], transform=Keeper(), prefetch_factor=1)
    assert run(loader) == run(iterable(table))


def fails_on_100(batch):
    if 100 in batch["id"]:
        raise ValueError("100")
    return batch


def test_an_error_of_a_worker_says_which_rows_it_came_from(table):
    loader = iterable(table, 2, "none", transform=fails_on_100)
    with pytest.raises(ValueError, match="100") as caught:
        run(loader)
    assert any("making step 2 of epoch 0: rows [96, 97" in note for note in caught.value.__notes__)


class Ours(LanceIterableTorchDataset):
    pass


def test_the_loader_keeps_its_dataset_and_the_worker_its_number(table):
    dataset = Ours(table, columns=["id"], format="torch", batch_size=48, transform=numbered)
    loader = LanceDataLoader(dataset, num_workers=2)
    assert [batch["worker"] for batch in loader] == [step % 2 for step in range(len(loader))]
    assert loader.dataset is dataset


def numbered(batch):
    info = get_worker_info()
    assert info.num_workers == 2
    assert torch.initial_seed() == info.seed
    return {**batch, "worker": info.id}


@pytest.mark.parametrize("persistent", [True, False])
def test_an_epoch_that_is_left_early_leaves_nothing_for_the_next(table, persistent):
    epochs = iterable(table)
    expected = [run(epochs) for _ in range(4)]
    loader = iterable(table, 2, persistent_workers=persistent, prefetch_factor=4)
    for epoch in range(3):
        assert run(loader, 2) == expected[epoch][:2]
    assert run(loader) == expected[3]


def test_a_plain_loader_says_what_this_one_would_do_better(table, tmp_path):
    for workers, said in ((2, False), (3, True)):
        dataset = LanceIterableTorchDataset(
            table, batch_size=64, shuffle=True, block_rows=8, window_rows=16, lanes=32
        )
        assert dataset.state_dict()["plan"]["chunk"] == 8  # so that 4 steps have all lanes
        log = tmp_path / str(workers)
        options = {
            "multiprocessing_context": "forkserver",
            "worker_init_fn": partial(write_log, log),
        }
        next(iter(DataLoader(dataset, None, num_workers=workers, **options)))
        assert ("LanceDataLoader reads it once" in log.read_text()) == said


def write_log(path, worker):
    logging.getLogger("lancedb.integrations.torch").addHandler(logging.FileHandler(path))
