# SPDX-License-Identifier: Apache-2.0
"""Rank and world size of a device mesh, of which rows are divided over one dimension."""

from pathlib import Path

import pytest
from lancedb.integrations.torch import LanceIterableTorchDataset
from torchrun import torchrun

SCRIPT = Path(__file__).parents[1] / "support/mesh_script.py"


@pytest.mark.soak
def test_ranks_of_one_tensor_group_have_the_same_batches(tmp_path, wide_range, starter):
    records = torchrun(SCRIPT, 4, tmp_path / "db", tmp_path / "out", starter=starter)
    by_place = {tuple(record["coordinate"]): record["steps"] for record in records}
    for rank in range(2):
        assert by_place[rank, 0] == by_place[rank, 1]
    delivered = [id for rank in range(2) for step in by_place[rank, 0] for id in step]
    assert sorted(delivered) == list(range(20_000))
    assert all(record["state"] == records[0]["state"] for record in records)
    for kind in ("budget", "packing", "of one source"):
        mixtures = {tuple(record["coordinate"]): record["mixtures"][kind] for record in records}
        for rank in range(2):
            assert mixtures[rank, 0] == mixtures[rank, 1]
        assert mixtures[0, 0]["state"] == mixtures[1, 0]["state"]
        ids = [id for rank in range(2) for step in mixtures[rank, 0]["steps"] for id in step]
        assert len(mixtures[0, 0]["steps"]) == len(mixtures[1, 0]["steps"]) > 2
        assert len(set(ids)) == len(ids) > 20_000 - 4000  # but one batch of each rank
    several, twice = records[0]["refused"]
    assert "mesh has 2 dimensions: pass the one over which rows are divided" in several
    assert "mesh['dp']" in several
    assert "mesh gives rank and world_size" in twice


def test_a_mesh_is_a_device_mesh(table):
    with pytest.raises(TypeError, match="mesh must be a torch DeviceMesh, not int"):
        LanceIterableTorchDataset(table, mesh=2)
