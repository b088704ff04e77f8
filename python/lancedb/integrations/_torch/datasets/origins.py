# SPDX-License-Identifier: Apache-2.0
"""The origins of the rows of batches, and the keys of their random numbers."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from ..arrow.origins import Origins
from ..order.row_random import row_keys
from ..table.selection import Selection

# No row comes so often in an epoch.
_START_BIT = 32


class RandomSeed(NamedTuple):
    """What random numbers of rows depend on, beside the rows."""

    seed: int
    epoch: int


def origins_of(
    selection: Selection,
    rows: np.ndarray,
    random: RandomSeed | None,
    source: str = "",
    points: np.ndarray | None = None,
    starts: np.ndarray | None = None,
) -> Origins:
    """Where some rows of a selection come from.

    Parameters
    ----------
    selection : Selection
        Of one table's rows.
    rows : numpy.ndarray of int64
        Their places in its base order.
    random : RandomSeed, optional
        Without it there are no random numbers.
    source : str, optional
        The name of the table among several.
    points : numpy.ndarray of int64, optional
        What drew the rows, each once in an epoch, where rows are drawn by weights.
    starts : numpy.ndarray of int64, optional
        Which token of its row each begins with, where a row may become several documents.
    """
    offsets = selection.offsets(rows)
    if random is None:
        return Origins(offsets)
    # A row that a permutation table names several times is another occurrence each time.
    occurrences = selection.occurrences(rows) if points is None else points
    if starts is not None and starts.any():
        again = starts << _START_BIT
        occurrences = again if occurrences is None else occurrences + again
    keys = row_keys(*random, offsets, occurrences, source)
    return Origins(offsets, keys, random.epoch)


def joined(parts: list[tuple[int, np.ndarray, Origins]], rows: int) -> Origins:
    """The origins of rows of several tables.

    Parameters
    ----------
    parts : list of (int, numpy.ndarray, Origins)
        The number of each table, where its rows stand in the batch, and where they come from.
    rows : int
        How many there are in all.
    """
    offsets, sources = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    keys, epoch = np.zeros(rows, np.uint64), None
    has_keys = all(origins.keys is not None for _, _, origins in parts)
    for number, at, origins in parts:
        offsets[at], sources[at], epoch = origins.offsets, number, origins.epoch
        if origins.keys is not None:
            keys[at] = origins.keys
    return dataclasses.replace(Origins(offsets, keys if has_keys else None, epoch), sources=sources)
