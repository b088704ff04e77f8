# SPDX-License-Identifier: Apache-2.0
"""A fixture: parts of a few rows, so that small tables have many."""

import pytest
from lancedb.integrations._torch.cache import cached_rows, disk
from lancedb.integrations._torch.common.process import PROCESS


@pytest.fixture
def small_parts(monkeypatch):
    """Some 64 rows of the table of `rows_of` are a part, and what was said may be said again."""
    monkeypatch.setattr(cached_rows, "_PART_BYTES", 8000)
    PROCESS.replace(disk.Said())
