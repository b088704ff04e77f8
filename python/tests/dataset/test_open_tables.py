# SPDX-License-Identifier: Apache-2.0
"""How often a dataset opens its table."""

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.integrations.torch import LanceIterableTorchDataset, LanceLookup, LanceTorchDataset


class Counted:
    """Opens a table, and counts how often."""

    def __init__(self, home):
        lancedb.connect(home).create_table("points", pa.table({"x": np.arange(100)}))
        self.home, self.calls = home, 0

    def __call__(self, name):
        self.calls += 1
        return lancedb.connect(self.home).open_table(name)


@pytest.fixture
def opener(tmp_path):
    return Counted(tmp_path)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LanceTorchDataset, {}),
        (LanceIterableTorchDataset, {"shuffle": True}),
        (LanceIterableTorchDataset, {"shuffle": True, "cache": False}),
    ],
    ids=["map-style", "iterable", "uncached"],
)
def test_a_table_is_opened_once_to_be_pinned_and_once_to_be_read(opener, kind, options):
    dataset = kind(table_name="points", connection_factory=opener, batch_size=10, **options)
    assert opener.calls <= 2
    for _ in range(3):
        assert len(list(dataset)) == 10
    assert dataset.schema.names == ["x"]
    assert opener.calls == 2


def test_so_does_a_lookup(opener):
    lookup = LanceLookup(table_name="points", connection_factory=opener, key="x")
    assert lookup.fetch([3, 1])["x"].tolist() == [3, 1]
    assert opener.calls == 2
