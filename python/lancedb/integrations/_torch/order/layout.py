# SPDX-License-Identifier: Apache-2.0
"""Blocks, windows and lanes chosen for a table.

Of rows that are alike in no stretch longer than a block, a batch has label counts whose variance
is about ``1 + (chunk - 1) / (blocks in one lane's window)`` times that of an ideal shuffle. With
``lanes = steps * G / chunk`` that is ``1 + steps * G * block / W`` for steps of G rows and W rows
in all windows, and ``1 + 16 * G * block / W`` over 16 batches in a row: 1.25 and 2 with windows
of `_STEPS_IN_WINDOWS` blocks for each row of a step. Of longer stretches, as in a table sorted by
label, every window has its share (`stratified.py`), and the variance is that of an ideal shuffle.

A window is freed while it is delivered, so that about half of `WINDOWS_BYTES` is in memory.

Rows of a few bytes would make windows of millions of rows, and the first batches wait until they
are read. So windows are bounded by rows, too, and blocks with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..common.checks import whole_number

Auto = int | Literal["auto"]

BLOCK_BYTES = 32 << 10
LEAST_BLOCK_BYTES = 4 << 10
WINDOWS_BYTES = 256 << 20
# Every process has a window of its own where there is but one, and the first batch waits for it.
ONE_WINDOW_BYTES = WINDOWS_BYTES // 8
# A block of so many rows is read well, however small they are.
LEAST_BLOCK_ROWS = 64
# In all windows; or rows of so many steps, if these are more.
WINDOWS_ROWS = 4 << 16
MOST_CHUNK = 32
STEPS_PER_CYCLE = 4
_STEPS_IN_WINDOWS = 16
_CYCLES_IN_WINDOW = 4
# Lanes that are few all begin at the first step; of so many blocks a quarter is read for it.
_BLOCKS_IN_LARGE_WINDOW = 64


@dataclass(frozen=True)
class Layout:
    """The shape of a block shuffle; `EpochOrder` says what each means."""

    block_rows: int
    window_rows: int
    lanes: int
    chunk: int


def auto_layout(
    rows: int,
    row_bytes: int,
    global_batch: int,
    shuffle: str,
    block_rows: Auto = "auto",
    window_rows: Auto = "auto",
    lanes: Auto = "auto",
    share: float = 1.0,
    shards: int | None = None,
) -> Layout:
    """Blocks, windows and lanes for a table; what is given wins, and the rest follows it.

    Parameters
    ----------
    rows : int
        Rows of the selection.
    row_bytes : int
        Arrow bytes of an average row.
    global_batch : int
        Rows of a step over all ranks. Nothing depends on the number of ranks, workers or cores.
    shuffle : {"none", "block", "global"}
        Only ``"block"`` has a layout.
    block_rows, window_rows, lanes : int or "auto"
        As for `LanceIterableTorchDataset`.
    share : float
        Of the memory for windows, which sources of a mixture share.
    shards : int, optional
        What divides the rows of a step and, so that each shard has lanes of its own, the lanes;
        by default as many as `auto_chunk` cuts a step for.

    Examples
    --------
    >>> auto_layout(1_000_000, 524, 256, "block")
    Layout(block_rows=64, window_rows=8192, lanes=32, chunk=32)
    >>> auto_layout(1_000, 524, 256, "block")
    Layout(block_rows=1, window_rows=1000, lanes=1, chunk=1)
    """
    block_rows = _auto_or_whole("block_rows", block_rows)
    window_rows = _auto_or_whole("window_rows", window_rows)
    lanes = _auto_or_whole("lanes", lanes)
    if shuffle != "block":
        return Layout(1, 1, 1, 1)
    windows_rows, windows_bytes = int(WINDOWS_ROWS * share), int(WINDOWS_BYTES * share)
    most_rows = max(windows_rows, _STEPS_IN_WINDOWS * LEAST_BLOCK_ROWS * global_batch)
    budget = max(1, min(windows_bytes // row_bytes, most_rows) // 2)
    # Windows of several tables add up: of none nearly all rows at once, as their epochs begin.
    most = 2 * budget if shards is None else min(2 * budget, max(1, rows * 2 // 3))
    mixed = min(rows, most)
    block = _auto_block(row_bytes, global_batch, mixed) if block_rows == "auto" else block_rows
    small = rows * row_bytes <= ONE_WINDOW_BYTES * share
    if small and _fits_one_window(rows, block, global_batch, window_rows, lanes):
        unit = 1 if block_rows == "auto" else block_rows
        return Layout(unit, max(1, -(-rows // unit)) * unit, 1, 1)
    if block == 1 and window_rows == "auto" and lanes == "auto":
        return Layout(1, 1, 1, 1)
    steps = _steps_per_cycle(mixed, block, global_batch)
    # A step that no chunk divides has a lane for each of its rows: after as many steps as a chunk
    # has rows all lanes have given their chunk, and the first one is next.
    chunk = auto_chunk(global_batch, shards)
    in_windows = min(_power_of_two(max(budget, _STEPS_IN_WINDOWS * global_batch * block)), most)
    if chunk == 1:
        chunk = steps
    elif shards and in_windows // (global_batch // chunk) // block >= _BLOCKS_IN_LARGE_WINDOW:
        steps = 1  # no worker reads lanes of its own, and fewer ones have larger windows
    if lanes == "auto":
        lanes = global_batch * steps // chunk
    if window_rows == "auto":
        window_rows = max(1, in_windows // lanes // block) * block
    return Layout(block, max(1, window_rows // block) * block, lanes, chunk)


def auto_chunk(global_batch: int, shards: int | None = None) -> int:
    """Rows taken of a lane in turn: 1, 2, 4 or 8 ranks all cut a step between chunks.

    Steps of 1,024 rows and more are cut well for up to 64 ranks.
    """
    ranks = shards or (8 if global_batch < 1024 else 64)
    share = global_batch // math.gcd(global_batch, ranks)
    return max(size for size in range(1, MOST_CHUNK + 1) if share % size == 0)


def times_read(layout: Layout, global_batch: int, workers: int) -> int:
    """How often each block is read where so many workers take the steps in turn.

    After ``lanes * chunk`` rows all lanes have given theirs, and the first one is next.
    Workers that always meet the same lanes share them with nobody.

    Examples
    --------
    >>> layout = auto_layout(1_000_000, 524, 256, "block")
    >>> [times_read(layout, 256, workers) for workers in (1, 2, 3, 4, 8)]
    [1, 1, 3, 1, 2]
    """
    if layout.lanes == 1:  # no blocks, or so few that one window has them
        return 1
    steps, rest = divmod(layout.lanes * layout.chunk, global_batch)
    return workers // math.gcd(workers, 1 if rest else steps)


def _auto_block(row_bytes: int, global_batch: int, mixed: int) -> int:
    """Enough bytes to read well, few enough rows that `mixed` rows are mixed well."""
    block = _power_of_two(max(1, BLOCK_BYTES // row_bytes))
    least = min(_power_of_two(max(1, LEAST_BLOCK_BYTES // row_bytes)), LEAST_BLOCK_ROWS)
    while block > least and _STEPS_IN_WINDOWS * global_batch * block > mixed:
        block //= 2
    return block


def _steps_per_cycle(rows: int, block: int, global_batch: int) -> int:
    """How many steps pass until a lane comes again: fewer where few rows are mixed."""
    steps = STEPS_PER_CYCLE
    while steps > 1 and rows < steps * _CYCLES_IN_WINDOW * global_batch * block:
        steps //= 2
    return steps


def _fits_one_window(
    rows: int, block: int, global_batch: int, window_rows: Auto, lanes: Auto
) -> bool:
    """Whether the table is too small for lanes to mix it: then it is one window."""
    small = block > 1 and rows < _CYCLES_IN_WINDOW * global_batch * block
    return small and window_rows == "auto" and lanes == "auto"


def _power_of_two(number: int) -> int:
    """The power of two at or above `number`."""
    return 1 << (number - 1).bit_length()


def _auto_or_whole(name: str, value: Auto) -> Auto:
    return "auto" if value == "auto" else whole_number(name, value, 1, or_else="'auto' or ")
