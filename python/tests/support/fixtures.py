# SPDX-License-Identifier: Apache-2.0
"""Real tables on disk, small enough to be made anew for each test."""

import lancedb
import pytest
import warm
from lancedb.integrations._torch.order import layout
from lancedb.integrations._torch.table.reader import Reader
from lancedb.integrations._torch.workers.start import preload_workers
from rows import rows_of

# As LanceDataLoader does: what workers need is imported once, for plain DataLoaders too.
preload_workers()


def record_reads(monkeypatch, of):
    """What `of` makes of each read of this process, of its reader and the rows asked for."""
    recorded, begin = [], Reader.begin

    def recording(self, rows, *turn):
        recorded.append(of(self, rows))
        return begin(self, rows, *turn)

    monkeypatch.setattr(Reader, "begin", recording)
    return recorded


@pytest.fixture(scope="module")
def starter():
    """Runs scripts in processes that begin with their imports done."""
    with warm.starter() as starter:
        yield starter


def shrink_windows(monkeypatch, windows_bytes, one_window_bytes, block_bytes, windows_rows):
    """Layouts as of tables so many times as large."""
    monkeypatch.setattr(layout, "WINDOWS_BYTES", windows_bytes)
    monkeypatch.setattr(layout, "ONE_WINDOW_BYTES", one_window_bytes)
    monkeypatch.setattr(layout, "LEAST_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(layout, "LEAST_BLOCK_ROWS", 2)
    monkeypatch.setattr(layout, "WINDOWS_ROWS", windows_rows)


@pytest.fixture
def small_windows(monkeypatch):
    """Layouts of many small windows, as large tables have."""
    shrink_windows(monkeypatch, 60_000, 1_000, 128, 600)


@pytest.fixture
def db(tmp_path):
    """An empty database on disk."""
    return lancedb.connect(tmp_path / "db")


@pytest.fixture
def table(db):
    """1,000 rows in three fragments; see `rows_of`."""
    table = db.create_table("points", rows_of(400))
    table.add(rows_of(400, 400))
    table.add(rows_of(200, 800))
    return table


@pytest.fixture
def wide_range(db):
    """20,000 rows of id and vec, for orders with windows."""
    return db.create_table("many", rows_of(20_000).select(["id", "label", "vec"]))
