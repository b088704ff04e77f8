# SPDX-License-Identifier: Apache-2.0
"""What people reported of other loaders does not happen with this one."""

import decimal

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch.multiprocessing
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
    LanceTorchDataset,
)
from lancedb.permutation import Permutations, permutation_builder
from loaders import KINDS, flat, ids, iterable, run
from torch.utils.data import DataLoader

FORK = {"multiprocessing_context": "fork"}


@pytest.fixture
def file_system():
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    yield
    torch.multiprocessing.set_sharing_strategy(before)


@KINDS
def test_tensors_may_be_shared_by_the_file_system(db, file_system, make):
    """A handle of a tensor went before it was opened, at the end of an epoch."""
    wide = pa.FixedSizeListArray.from_arrays(np.arange(40 * 20_000, dtype=np.float32), 20_000)
    table = db.create_table("wide", pa.table({"id": range(40), "wide": wide}))
    options = {"columns": ["id", "wide"]} if make is iterable else {}
    loader = make(table, 2, batch_size=10, drop_last=False, persistent_workers=True, **options)
    for _ in range(2):
        batches = list(loader)
        assert sorted(flat(map(ids, batches))) == list(range(40))
        for batch in batches if make is iterable else ():
            assert batch["wide"][:, 0].tolist() == [20_000 * each for each in ids(batch)]


def test_workers_that_stay_deliver_the_same_epochs_in_each_run(table):
    """The second epoch and those after it differed from run to run."""
    runs = []
    for _ in range(2):
        loader = iterable(table, 2, persistent_workers=True, **FORK)
        runs.append([run(loader) for _ in range(3)])
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1] != runs[0][2]


@pytest.mark.parametrize(
    ("weights", "sizes"), [((1, 0), [1000, 0]), ((0.2, 0.8), [1000, 4000])], ids=["1-0", "2-8"]
)
def test_a_mixture_ends_once_each_source_that_counts_is_exhausted(table, weights, sizes):
    """A source without weight was waited for without end; a shuffle ended the others early."""
    sources = {
        "all": LanceIterableTorchDataset(table, columns=["id"], shuffle=True),
        "few": LanceIterableTorchDataset(table, columns=["id"], filter="id < 5", shuffle=True),
    }
    mixture = LanceMixedTorchDataset(
        sources,
        dict(zip(sources, weights, strict=True)),
        batch_size=8,
        stop="all_exhausted",
        format="torch",
        source_column="source",
    )
    batches = list(LanceDataLoader(mixture, num_workers=1, **FORK))
    source = torch.cat([batch["source"] for batch in batches])
    assert source.bincount(minlength=2).tolist() == sizes
    assert set(flat(map(ids, batches))) == set(range(1000))


class NeedsTwo(Exception):
    def __init__(self, row, reason):
        super().__init__(f"row {row}: {reason}")


def refuse_300(batch):
    if 300 in batch["id"]:
        raise NeedsTwo(300, "is broken")
    return batch


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_that_is_made_of_several_arguments_arrives_with_its_message(table, workers):
    """TypeError: __init__() missing 1 required positional argument."""
    loader = iterable(
        table,
        workers,
        order="none",
        batch_size=100,
        transform=refuse_300,
        **FORK if workers else {},
    )
    delivered = []
    with pytest.raises((NeedsTwo, RuntimeError), match="row 300: is broken"):
        delivered.extend(map(ids, loader))
    assert flat(delivered) == list(range(300))
    assert loader.state_dict()["position"] == 300


@pytest.mark.parametrize(
    ("rank", "world_size"), [(-1, 2), (2, 2), (0, 0), (0, -1), (None, 2), (1, None), (True, 2)]
)
def test_a_rank_that_is_none_is_refused(table, rank, world_size):
    """A rank of -1 was given all rows."""
    with pytest.raises((ValueError, TypeError), match="rank"):
        LanceIterableTorchDataset(table, rank=rank, world_size=world_size)


def test_ranks_that_are_more_than_the_fragments_have_rows_each(table):
    """Where files were fewer than ranks, all ranks but the first had none."""
    parts = [
        flat(
            run(
                iterable(
                    table, order="none", batch_size=10, drop_last=False, rank=rank, world_size=8
                )
            )
        )
        for rank in range(8)
    ]
    assert {len(part) for part in parts} == {125}
    assert sorted(flat(parts)) == list(range(1000))


def test_structs_of_text_and_long_decimals_need_no_collate_fn(db):
    """AttributeError: 'str' object has no attribute 'dtype'."""
    price = pa.array([decimal.Decimal("12345678901234567890")] * 2, pa.decimal128(38, 0))
    data = {"translation": [{"en": "a", "fr": "b"}, {"en": "c", "fr": "d"}], "price": price}
    dataset = LanceTorchDataset(db.create_table("pairs", pa.table(data)), format="torch")
    first, second = DataLoader(dataset)
    assert (first["translation"], second["translation"]["fr"]) == (
        {"en": ["a"], "fr": ["b"]},
        ["d"],
    )
    assert first["price"].tolist() == [12345678901234567890.0]


def test_a_split_goes_into_a_dataset_as_it_is():
    """A loader over a permutation was given rows of None."""
    names = [f"video {number}" for number in range(6)]
    table = lancedb.connect("memory://").create_table("videos", [{"video": name} for name in names])
    split = Permutations(table, permutation_builder(table).execute())[0].select_columns(["video"])
    batches = [batch["video"] for batch in DataLoader(LanceTorchDataset(split), batch_size=4)]
    assert batches == [names[:4], names[4:]]
