# SPDX-License-Identifier: Apache-2.0
"""Small tensors leave workers inside the message, all others as torch sends them; none changes."""

import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lancedb.integrations._torch.convert import nested_tensor as nested
from lancedb.integrations._torch.workers import ipc
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from soak import METHODS
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import DataLoader

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.float8_e5m2,
]
LARGE = ipc._SMALL // 4 + 1  # elements of four bytes


@pytest.fixture
def sending():
    """What a worker has switched on, for one test of this process."""
    before = dict(ForkingPickler._extra_reducers)
    ipc.send_small_tensors_whole()
    yield
    ForkingPickler._extra_reducers.clear()
    ForkingPickler._extra_reducers.update(before)


def travelled(tensor):
    """A tensor that was sent to a process, as that process has it."""
    return pickle.loads(ForkingPickler.dumps(tensor))


@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 5), max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_a_small_tensor_arrives_with_its_values_type_and_shape(dtype, shape, seed):
    bits = np.random.default_rng(seed).integers(0, 2, (*shape, 16), dtype=np.uint8)
    tensor = torch.from_numpy(bits).sum(-1).to(dtype)
    function, arguments = ipc._reduce(tensor)
    arrived = function(*pickle.loads(pickle.dumps(arguments)))
    assert arrived.dtype == dtype
    assert arrived.shape == tensor.shape
    assert torch.equal(arrived, tensor)


def test_what_arrives_can_be_written_to_and_shared(sending):
    arrived = travelled(torch.arange(4))
    arrived += 1
    assert arrived.tolist() == [1, 2, 3, 4]
    assert arrived.share_memory_().is_shared()


@pytest.mark.parametrize("view", [torch.conj, lambda numbers: numbers.conj().imag])
def test_values_that_are_yet_to_be_negated_arrive_negated(sending, view):
    assert torch.equal(travelled(view(torch.tensor([1 + 2j]))), view(torch.tensor([1 + 2j])))


def test_a_piece_of_a_large_tensor_is_sent_without_the_rest(sending):
    piece = torch.arange(10 * LARGE)[5:9]
    assert len(ForkingPickler.dumps(piece)) < 1000
    assert travelled(piece).tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(LARGE),
        torch.arange(12).reshape(3, 4).t(),
        torch.arange(8).share_memory_(),
        torch.arange(3.0).requires_grad_(),
        torch.eye(3).to_sparse(),
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=["large", "transposed", "shared", "requires_grad", "sparse", "parameter"],
)
def test_any_other_tensor_is_sent_as_torch_sends_it(sending, tensor):
    assert ipc._reduce(tensor)[0] is not ipc._rebuild
    arrived = travelled(tensor)
    assert type(arrived) is type(tensor)
    assert torch.equal(arrived.to_dense(), tensor.to_dense())
    assert arrived.requires_grad == tensor.requires_grad
    assert tensor.is_sparse or arrived.stride() == tensor.stride()


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_arrive_as_they_are(sending, layout):
    nested = torch.nested.nested_tensor([[1, 2], [3], [4, 5, 6]], layout=layout)
    arrived = travelled(nested)
    assert arrived.is_nested
    assert arrived.layout == layout
    assert [row.tolist() for row in arrived.unbind()] == [[1, 2], [3], [4, 5, 6]]


def test_a_nested_tensor_arrives_with_its_lengths(sending):
    made = nested.make(torch.arange(6), torch.tensor([0, 2, 3, 6]), np.array([2, 1, 3]))
    assert nested.reduce(made)[0] is nested._make
    arrived = travelled(made)
    assert (arrived._get_min_seqlen(), arrived._get_max_seqlen()) == (1, 3)
    assert torch.equal(arrived.values(), made.values())
    assert torch.equal(arrived.offsets(), made.offsets())
    assert not arrived.values().is_shared()


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.transpose(1, 2),
        lambda made: made.float().requires_grad_(),
        lambda made: torch.nested.narrow(
            made.to_padded_tensor(0), 1, 0, torch.tensor([2, 1, 3]), layout=torch.jagged
        ),
    ],
    ids=["transposed", "requires_grad", "lists with gaps"],
)
def test_other_nested_tensors_are_sent_as_torch_sends_them(sending, change):
    values = torch.arange(12).reshape(6, 2)
    made = nested.make(values, torch.tensor([0, 2, 3, 6]), np.array([2, 1, 3]))
    other = change(made)
    assert nested.reduce(other)[0] is not nested._make
    arrived = travelled(other)
    assert arrived.requires_grad == other.requires_grad
    for got, expected in zip(arrived.unbind(), other.unbind(), strict=True):
        assert torch.equal(got, expected)


def test_what_this_process_sends_is_left_to_torch(table):
    for dataset in (LanceTorchDataset, LanceIterableTorchDataset):
        next(iter(dataset(table, columns=["id"], format="torch", batch_size=10)))
    assert ForkingPickler._extra_reducers[torch.Tensor] is reduce_tensor


@pytest.mark.parametrize("context", METHODS)
def test_a_worker_s_small_columns_need_no_shared_memory(table, context):
    dataset = LanceTorchDataset(table, columns=["id", "vec", "tokens"], format="torch")
    dataset[0]  # a forked worker has this reader
    loader = DataLoader(dataset, 50, num_workers=1, multiprocessing_context=context)
    for batch, ids in zip(loader, torch.arange(1000).split(50), strict=True):
        assert torch.equal(batch["id"], ids)
        assert not batch["id"].is_shared()
        assert not batch["vec"].is_shared()
        assert not batch["tokens"].values().is_shared()


def test_what_a_collate_function_makes_is_sent_so_too(table):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch_row")
    loader = LanceDataLoader(dataset, batch_size=100, num_workers=1, collate_fn=tuple)
    batch = next(iter(loader))
    assert [int(row) for row in batch] == list(range(100))
    assert not any(row.is_shared() for row in batch)


def test_large_columns_of_a_worker_are_in_shared_memory(db):
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * LARGE, np.float32)), LARGE)
    table = db.create_table("wide", pa.table({"id": [0, 1], "wide": wide}))
    dataset = LanceIterableTorchDataset(table, format="torch", batch_size=2)
    batch = next(iter(LanceDataLoader(dataset, num_workers=1)))
    assert batch["wide"].is_shared()
    assert not batch["id"].is_shared()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the files in /proc")
def test_batches_that_are_kept_hold_no_files(tmp_path):
    columns = {f"c{i}": np.arange(500) for i in range(50)}
    table = lancedb.connect(tmp_path).create_table("columns", pa.table(columns))
    dataset = LanceIterableTorchDataset(table, format="torch", batch_size=50)
    loader = LanceDataLoader(dataset, num_workers=1, persistent_workers=True)
    batches = iter(loader)
    kept = [next(batches)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept += batches
    assert len(kept) == 10
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
