# SPDX-License-Identifier: Apache-2.0
"""Tensors reach other processes also where shared memory is short, or an error says that it is."""

import functools
import pickle
import resource
import time
from multiprocessing.reduction import ForkingPickler

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch
from lancedb.integrations._torch.common import shared_memory
from lancedb.integrations._torch.table.selection import ChosenRows
from lancedb.integrations._torch.workers import ipc
from lancedb.integrations.torch import LanceDataLoader, LanceTorchDataset

LIMIT = 1 << 20


def allow_files_of(size, worker=None):
    """Limit every file that this process makes, also those in memory."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


@pytest.fixture
def no_shared_memory():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    allow_files_of(LIMIT)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_without_a_name_is_memory_that_processes_share():
    values = torch.arange(500_000)
    storage = shared_memory.unnamed(values.untyped_storage())
    tensor = torch.empty(0, dtype=torch.int64).set_(storage, 0, values.shape)
    received = pickle.loads(ForkingPickler.dumps(tensor))
    assert torch.equal(received, values)
    tensor[3] = -1
    assert received[3] == -1
    received[4] = -2
    assert tensor[4] == -2


def test_what_cannot_be_shared_is_an_error_with_sizes_and_a_way_out(no_shared_memory):
    with pytest.raises(RuntimeError, match=r"for the 8\.0 MB .* /dev/shm has .* --shm-size"):
        shared_memory.shared(torch.zeros(1_000_000, dtype=torch.int64))


def test_without_a_directory_for_shared_memory_the_error_says_so(tmp_path):
    assert f"there is no {tmp_path}/none" in shared_memory.too_small(10, f"{tmp_path}/none")


def test_a_batch_that_cannot_be_sent_is_an_error_where_it_is_waited_for(tmp_path):
    vectors = pa.FixedSizeListArray.from_arrays(np.zeros(64 * 8192, np.float32), 8192)
    table = lancedb.connect(tmp_path).create_table("t", pa.table({"x": vectors}))
    loader = LanceDataLoader(
        LanceTorchDataset(table, format="torch"),
        batch_size=64,
        num_workers=1,
        worker_init_fn=functools.partial(allow_files_of, LIMIT),
    )
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"no shared memory for the 2\.1 MB .* num_workers=0"):
        next(iter(loader))
    assert time.monotonic() - started < 60


def test_chosen_rows_are_shared_when_they_are_sent_to_a_process_and_not_before():
    rows = ChosenRows(np.arange(10), "some")
    assert rows._offsets._tensor is None
    assert pickle.loads(pickle.dumps(rows)).offsets(np.array([3])) == 3
    assert rows._offsets._tensor is None


def test_large_tensors_travel_as_torch_sends_them_where_there_is_memory():
    before = dict(ForkingPickler._extra_reducers)
    try:
        ipc.send_small_tensors_whole()
        values = torch.rand(LIMIT)
        assert torch.equal(pickle.loads(ForkingPickler.dumps(values)), values)
        assert values.is_shared()
    finally:
        ForkingPickler._extra_reducers.clear()
        ForkingPickler._extra_reducers.update(before)
