# SPDX-License-Identifier: Apache-2.0
"""Windows of a plan to read for spans of its shards, and to free once nobody needs them."""

from __future__ import annotations

import numpy as np

from .read_schedule import WindowRows
from .shards import Shards
from .window_slices import WindowSlices


class ShardWindows:
    """Spans of shards as runs of windows; those of a shard are asked for from first to last.

    Parameters
    ----------
    shards : Shards
        Of a plan with windows.
    """

    def __init__(self, shards: Shards):
        self._shards = shards
        self._open: dict[int, int] = {}  # by lane

    def next(
        self, shard: int, start: int, stop: int
    ) -> tuple[WindowSlices, list[WindowRows], list[int]]:
        """What a span is made of.

        Returns
        -------
        pieces : WindowSlices
            Its rows.
        opened : list of WindowRows
            The windows that no span before needed.
        spent : list of int
            Those that none after this one needs.
        """
        pieces, _ = self._shards.pieces_of(shard, np.array([[start, stop]]))
        opened: list[WindowRows] = []
        spent: list[int] = []
        firsts = np.sort(np.unique(pieces.windows, return_index=True)[1])
        for window in pieces.windows[firsts].tolist():
            lane = self._shards.lane_of(window)
            before = self._open.get(lane)
            if before != window:
                self._open[lane] = window
                spent += [] if before is None else [before]
                opened.append(WindowRows(window, self._shards.window_size(window)))
        return pieces, opened, spent
