# SPDX-License-Identifier: Apache-2.0
"""`LanceTorchDataset` in real DataLoaders: every format, start method and sampler."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from conftest import record_reads
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from lancedb.permutation import Permutation, permutation_builder
from soak import METHODS
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
    random_split,
)


def ids(loader):
    return [id for batch in loader for id in batch["id"].tolist()]


@pytest.fixture
def splits(table):
    """A permutation table with splits of 700 and 300 rows."""
    return (
        permutation_builder(table)
        .split_random(counts=[700, 300], seed=1, split_names=["train", "test"])
        .execute()
    )


# -- rows --------------------------------------------------------------------------------------


def test_one_index_is_a_batch_of_one_row_and_the_row_itself_with_unwrap(table):
    row = {"label": 3, "text": "row 3"}
    assert LanceTorchDataset(table, columns=["label", "text"])[3] == [row]
    assert LanceTorchDataset(table, columns=["label", "text"], unwrap=True)[3] == row


def test_iterating_unwrapped_rows_gives_each_of_them(table, monkeypatch):
    sizes = record_reads(monkeypatch, lambda reader, rows: len(rows))
    dataset = LanceTorchDataset(table, columns=["id"], unwrap=True, batch_size=60)
    rows = list(dataset)
    assert rows == [{"id": i} for i in range(len(dataset))]
    assert len(sizes) < len(rows) / 20  # read together
    labels = [row["label"] for row in LanceTorchDataset(table, format="torch", unwrap=True)]
    assert torch.stack(labels).tolist() == [i % 7 for i in range(len(dataset))]


@pytest.mark.parametrize(
    "format", ["python_col", "pandas", "polars", "arrow", "torch", "torch_col"]
)
def test_unwrap_takes_the_row_out_of_every_format(table, format):
    dataset = LanceTorchDataset(table, columns=["id", "label"], format=format, unwrap=True)
    row = dataset[9]
    values = list(row.values()) if isinstance(row, dict) else list(row)
    assert [int(value) for value in values] == [9, 2]


def test_every_format_of_a_batch(table):
    def batch(format):
        return LanceTorchDataset(table, columns=["id", "label"], format=format)[[8, 1]]

    assert batch("python") == [{"id": 8, "label": 1}, {"id": 1, "label": 1}]
    assert batch("python_col") == {"id": [8, 1], "label": [1, 1]}
    assert batch("numpy").tolist() == [[8, 1], [1, 1]]
    assert isinstance(batch("pandas"), pd.DataFrame)
    assert isinstance(batch("polars"), pl.DataFrame)
    assert isinstance(batch("arrow"), pa.RecordBatch)
    assert default_collate(batch("torch"))["id"].tolist() == [8, 1]
    assert torch.stack(batch("torch_row")).tolist() == [[8, 1], [1, 1]]
    assert batch("torch_col").tolist() == [[8, 1], [1, 1]]


def test_indices_of_any_kind_from_either_end(table):
    dataset = LanceTorchDataset(table, columns=["id"])
    for indices in ([-1, 0], np.array([-1, 0]), torch.tensor([-1, 0]), slice(None, None, 999)):
        assert sorted(row["id"] for row in dataset.__getitems__(indices)) == [0, 999]
    assert dataset[torch.tensor(5)] == [{"id": 5}]
    assert dataset[np.int64(-1)] == [{"id": 999}]
    with pytest.raises(IndexError, match="index 1000 is out of range for 1000 rows"):
        dataset[1000]
    with pytest.raises(TypeError, match="whole number"):
        dataset["id"]


def test_iterating_walks_full_batches_in_order(table):
    dataset = LanceTorchDataset(table, columns=["id"], format="python_col", batch_size=300)
    assert [batch["id"] for batch in dataset] == [
        list(range(start, start + 300)) for start in (0, 300, 600)
    ]
    assert len(next(iter(LanceTorchDataset(table)))) == 100


def test_it_says_what_it_is(table):
    dataset = LanceTorchDataset(table, columns=["id", "vec"], format="torch", filter="id < 10")
    assert (len(dataset), dataset.num_rows, dataset.column_names) == (10, 10, ["id", "vec"])
    assert dataset.schema.field("vec").type == pa.list_(pa.float32(), 4)
    for said in ("'points'", f"version {table.version}", "rows=10", "'id', 'vec'", "'torch'"):
        assert said in repr(dataset)


def test_stats_count_rows_bytes_and_seconds(table):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch", transform=dict)
    dataset[[1, 2, 3]]
    stats = dataset.stats()
    assert (stats["rows"], stats["bytes"]) == (3, 24)
    assert stats["reading"] > 0
    assert stats["converting"] > 0
    assert stats["transforming"] > 0


# -- which rows and columns --------------------------------------------------------------------


def test_a_filter(table):
    dataset = LanceTorchDataset(table, filter="label = 3 AND id >= 500", format="python_col")
    expected = [i for i in range(500, 1000) if i % 7 == 3]
    assert dataset[:]["id"] == expected
    assert len(LanceTorchDataset(table, filter="id < 0")) == 0


@pytest.mark.parametrize("split", ["test", 1])
def test_a_split_by_name_or_number(table, splits, split):
    permutation = Permutation.from_tables(table, splits, split)
    dataset = LanceTorchDataset(table, permutation_table=splits, split=split, format="python_col")
    assert dataset[:]["id"] == [row["id"] for row in permutation.fetch(slice(None))]
    assert len(dataset) == 300


def test_a_split_and_a_filter(table, splits):
    options = {"permutation_table": splits, "split": "train", "format": "python_col"}
    whole = LanceTorchDataset(table, **options)[:]["id"]
    few = LanceTorchDataset(table, filter="id < 100", **options)[:]["id"]
    assert few == [id for id in whole if id < 100]


@pytest.mark.parametrize(
    "columns", [["vec", "id"], {"key": "id", "v": "vec"}, {"twice": "id * 2", "id": "id"}], ids=str
)
def test_columns_in_order_renamed_or_computed(table, columns):
    dataset = LanceTorchDataset(table, columns=columns, format="python_col")
    assert dataset.column_names == list(columns)
    assert list(dataset[[5]]) == list(columns)
    if "twice" in columns:
        assert dataset[[5]] == {"twice": [10], "id": [5]}


def test_a_permutation_is_taken_over_with_all_it_has(table, splits):
    permutation = (
        Permutation.from_tables(table, splits, "train")
        .select_columns(["id", "text"])
        .rename_column("text", "words")
        .with_skip(10)
        .with_take(50)
        .with_format("pandas")
    )
    dataset = LanceTorchDataset(permutation)
    assert (len(dataset), dataset.format) == (50, "pandas")
    pd.testing.assert_frame_equal(dataset[[3, 49]], permutation.fetch([3, 49]))
    own = LanceTorchDataset(permutation, columns=["words"], format="python")
    assert own[[3]] == [{"words": permutation.fetch([3])["words"][0]}]


def test_a_permutations_transform_is_taken_over(table):
    permutation = Permutation.identity(table).with_transform(pa.RecordBatch.to_pydict)
    assert LanceTorchDataset(permutation, columns=["id"])[[4, 2]] == {"id": [4, 2]}


def test_a_table_without_rows(db, table):
    empty = db.create_table("empty", schema=table.schema)
    dataset = LanceTorchDataset(empty, format="torch")
    assert len(dataset) == 0
    assert list(DataLoader(dataset, batch_size=4)) == []
    with pytest.raises(IndexError, match="0 rows"):
        dataset[0]


# -- in a DataLoader ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_workers_of_every_start_method_read_the_same_rows(table, method):
    dataset = LanceTorchDataset(table, columns=["id", "vec", "text"], format="torch")
    loader = DataLoader(
        dataset,
        batch_size=128,
        num_workers=2,
        multiprocessing_context=method,
        persistent_workers=True,
    )
    for _ in range(2):
        batches = list(loader)
        assert ids(batches) == list(range(1000))
        assert batches[0]["vec"].shape == (128, 4)
        assert batches[-1]["text"][-1] == "row 999"


@pytest.mark.few(1)
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_shuffled_epochs_have_every_row_once(table, workers):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch")
    loader = DataLoader(
        dataset,
        batch_size=64,
        shuffle=True,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
    )
    first, second = ids(loader), ids(loader)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert first != second


def test_samplers_and_wrappers_of_torch(table):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch")

    def load(data=dataset, **options):
        return ids(DataLoader(data, **{"batch_size": 16, **options}))

    batches = BatchSampler(SequentialSampler(dataset), 64, drop_last=True)
    assert load(batch_size=1, batch_sampler=batches) == list(range(960))
    assert load(Subset(dataset, [5, 1, 5])) == [5, 1, 5]
    one, other = random_split(dataset, [0.25, 0.75], torch.Generator().manual_seed(0))
    assert sorted(load(one) + load(other)) == list(range(1000))
    weights = [0.0] * 500 + [1.0] * 500
    assert min(load(sampler=WeightedRandomSampler(weights, 200))) >= 500
    shards = [DistributedSampler(dataset, 2, rank, shuffle=True) for rank in (0, 1)]
    assert sorted(load(sampler=shards[0]) + load(sampler=shards[1])) == list(range(1000))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but")  # without a GPU
def test_batches_are_the_same_through_pinned_memory(table, workers):
    mapped = LanceTorchDataset(table, columns=["id", "vec", "text"], format="torch")
    streamed = LanceIterableTorchDataset(
        table, columns=["id", "vec", "text"], format="torch", batch_size=64
    )
    for make in (
        lambda **options: DataLoader(mapped, batch_size=64, drop_last=True, **options),
        lambda **options: LanceDataLoader(streamed, **options),
    ):
        plain = make()
        pinned = make(
            num_workers=workers,
            pin_memory=True,
            multiprocessing_context="forkserver" if workers else None,
        )
        for batch, expected in zip(pinned, plain, strict=True):
            assert batch["vec"].is_pinned() == torch.accelerator.is_available()
            assert batch["id"].equal(expected["id"])
            assert batch["vec"].equal(expected["vec"])
            assert batch["text"] == expected["text"]


def test_concatenated_and_stacked_datasets_collate(table):
    def dataset(*columns):
        return LanceTorchDataset(table, columns=columns, format="torch", unwrap=True)

    both = ConcatDataset([dataset("id", "vec"), dataset("id", "vec")])
    batch = next(iter(DataLoader(Subset(both, [999, 1000, 3]), batch_size=3)))
    assert batch["id"].tolist() == [999, 0, 3]
    assert batch["vec"].shape == (3, 4)
    stacked = StackDataset(a=dataset("id"), b=dataset("label", "text"))
    batch = next(iter(DataLoader(stacked, batch_size=4)))
    assert batch["a"]["id"].tolist() == [0, 1, 2, 3]
    assert batch["b"]["text"] == ["row 0", "row 1", "row 2", "row 3"]


def test_lazy_batches_equal_rows_collated_one_by_one(table):
    dataset = LanceTorchDataset(table, columns=["id", "label", "vec", "text"], format="torch")
    at = [7, 500, 7, 0]
    lazy = next(iter(DataLoader(Subset(dataset, at), batch_size=4)))
    rows = default_collate([dict(dataset[index][0]) for index in at])
    assert lazy.keys() == rows.keys()
    for name in ("id", "label", "vec"):
        assert lazy[name].dtype == rows[name].dtype
        assert lazy[name].equal(rows[name])
    assert lazy["text"] == rows["text"]


def double(columns):
    return {**columns, "vec": columns["vec"] * 2}


def to_pair(columns):
    return columns["vec"], columns["id"]


def first_half(columns):
    return {name: column[: len(column) // 2] for name, column in columns.items()}


def test_a_transform_works_on_the_batched_tensors(table):
    options = {"columns": ["id", "vec"], "format": "torch"}
    loader = DataLoader(
        LanceTorchDataset(table, transform=double, **options),
        batch_size=10,
        num_workers=1,
        multiprocessing_context="forkserver",
    )
    assert next(iter(loader))["vec"][3].tolist() == [6, 6.25, 6.5, 6.75]
    pairs = DataLoader(LanceTorchDataset(table, transform=to_pair, **options), batch_size=10)
    vec, id = next(iter(pairs))
    assert (vec.shape, id.tolist()) == ((10, 4), list(range(10)))
    halves = DataLoader(LanceTorchDataset(table, transform=first_half, **options), batch_size=10)
    assert len(next(iter(halves))["id"]) == 5


def test_a_transform_alone_gets_the_record_batch(table):
    dataset = LanceTorchDataset(table, transform=lambda batch: batch["id"].to_pylist())
    assert dataset[[3, 1]] == [3, 1]


def test_lists_of_different_lengths_pass_through_workers(table):
    dataset = LanceTorchDataset(table, columns=["id", "tokens"], format="torch")
    loader = DataLoader(dataset, batch_size=10, num_workers=1, multiprocessing_context="forkserver")
    tokens = next(iter(loader))["tokens"]
    assert [len(row) for row in tokens.unbind()] == [i % 5 for i in range(10)]


def test_rows_of_dicts_need_a_collate_function_that_takes_lists(table):
    dataset = LanceTorchDataset(table, columns=["text"])
    loader = DataLoader(dataset, batch_size=3, collate_fn=list)
    assert next(iter(loader)) == [{"text": f"row {i}"} for i in range(3)]


# -- how it travels ----------------------------------------------------------------------------


def test_the_reader_is_opened_at_the_first_read_in_every_process(table):
    dataset = LanceTorchDataset(table)
    assert dataset._perm is None
    dataset[0]
    assert dataset._perm is not None
    assert pickle.loads(pickle.dumps(dataset))._perm is None
    assert copy.deepcopy(dataset)._perm is None
    assert dataset._perm is not None


def test_the_pickle_of_a_large_table_is_small(db):
    large = db.create_table("large", pa.table({"id": np.arange(1_000_000)}))
    dataset = LanceTorchDataset(large, format="torch")
    dataset[5]
    raw = pickle.dumps(dataset)
    assert len(raw) < 4096
    copied = pickle.loads(raw)
    assert len(copied) == 1_000_000
    assert copied[[999_999]][0]["id"] == 999_999


def mapping_of(address):
    """The inode of the memory at an address, and how much of it this process has copied, in KB."""
    with open("/proc/self/smaps") as lines:
        inside = False
        for line in lines:
            head = line.split()
            if "-" in head[0] and not head[0].endswith(":"):
                start, stop = (int(edge, 16) for edge in head[0].split("-"))
                inside, inode, private = start <= address < stop, int(head[4]), 0
            elif inside and head[0].startswith("Private_"):
                private += int(head[1])
            elif inside and head[0] == "VmFlags:":
                return [inode, private]
    raise LookupError(hex(address))


def mapping_of_the_rows(columns):
    """A transform that tells where this worker has the rows of its dataset."""
    rows = get_worker_info().dataset._rows.view.selection._offsets.array
    rows.sum()
    return torch.tensor([mapping_of(rows.ctypes.data)])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_four_workers_share_one_copy_of_the_rows_of_a_permutation(db):
    base = db.create_table("large", pa.table({"id": np.arange(1_000_000)}))
    order = permutation_builder(base).shuffle(seed=0).execute()
    dataset = LanceTorchDataset(
        base, permutation_table=order, format="torch", transform=mapping_of_the_rows
    )
    loader = DataLoader(
        dataset,
        batch_sampler=[[index] for index in range(4)],
        num_workers=4,
        multiprocessing_context="forkserver",
    )
    mappings = torch.cat(list(loader))
    inode, _ = mapping_of(dataset._rows.view.selection._offsets.array.ctypes.data)
    assert mappings[:, 0].tolist() == [inode] * 4
    assert inode > 0
    assert mappings[:, 1].tolist() == [0] * 4


@pytest.mark.soak
def test_chosen_rows_reach_a_spawned_worker(table, splits):
    chosen = [
        LanceTorchDataset(table, columns=["id"], format="torch", unwrap=True, **options)
        for options in ({"filter": "id % 2 = 0"}, {"permutation_table": splits, "split": "test"})
    ]
    loader = DataLoader(
        ConcatDataset(chosen), batch_size=64, num_workers=1, multiprocessing_context="spawn"
    )
    rows = [each._rows.view.selection.offsets(np.arange(len(each))).tolist() for each in chosen]
    assert ids(loader) == rows[0] + rows[1]


def test_importing_lancedb_imports_neither_torch_nor_this():
    code = (
        "import sys, lancedb;"
        "ours = [n for n in sys.modules if n == 'torch' or 'integrations' in n "
        "or n == 'lancedb.permutation'];"
        "sys.exit(repr(ours) if ours else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.soak
def test_without_torch_the_import_says_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "try:\n import lancedb.integrations.torch\n"
        "except ImportError as error: print(error)\n"
        "from lancedb.permutation import Permutation; print(Permutation.fetch.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "needs PyTorch 2.4 or newer: pip install 'torch>=2.4'" in done.stdout
    assert "fetch" in done.stdout


def test_worker_processes_that_fork_open_their_own_reader(table):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch")
    dataset[0]
    reader = dataset._rows.reader()
    assert reader.is_open
    loader = DataLoader(
        dataset, batch_size=500, num_workers=2, multiprocessing_context="forkserver"
    )
    assert ids(loader) == list(range(1000))
