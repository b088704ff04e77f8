# SPDX-License-Identifier: Apache-2.0
"""Rows drawn in proportion to their weights, by systematic sampling.

The cumulative weights are cut into as many equal strata as an epoch has points, and each stratum
has one point. Where in the stratum it is depends on seed and epoch alone, so that consecutive
points are consecutive rows: they take the place of rows in every order, and blocks of them are
read as blocks of rows are. A row comes as often as it was expected to, rounded down or up, where
independent draws vary by the square root of that.

The place within the strata moves by the golden ratio from epoch to epoch: a row that is expected
once in ten epochs comes once in about ten.
"""

from __future__ import annotations

import math

import numpy as np

from .index_shuffle import derive_key

_PLACE = 5  # beside the keys of `epoch_order`
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_SUMMED_AT_ONCE = 1 << 16


def cumulative(weights: np.ndarray, points: int) -> np.ndarray:
    """Where each row's part of ``[0, points)`` ends, if that is divided in proportion to weights.

    Parameters
    ----------
    weights : numpy.ndarray of float64
        None negative, all finite, not all of them zero.
    points : int
        How many rows are drawn in an epoch.

    Returns
    -------
    numpy.ndarray of float64
        Ascending; that of the last row which has a weight is `points`.

    Examples
    --------
    >>> cumulative(np.array([1.0, 0.0, 3.0]), 8).tolist()
    [2.0, 2.0, 8.0]
    """
    ends = weights / weights.max(initial=0)  # sums of large weights stay finite
    sums = [math.fsum((0.0,))]
    for start in range(0, len(ends), _SUMMED_AT_ONCE):
        part = ends[start : start + _SUMMED_AT_ONCE]
        np.cumsum(part, out=part)
        sums.append(math.fsum((sums[-1], part[-1])))
        part += sums[-2]
    ends *= points / ends[-1]
    ends[np.searchsorted(ends, ends[-1]) :] = points
    return np.maximum.accumulate(ends, out=ends)


def drawn(ends: np.ndarray, points: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The rows that some points of an epoch draw.

    Parameters
    ----------
    ends : numpy.ndarray of float64
        As of `cumulative`.
    points : numpy.ndarray of int64
        In ``[0, points)``.
    seed, epoch : int
        What the place within the strata depends on.

    Returns
    -------
    numpy.ndarray of int64
    """
    place = (derive_key(seed, _PLACE) + epoch * _GOLDEN & _MASK) / 2**64
    order = np.argsort(points, kind="stable")  # neighbours are looked up in the same memory
    rows = np.empty(len(points), np.int64)
    at = np.minimum(points[order] + place, np.nextafter(ends[-1], 0))
    rows[order] = np.searchsorted(ends, at, "right")
    return rows
