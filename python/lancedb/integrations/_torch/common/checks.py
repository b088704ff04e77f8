# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments, which say in one way what is wrong and what to do."""

from __future__ import annotations

import difflib
import numbers
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_LISTED = 20  # names at most
_ALIKE = 0.65  # by difflib's measure, by which "limit" is 0.6 like "split"


def is_whole(value: Any) -> bool:
    """Whether a value is an integer of Python's or numpy's; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def whole_number(
    name: str,
    value: Any,
    low: int | None = None,
    high: int | None = None,
    *,
    or_else: str = "",
    error: type[Exception] = ValueError,
) -> int:
    """`value` as an int, if it is a whole number within bounds.

    Parameters
    ----------
    name : str
        What the user calls it.
    value : any
        What the user gave.
    low, high : int, optional
        The least and the largest that it may be.
    or_else : str, optional
        What else it may be, for the message: the caller has seen that it is not.
    error : type of Exception, default ValueError
        What is raised.

    Raises
    ------
    Exception
        Of that type, naming the argument, what it may be, and what it is.

    Examples
    --------
    >>> whole_number("batch_size", 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: batch_size must be a whole number from 1 on, not 0
    """
    above = low is None or (is_whole(value) and value >= low)
    below = high is None or (is_whole(value) and value <= high)
    if is_whole(value) and above and below:
        return int(value)
    upper = " on" if high is None else f" to {high}"
    bounds = "" if low is None else f" from {low}{upper}"
    raise error(f"{name} must be {or_else}a whole number{bounds}, not {shown(value)}")


def one_of(
    name: str,
    value: Any,
    choices: Sequence[Any],
    *,
    or_else: str = "",
) -> Any:
    """The one of `choices` that `value` equals.

    Examples
    --------
    >>> one_of("blobs", "byte", ["bytes", "descriptor"])
    Traceback (most recent call last):
    ...
    ValueError: blobs must be one of 'bytes', 'descriptor', not 'byte': did you mean 'bytes'?
    """
    is_plain = isinstance(value, (bool, int, str, np.bool_))
    known = [each for each in choices if is_plain and each == value]
    if known or (value is None and None in choices):
        return known[0] if known else None
    listed = ", ".join(map(repr, choices))
    near = did_you_mean(value, [each for each in choices if isinstance(each, str)], "")
    hint = f": {near}" if near else ""
    raise ValueError(f"{name} must be one of {listed}{or_else}, not {shown(value)}{hint}")


def did_you_mean(name: Any, known: Iterable[Any], otherwise: str | None = None) -> str:
    """Which of the known names a user may have meant.

    Parameters
    ----------
    name : str
        What is not known.
    known : iterable of str
        The names there are.
    otherwise : str, optional
        What to say if none is like it; default: which there are.

    Examples
    --------
    >>> did_you_mean("lable", ["image", "label"])
    "did you mean 'label'?"
    >>> did_you_mean("x", ["image", "label"])
    "there are 'image', 'label'"
    """
    names = [str(each) for each in known]
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=_ALIKE)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    if otherwise is not None:
        return otherwise
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"there are {', '.join(map(repr, names[:_LISTED]))}{more}" if names else "there are none"


def shown(value: Any) -> str:
    """`value` for a message: cut short, as it may be nested deeply or be of megabytes."""
    try:
        return repr(value) if isinstance(value, str) and len(value) < 100 else reprlib.repr(value)
    except ValueError:  # a number of more digits than Python prints
        return f"a {type(value).__name__} too long to print"
