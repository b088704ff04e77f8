# SPDX-License-Identifier: Apache-2.0
"""Whoever asks for a cache hears it if workers that end with each epoch keep nothing."""

import pytest
from conftest import rows_of
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
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


@pytest.mark.few(1)
@pytest.mark.parametrize(("options", "times"), [({}, 1), ({"persistent_workers": True}, 0)])
def test_so_it_is_of_a_map_style_dataset(db, recwarn, options, times):
    table = db.create_table("rows", rows_of(40))
    dataset = LanceTorchDataset(table, cache=True, format="torch")
    loader = LanceDataLoader(dataset, batch_size=10, num_workers=1, **options)
    for _ in range(3):
        assert len(list(loader)) == 4
    assert [each.filename for each in recwarn if SAID in str(each.message)] == [__file__] * times
