# SPDX-License-Identifier: Apache-2.0
"""The windows of a mixture's sources, which go on from one epoch into the next."""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence

from ..arrow.buffer_pool import WindowMemory
from ..order.mixed_order import MixedEpochOrder, SourceOrder
from .sources import ReadWindows, WindowReads, WindowSource

_LEAST_SEGMENT = 64
# Of what windows hold while they are delivered row by row: half of their rows.
_MOST_IN_SEGMENTS = 4 / 3


class MixtureWindows:
    """The windows of one epoch of a mixture, and the memory for their rows.

    A source does not begin again with the mixture's epoch. So windows that are open when one ends
    stay open, if the next epoch that is read is the one that follows: else their blocks would be
    read twice, and its first batch would wait for all of them.

    Parameters
    ----------
    plan : MixedEpochOrder
        The epoch's order of rows.
    lasting : container of int
        The parts of sources that this process reads in the next epoch, too.
    apart : bool
        Whether each source's rows have a memory of their own, as their columns differ.
    before : MixtureWindows, optional
        Of the epoch that was read before, and is read no more.
    """

    def __init__(
        self,
        plan: MixedEpochOrder,
        lasting: Container[int],
        apart: bool,
        before: MixtureWindows | None = None,
    ):
        self._plan = plan
        together = [[each] for each in plan.sources] if apart else [plan.sources]
        memories: list[WindowMemory] = []
        self._read: list[dict[int, ReadWindows]] = [{} for _ in together]
        open_windows = None
        if before is not None:
            memories = before._memories[: len(together)]
            if plan.follows(before._plan):
                self._read, open_windows = before._read, before.planner.windows
            else:
                before._close_all_but(())
        self.planner = plan.windows(lasting, open_windows)
        self._memories = [
            mixed_memory(sources, memory)
            for sources, memory in itertools.zip_longest(together, memories)
        ]

    def sources(self, reads: WindowReads) -> list[WindowSource]:
        """Where rows come from, of each memory."""
        return [
            WindowSource(reads, memory, windows)
            for memory, windows in zip(self._memories, self._read, strict=True)
        ]

    def leave(self) -> None:
        """Leave to the next epoch the windows that go on; call when nothing is read any more."""
        lasting = self.planner.windows if self.planner.is_over else ()
        left_open = {
            number
            for windows in self._read
            for number, read in windows.items()
            if number in lasting and read.is_done
        }
        self._close_all_but(left_open)
        self.planner.windows.keep(left_open)

    def _close_all_but(self, numbers: Container[int]) -> None:
        for windows in self._read:
            for number in [each for each in windows if each not in numbers]:
                windows.pop(number).close(number)


def mixed_memory(sources: Sequence[SourceOrder], memory: WindowMemory | None) -> WindowMemory:
    """Memory for the windows of some sources: one that was used before, if it will do.

    Windows of all sources are cut into segments of one size, the largest part of a window by which
    they take little more than the rows that wait.
    """
    windows = [
        (each.layout.lanes, min(each.layout.window_rows, each.rows))
        for each in sources
        if each.shuffle == "block" and not each.in_memory
    ]

    def segments_of(rows: int, more: int = 0) -> int:
        return sum(lanes * (-(-window // rows) + more) for lanes, window in windows)

    # Of k segments of a window that is being delivered, (k + 1) / 2 are in use on average.
    most = _MOST_IN_SEGMENTS * sum(lanes * window for lanes, window in windows)
    segment_rows = _LEAST_SEGMENT
    while windows and 2 * segment_rows * segments_of(2 * segment_rows, 1) <= most:
        segment_rows *= 2
    if memory is not None and memory.segment_rows == segment_rows:
        return memory
    return WindowMemory(segment_rows, max(1, segments_of(segment_rows)))
