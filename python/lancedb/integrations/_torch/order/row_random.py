# SPDX-License-Identifier: Apache-2.0
"""Random numbers of rows: each a function of its row's key and of how many came before.

There is no state that is moved from draw to draw. A key is 64 bits that stand for a row in one
epoch, a draw is a hash of key and counter (splitmix64, twice), and a whole batch is hashed at once.
So a row has the same numbers in whatever batch, thread or process it is.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from .index_shuffle import high_half, mix

_GOLDEN = 0x9E3779B97F4A7C15
# Draws that are hashed at once: what the processor's cache holds.
_AT_ONCE = 32_768


def row_keys(
    seed: int,
    epoch: int,
    offsets: np.ndarray,
    occurrences: np.ndarray | None = None,
    source: str = "",
) -> np.ndarray:
    """A key for each row, which differs between all rows of an epoch.

    Parameters
    ----------
    seed, epoch : int
        Those of the order; the epoch is that of the row's own table.
    offsets : numpy.ndarray of int64
        Where the rows stand in their table version.
    occurrences : numpy.ndarray of int64, optional
        How often each row came before in this epoch, whatever counts as before as long as it is a
        property of the order; None where each comes once.
    source : str, optional
        The name of the rows' table among several.

    Returns
    -------
    numpy.ndarray of uint64
    """
    name = f"{seed}/{epoch}/{source}".encode()
    base = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
    keys = offsets.astype(np.uint64)
    keys *= np.uint64(_GOLDEN)
    keys += np.uint64(base)
    mix(keys, np.empty_like(keys))
    if occurrences is not None and occurrences.any():
        at = np.flatnonzero(occurrences)
        again = keys[at] + occurrences[at].astype(np.uint64) * np.uint64(_GOLDEN)
        keys[at] = mix(again, np.empty_like(again))
    return keys


def draws(keys: np.ndarray, first: int, count: int) -> np.ndarray:
    """`count` draws of 64 bits for each key, from the draw numbered `first` on.

    Returns
    -------
    numpy.ndarray of uint64, shape (len(keys), count)
    """
    return _drawn(keys, first, count, np.empty(len(keys) * count, np.uint64))


def floats(keys: np.ndarray, first: int, count: int) -> np.ndarray:
    """As `draws`, as float64, uniform in [0, 1)."""
    return _drawn(keys, first, count, np.empty(len(keys) * count))


def _drawn(keys: np.ndarray, first: int, count: int, values: np.ndarray) -> np.ndarray:
    """Fill `values` with draws, in its own type, some rows at a time."""
    numbers = np.arange(first + 1, first + 1 + count, dtype=np.uint64) * np.uint64(_GOLDEN)
    rows = max(1, min(len(keys), _AT_ONCE // max(count, 1)))
    counters = np.tile(mix(numbers, np.empty_like(numbers)), rows)
    scratch = np.empty((2, len(counters)), np.uint64)
    for start in range(0, len(keys), rows):
        of_draws = np.repeat(keys[start : start + rows], count)
        drawn, spare = scratch[:, : len(of_draws)]
        np.bitwise_xor(of_draws, counters[: len(of_draws)], out=drawn)
        mix(drawn, spare)
        drawn += of_draws
        mix(drawn, spare)
        part = values[start * count :][: len(of_draws)]
        if values.dtype == np.uint64:
            part[:] = drawn
        else:
            np.right_shift(drawn, np.uint64(11), out=drawn)
            np.multiply(drawn, 2.0**-53, out=part)
    return values.reshape(len(keys), count)


def as_integers(drawn: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Draws as int64, uniform in [low, high), which are broadcast.

    The high half of draw times range: no value is more probable than another by more than
    range / 2**64.
    """
    span = high.astype(np.uint64) - low.astype(np.uint64)
    return (high_half(drawn, span) + low.astype(np.uint64)).astype(np.int64)


def as_normals(uniform: np.ndarray) -> np.ndarray:
    """Pairs of floats, along the last axis, as one float64 each of a standard normal distribution.

    By Box and Muller; another machine's logarithm and cosine may round otherwise.
    """
    radius = np.sqrt(-2.0 * np.log1p(-uniform[..., 0]))
    return radius * np.cos(2.0 * math.pi * uniform[..., 1])


def digest(keys: np.ndarray) -> int:
    """64 bits that stand for several keys in their order."""
    data = np.ascontiguousarray(keys).data
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
