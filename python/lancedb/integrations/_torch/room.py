# SPDX-License-Identifier: Apache-2.0
"""Knows the memory that a dataset's streams keep rows in, from epoch to epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from .lookup import Everything
from .memory import SEGMENTS, WindowMemory, segment_size
from .plan import Plan
from .reader import Reader
from .selection import Selection


class Room:
    """Memory of this process: a copy in another one begins with none."""

    def __init__(self) -> None:
        self._memory: WindowMemory | None = None
        self._everything: Everything | None = None

    def __reduce__(self) -> Any:
        return Room, ()

    @contextlib.contextmanager
    def for_windows(self, plan: Plan) -> Iterator[WindowMemory]:
        """Memory for one stream's windows; a stream beside it has its own."""
        memory, self._memory = self._memory, None
        segment_rows = segment_size(min(plan.window_rows, plan.rows))
        if memory is None or memory.segment_rows != segment_rows:
            expected = min(SEGMENTS * plan.lanes, plan.rows // segment_rows + 1)
            memory = WindowMemory(segment_rows, expected)
        try:
            yield memory
        finally:
            self._memory = memory

    @contextlib.contextmanager
    def for_everything(
        self, reader: Reader, held: Selection, row_bytes: int
    ) -> Iterator[Everything]:
        """All rows that a reader reads, for any number of streams, read as those to hold."""
        if self._everything is None:
            selection = reader.selection
            if held is not selection:
                reader = Reader(reader.recipe, held, reader.columns)
            self._everything = Everything(reader, selection, row_bytes)
        yield self._everything
