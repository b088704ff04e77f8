# SPDX-License-Identifier: Apache-2.0
"""Keyed bijections on [0, n): random-looking orders that are the same for ever.

`permute` is a Feistel network over pairs of digits, one below a and one below b with a * b >= n,
walked along its cycles until the result is below n (Black and Rogaway, "Ciphers with Arbitrary
Finite Domains", 2002). a and b are the square root of n rounded up, so that hardly a number
walks. Grain's ``index_shuffle`` is the model of the contract. `shuffled` sorts a hash instead,
for orders that are wanted whole.

Only unsigned 64-bit sums, products, shifts and an exact sort are used, and no generator of
numpy's: a seed means the same order on every platform and with every version.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

ROUNDS = 6
LARGEST = 1 << 62
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
# Up to here sorting all numbers is as fast, and every order of a few numbers equally likely.
_SORTED = 4096
# What is worked on at once stays in the processor's cache.
_STRIDE = 1 << 14
# The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): shifts, each but the last with the
# number to multiply by next.
_STAGES = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
_STAGES_64 = tuple((np.uint64(shift), np.uint64(factor)) for shift, factor in _STAGES)
_LAST_SHIFT_64 = np.uint64(_LAST_SHIFT)
_HALF_64 = np.uint64(32)
_LOW_64 = np.uint64(0xFFFFFFFF)


@lru_cache(maxsize=1024)
def derive_key(*parts: int) -> int:
    """A 64-bit key out of whole numbers; the same on every platform and Python, for ever.

    Examples
    --------
    >>> derive_key(0, 1) == derive_key(0, 1), derive_key(0, 1) == derive_key(1, 0)
    (True, False)
    """
    key = 0x243F6A8885A308D3
    for part in parts:
        for word in _words(part):
            key = _mix_one(key ^ word) * _GOLDEN + 0x632BE59BD9B4E019 & _MASK
    return _mix_one(key)


def permute(x: np.ndarray, n: int, key: int) -> np.ndarray:
    """Where a keyed bijection on [0, n) sends each of `x`.

    Parameters
    ----------
    x : numpy.ndarray of int64
        Numbers in ``[0, n)``.
    n : int
        Size of the domain, up to 2**62.
    key : int
        64 bits; another key is another bijection.

    Returns
    -------
    numpy.ndarray of int64
        Numbers in ``[0, n)``, distinct for distinct `x`.

    Raises
    ------
    ValueError
        If `n` is out of range, or one of `x` is.

    Notes
    -----
    `ROUNDS` rounds for each number, of which fewer than one in the square root of n walks on.
    Memory is a small multiple of ``x``; nothing of size n is made. A small n is looked up in
    `shuffled` instead.

    Examples
    --------
    >>> sorted(permute(np.arange(10), 10, key=7).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    if not 0 <= n <= LARGEST:
        raise ValueError(f"n must be in [0, 2**62], not {n}")
    x = np.asarray(x)
    if len(x) and not (x.min() >= 0 and x.max() < n):
        raise ValueError(f"x must be in [0, {n}), and is from {x.min()} to {x.max()}")
    if n <= _SORTED:
        return _shuffled_once(n, key)[x]
    y = x.astype(np.uint64)
    for start in range(0, len(y), _STRIDE):
        _walk(y[start : start + _STRIDE], n, _round_keys(key))
    return y.view(np.int64)


def shuffled(n: int, key: int) -> np.ndarray:
    """All of [0, n) in a keyed order, by sorting a hash; for n that fits in memory.

    The low bits of each hash give way to the number itself, so that there are no ties for a
    sort to decide.

    Examples
    --------
    >>> sorted(shuffled(5, key=1).tolist())
    [0, 1, 2, 3, 4]
    """
    numbers = np.arange(n, dtype=np.uint64)
    bits = max(0, n - 1).bit_length()
    low = np.uint64((1 << bits) - 1)
    hashed = mix(numbers * np.uint64(_GOLDEN) + np.uint64(key & _MASK))
    hashed = ((hashed & ~low) | numbers).view(np.int64)
    hashed.sort()
    return hashed & np.int64(low)


@lru_cache(maxsize=64)
def _shuffled_once(n: int, key: int) -> np.ndarray:
    return shuffled(n, key)


def hash_below(x: np.ndarray, n: int, key: int) -> np.ndarray:
    """A keyed hash of each of `x` in [0, n), for n up to 2**32; two may have the same.

    Examples
    --------
    >>> values = hash_below(np.arange(100), 10, key=7)
    >>> int(values.min()), int(values.max())
    (0, 9)
    """
    return _scaled(hashed(x, key), np.uint64(n)).view(np.int64)


def hashed(x: np.ndarray, key: int) -> np.ndarray:
    """A keyed hash of each of `x`, of 64 bits.

    Examples
    --------
    >>> hashed(np.arange(3), key=7).dtype
    dtype('uint64')
    """
    return mix(x.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(key & _MASK))


def _walk(x: np.ndarray, n: int, keys: tuple[np.uint64, ...]) -> None:
    """Send each of `x` along its cycle, in place, to the next number below n."""
    a = math.isqrt(n - 1) + 1
    digits = np.uint64(a), np.uint64(-(-n // a))
    x[:] = _feistel(x, digits, keys)
    outside = np.flatnonzero(x >= n)
    while len(outside):
        x[outside] = _feistel(x[outside], digits, keys)
        outside = outside[x[outside] >= n]


def _feistel(
    x: np.ndarray, digits: tuple[np.uint64, np.uint64], keys: tuple[np.uint64, ...]
) -> np.ndarray:
    a, b = digits
    left = x // b
    right = x - left * b
    for number, key in enumerate(keys):
        if number % 2:
            right = _add_below(right, left ^ key, b)
        else:
            left = _add_below(left, right ^ key, a)
    return left * b + right


def _add_below(digit: np.ndarray, seed: np.ndarray, base: np.uint64) -> np.ndarray:
    """`digit` plus a hash of `seed`, modulo `base`; both digits are below 2**32."""
    total = _scaled(mix(seed), base)
    total += digit
    # Where the sum is below the base, the difference wraps around and is the larger one.
    return np.minimum(total, total - base)


def _scaled(hashed: np.ndarray, base: np.uint64) -> np.ndarray:
    """Hashes scaled to [0, base) by their upper halves, in place.

    That is faster than a division (Lemire, "Fast Random Integer Generation in an Interval", 2019).
    """
    hashed >>= _HALF_64
    hashed *= base
    hashed >>= _HALF_64
    return hashed


@lru_cache(maxsize=64)
def _round_keys(key: int) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(derive_key(key, number)) for number in range(ROUNDS))


def mix(x: np.ndarray, spare: np.ndarray | None = None) -> np.ndarray:
    """Hash each of `x`, in place: a bijection of 64 bits.

    Parameters
    ----------
    x : numpy.ndarray of uint64
        Numbers.
    spare : numpy.ndarray of uint64, optional
        As many, to be overwritten: nothing is allocated then.
    """
    for shift, factor in _STAGES_64:
        x ^= np.right_shift(x, shift, out=spare)
        x *= factor
    x ^= np.right_shift(x, _LAST_SHIFT_64, out=spare)
    return x


def high_half(a: np.ndarray, b: np.ndarray | np.uint64) -> np.ndarray:
    """The upper 64 bits of products of 128."""
    a_low, a_high, b_low, b_high = a & _LOW_64, a >> _HALF_64, b & _LOW_64, b >> _HALF_64
    middle = a_high * b_low + ((a_low * b_low) >> _HALF_64)
    carry = (a_low * b_high + (middle & _LOW_64)) >> _HALF_64
    return a_high * b_high + (middle >> _HALF_64) + carry


def _mix_one(x: int) -> int:
    for shift, factor in _STAGES:
        x = (x ^ x >> shift) * factor & _MASK
    return x ^ x >> _LAST_SHIFT


def _words(part: int) -> list[int]:
    """The 64-bit words of a whole number, its sign and length included."""
    size = part.bit_length() // 64 + 1
    return [size, *((part >> 64 * i) & _MASK for i in range(size))]
