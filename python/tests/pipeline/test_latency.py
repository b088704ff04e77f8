# SPDX-License-Identifier: Apache-2.0
"""Reading ahead hides what an object store takes to answer: by many reads under way at once."""

import file_store
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.integrations._torch.table.handle import OwnHandle
from lancedb.integrations.torch import LanceIterableTorchDataset
from soak import soaked

ROWS, BATCH, WIDTH = 400_000, 256, 128
LATENCY = 0.02


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """208 MB of rows."""
    folder = tmp_path_factory.mktemp("store")
    values = pa.array(np.random.default_rng(0).random(ROWS * WIDTH, dtype=np.float32))
    rows = {"id": np.arange(ROWS), "vec": pa.FixedSizeListArray.from_arrays(values, WIDTH)}
    lancedb.connect(folder / "bucket" / "db").create_table("points", pa.table(rows))
    return folder


@pytest.fixture(scope="module")
def endpoint(folder):
    """A store with the rows, which answers late."""
    with file_store.serving(folder, LATENCY) as (endpoint,):
        yield endpoint


@pytest.fixture
def under_way(monkeypatch):
    """How many reads are under way now, and were at most."""
    counted, request = {"now": 0, "most": 0}, OwnHandle.request

    async def counting(self, offsets):
        counted["now"] += 1
        counted["most"] = max(counted.values())
        try:
            return await request(self, offsets)
        finally:
            counted["now"] -= 1

    monkeypatch.setattr(OwnHandle, "request", counting)
    return counted


@pytest.mark.few(1)
@pytest.mark.parametrize("readahead", [1, soaked(2)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_store_is_asked_for_four_times_as_much_ahead_as_a_disk(
    folder, endpoint, under_way, shuffle, readahead
):
    def most(**where):
        under_way["most"] = 0
        options = {"batch_size": BATCH, "shuffle": shuffle, "readahead": readahead, "cache": False}
        dataset = LanceIterableTorchDataset(table_name="points", format="torch", **where, **options)
        assert sum(len(batch["id"]) for batch in dataset) == ROWS - ROWS % BATCH
        return under_way["most"]

    storage = {"storage_options": file_store.storage_options(endpoint)}
    assert most(uri="s3://bucket/db", connect_kwargs=storage) == 4 * readahead + 1
    assert most(uri=folder / "bucket" / "db") <= readahead + 1
