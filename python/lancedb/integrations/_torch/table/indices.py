# SPDX-License-Identifier: Apache-2.0
"""Row indices in all forms that users write, and the rows that they mean."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np


def normalize_indices(indices: Any, length: int) -> np.ndarray:
    """Rows in ``[0, length)`` for anything that names them.

    Parameters
    ----------
    indices : int sequence, range, slice, numpy array or torch tensor
        Duplicates are kept; negatives count from the end.
    length : int
        How many rows there are.

    Returns
    -------
    numpy.ndarray of int64, shape (n,)

    Raises
    ------
    IndexError
        If an index is out of range; the message names it and the length.
    TypeError
        If an index is a float, a bool or anything else that is no whole number.

    Examples
    --------
    >>> normalize_indices([0, -1, 2], 5).tolist()
    [0, 4, 2]
    >>> normalize_indices(slice(1, None, 2), 6).tolist()
    [1, 3, 5]
    """
    if isinstance(indices, slice):
        return np.arange(length, dtype=np.int64)[indices]
    if isinstance(indices, range):
        _check_ends(indices, length)
        values = _of_range(indices)
    else:
        values = _as_integers(indices)
    if len(values) and values.min() >= 0 and values.max() < length:
        return values.astype(np.int64)  # a copy: the caller may use his array again
    outside = (values < -length) | (values >= length)
    if outside.any():
        raise _out_of_range(int(values[outside][0]), length)
    values = values.astype(np.int64, copy=False)
    return np.where(values < 0, values + length, values)


def distinct(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The distinct offsets, ascending, and where in them each one asked for stands.

    The second is None if `offsets` are ascending and distinct already.
    """
    if (np.diff(offsets) > 0).all():
        return offsets, None
    order = sorting(offsets)
    ascending = offsets[order]
    new = np.diff(ascending, prepend=ascending[0] - 1) > 0
    places = np.empty(len(offsets), np.int64)
    places[order] = np.cumsum(new) - 1
    return ascending[new], places


def sorting(numbers: np.ndarray) -> np.ndarray:
    """The order of ascending numbers, in a quarter of `numpy.argsort`'s time if they are close.

    Examples
    --------
    >>> sorting(np.array([7, 2**40, 7, -3])).tolist()
    [3, 0, 2, 1]
    """
    above = numbers - numbers.min()
    if above.max() >> 32:
        return np.argsort(numbers, kind="stable")
    # Numbers of 16 bits are sorted by counting.
    order = np.argsort(above.astype(np.uint16), kind="stable")
    return order[np.argsort((above >> 16).astype(np.uint16)[order], kind="stable")]


def _as_integers(indices: Any) -> np.ndarray:
    if isinstance(indices, (str, bytes)):
        raise TypeError(f"indices must be whole numbers, not {indices!r}")
    if not isinstance(indices, np.ndarray) and hasattr(indices, "detach"):
        indices = indices.detach().cpu().numpy()
    if not isinstance(indices, np.ndarray):
        return _from_iterable(indices)
    if indices.ndim != 1:
        raise TypeError(f"indices must have one dimension, not shape {indices.shape}")
    if indices.size == 0:
        return np.zeros(0, np.int64)
    if indices.dtype.kind == "O":
        return _from_iterable(indices.tolist())
    if indices.dtype.kind not in "iu":
        hint = "; numpy.flatnonzero(mask) is those of a mask" if indices.dtype == bool else ""
        raise TypeError(
            f"indices must be whole numbers, not {indices.dtype} such as {indices[0]}{hint}"
        )
    return indices


def _from_iterable(indices: Iterable[Any]) -> np.ndarray:
    if not isinstance(indices, Iterable):
        raise TypeError(f"indices must be a sequence of whole numbers, not {indices!r}")
    values = indices if isinstance(indices, (list, tuple)) else list(indices)
    kinds = set(map(type, values))
    for kind in kinds:
        if issubclass(kind, (bool, np.bool_)) or not hasattr(kind, "__index__"):
            wrong = next(value for value in values if type(value) is kind)
            raise TypeError(f"indices must be whole numbers, not {wrong!r} ({kind.__name__})")
    numbers = values if kinds == {int} else [operator.index(value) for value in values]
    try:
        return np.array(numbers, dtype=np.int64)
    except OverflowError:
        return np.array(numbers, dtype=object)


def _of_range(indices: range) -> np.ndarray:
    """A range whose ends are row numbers; where it stops, or its step, may be beyond 64 bits."""
    if len(indices) < 2:
        return np.array(list(indices), dtype=np.int64)
    beyond = 1 if indices.step > 0 else -1
    return np.arange(indices[0], indices[-1] + beyond, indices.step, dtype=np.int64)


def _check_ends(indices: range, length: int) -> None:
    for end in (indices[0], indices[-1]) if indices else ():
        if not -length <= end < length:
            raise _out_of_range(end, length)


def _out_of_range(index: int, length: int) -> IndexError:
    try:
        return IndexError(f"index {index} is out of range for {length} rows")
    except ValueError:  # a number of more digits than Python prints
        return IndexError(
            f"an index of {index.bit_length()} bits is out of range for {length} rows"
        )
