# SPDX-License-Identifier: Apache-2.0
"""Whoever asks for a cache hears it if workers that end with each epoch keep nothing."""

import pytest
from conftest import rows_of
from lancedb.integrations.torch import LanceIterableTorchDataset
from torch.utils.data import DataLoader

SAID = "cache=True, and every epoch has new workers"


@pytest.mark.soak
@pytest.mark.parametrize("stay", [False, True])
def test_a_cache_that_is_lost_with_its_workers_is_said_once(db, capfd, stay):
    table = db.create_table("rows", rows_of(40))
    dataset = LanceIterableTorchDataset(table, batch_size=10, cache=True)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=1,
        persistent_workers=stay,
        multiprocessing_context="spawn",  # which writes to the stderr of this test
    )
    for _ in range(2):
        assert len(list(loader)) == 4
    del loader
    assert capfd.readouterr().err.count(SAID) == (0 if stay else 1)
