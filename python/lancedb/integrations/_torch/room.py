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
        if memory is None or memory.segment_rows != _segment_rows(plan):
            memory = window_memory(plan)
        try:
            yield memory
        finally:
            self._memory = memory

    @property
    def is_too_small(self) -> bool:
        """Whether it was found out that all rows are more than may be held."""
        return self._everything is not None and self._everything.rows.is_too_large

    @contextlib.contextmanager
    def for_everything(
        self, reader: Reader, held: Selection, row_bytes: int, most_bytes: int | None
    ) -> Iterator[Everything]:
        """All rows that a reader reads, for any number of streams, read as those to hold."""
        if self._everything is None:
            selection = reader.selection
            if held is not selection:
                reader = Reader(reader.recipe, held, reader.columns)
            self._everything = Everything(reader, selection, row_bytes, most_bytes)
        yield self._everything


def window_memory(plan: Plan) -> WindowMemory:
    """Memory for the windows of an order."""
    segment_rows = _segment_rows(plan)
    return WindowMemory(segment_rows, min(SEGMENTS * plan.lanes, plan.rows // segment_rows + 1))


def _segment_rows(plan: Plan) -> int:
    return segment_size(min(plan.window_rows, plan.rows))
