# SPDX-License-Identifier: Apache-2.0
"""A sampler of batches, with ``batch_size=None``, gives what ``batch_size`` gives."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
import torch
from lancedb.integrations.torch import LanceTorchDataset
from soak import FORKED
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, Subset

FORMATS = (
    "python",
    "python_col",
    "numpy",
    "pandas",
    "polars",
    "arrow",
    "torch",
    "torch_row",
    "torch_col",
)


def plain(batch):
    """A batch as Python values, whatever it is."""
    if isinstance(batch, pandas.DataFrame):
        return batch.to_dict("list")
    if isinstance(batch, (polars.DataFrame, pa.RecordBatch)):
        return (
            batch.to_dict(as_series=False)
            if isinstance(batch, polars.DataFrame)
            else batch.to_pydict()
        )
    if isinstance(batch, dict):
        return {name: plain(column) for name, column in batch.items()}
    return batch.tolist() if hasattr(batch, "tolist") else batch


def bulk(dataset, size=64, **options):
    sampler = BatchSampler(SequentialSampler(dataset), size, False)
    return DataLoader(dataset, sampler=sampler, batch_size=None, **options)


@pytest.mark.parametrize("unwrap", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_batches_are_those_of_a_batch_size_in_every_format(table, format, unwrap):
    dataset = LanceTorchDataset(table, columns=["id", "label"], format=format, unwrap=unwrap)
    ours, theirs = list(bulk(dataset)), list(DataLoader(dataset, 64))
    assert len(ours) == 16
    assert [type(batch) for batch in ours] == [type(batch) for batch in theirs]
    assert list(map(plain, ours)) == list(map(plain, theirs))


@pytest.mark.parametrize("method", FORKED)
def test_batches_are_those_of_a_batch_size_in_workers(table, method):
    dataset = LanceTorchDataset(table, columns=["id", "vec", "text"], format="torch")
    batches = list(bulk(dataset, 500, num_workers=1, multiprocessing_context=method))
    assert [batch["id"].tolist() for batch in batches] == [
        list(range(500)),
        list(range(500, 1000)),
    ]
    assert batches[1]["vec"].shape == (500, 4)
    assert batches[1]["text"][0] == "row 500"


@pytest.mark.parametrize(
    "rows",
    [[3, 1], np.array([3, 1]), torch.tensor([3, 1]), range(3, 0, -2), slice(1, 4, 2), [-997, 1]],
    ids=lambda rows: type(rows).__name__,
)
def test_a_sampler_may_name_rows_in_any_way(table, rows):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch")
    [batch] = DataLoader(dataset, sampler=[rows], batch_size=None)
    assert sorted(batch["id"].tolist()) == [1, 3]


def test_a_subset_is_read_in_bulk(table):
    part = Subset(LanceTorchDataset(table, columns=["id"], format="torch"), range(100, 200))
    batches = list(bulk(part, 50))
    assert [batch["id"].tolist() for batch in batches] == [
        list(range(100, 150)),
        list(range(150, 200)),
    ]


def test_a_collate_fn_gets_the_rows(table):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch")
    ids = next(iter(bulk(dataset, 3, collate_fn=lambda rows: [int(row["id"]) for row in rows])))
    assert ids == [0, 1, 2]


def test_single_rows_stay_batches_of_one(table):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch")
    assert next(iter(DataLoader(dataset, batch_size=None)))[0]["id"] == 0


def test_batches_of_row_numbers_are_read_in_any_threads_as_grain_asks_for_them(table):
    """Grain's `range().shuffle().batch().map(read)` calls `read` with arrays, in its threads."""
    dataset = pickle.loads(pickle.dumps(LanceTorchDataset(table, format="torch")))
    numbers = np.random.default_rng(0).permutation(len(dataset)).reshape(-1, 20)
    with ThreadPoolExecutor(4) as threads:
        read = threads.map(lambda each: dataset.__getitems__(each).columns, numbers)
        assert [batch["id"].tolist() for batch in read] == numbers.tolist()


def test_a_dataset_of_rows_is_what_grain_asks_of_a_source(table):
    dataset = LanceTorchDataset(table, format="python", columns=["id"], unwrap=True)
    assert (len(dataset), dataset[7], type(dataset[7])) == (len(table), {"id": 7}, dict)
