# SPDX-License-Identifier: Apache-2.0
"""Most rows of a stretch of the table are read as that stretch, and no others come out of it."""

import numpy as np
import pyarrow as pa
import pytest
from conftest import rows_with_nulls
from hypothesis import given
from hypothesis import strategies as st
from lancedb.integrations._torch.table.handle import OwnHandle
from lancedb.integrations._torch.table.selection import AllRows, ChosenRows
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from lancedb.permutation import permutation_builder
from soak import soaked

ROWS = 20_000


@pytest.fixture
def scanned(monkeypatch):
    """How many rows each scan of this process reads."""
    recorded, scan = [], OwnHandle._scan

    async def recording(self, first, count):
        recorded.append(count)
        return await scan(self, first, count)

    monkeypatch.setattr(OwnHandle, "_scan", recording)
    return recorded


@pytest.fixture
def mixed(db):
    """Rows of every kind of storage, some of them deleted."""
    table = db.create_table("mixed", rows_with_nulls(ROWS))
    table.delete("id % 10 = 3")
    return table


def rows_of(table, **options):
    options = {"format": "arrow", "batch_size": 1000, "drop_last": False, **options}
    return pa.Table.from_batches(list(LanceIterableTorchDataset(table, **options)))


@pytest.mark.few(1)
@pytest.mark.parametrize("condition", ["id % 4 > 0", "id % 5 < 3", "id > 5000 and label < 6"])
def test_rows_of_a_filter_are_those_of_lancedb(mixed, scanned, condition):
    wanted = mixed.search().where(condition).to_arrow()
    scanned.clear()
    assert rows_of(mixed, filter=condition).sort_by("id").equals(wanted.sort_by("id"))
    assert max(scanned) > 2048


def test_most_of_a_random_split_is_scanned_and_a_small_part_is_not(mixed, scanned):
    splits = permutation_builder(mixed).split_random(ratios=[0.8, 0.2], seed=1).execute()
    options = {"permutation_table": splits, "columns": ["id"], "shuffle": True}
    most = rows_of(mixed, split=0, **options)["id"].to_pylist()
    assert sum(scanned) > len(most) > 0
    scanned.clear()
    rest = rows_of(mixed, split=1, **options)["id"].to_pylist()
    assert not scanned
    assert sorted(most + rest) == [i for i in range(ROWS) if i % 10 != 3]


def test_of_wide_rows_none_is_read_that_was_not_asked_for(db, scanned):
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(9000 * 300, np.float32)), 300)
    table = db.create_table("wide", pa.table({"id": np.arange(9000), "wide": wide}))
    assert rows_of(table, filter="id % 4 > 0", batch_size=4096).num_rows == 6750
    assert not scanned
    assert rows_of(table, batch_size=4096).num_rows == 9000
    assert sum(scanned) == 9000


@given(st.lists(st.integers(0, 60), max_size=60))
def test_a_stretch_is_where_the_rows_are_unless_it_has_over_four_times_as_many(offsets):
    stretch = ChosenRows(np.array(offsets, np.int64), "some").stretch()
    if not offsets or max(offsets) - min(offsets) + 1 > 4 * len(offsets):
        assert stretch is None
    else:
        assert stretch == AllRows(max(offsets) - min(offsets) + 1, min(offsets))


@pytest.mark.parametrize(
    ("split", "shuffle"), [(0, True), soaked(0, "global"), soaked(1, True), soaked(1, "global")]
)
def test_a_split_is_kept_with_the_stretch_that_it_is_in(mixed, scanned, shuffle, split):
    splits = permutation_builder(mixed).split_random(ratios=[0.6, 0.4], seed=1).execute()
    kept, read = (
        LanceDataLoader(
            LanceIterableTorchDataset(
                mixed,
                permutation_table=splits,
                split=split,
                columns=["id", "vec", "half", "text"],
                format="arrow",
                shuffle=shuffle,
                cache=cache,
            )
        )
        for cache in ("auto", False)
    )
    scanned.clear()
    epochs = [[batch.to_pylist() for batch in kept] for _ in range(3)]
    assert 17_900 < sum(scanned) <= mixed.count_rows()
    assert epochs == [[batch.to_pylist() for batch in read] for _ in range(3)]
