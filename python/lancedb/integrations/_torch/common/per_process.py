# SPDX-License-Identifier: Apache-2.0
"""A value that each process makes for itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value that is made where it is first asked for, and anew in every other process.

    It never travels: a forked process does not see its parent's, and a pickle has none.

    Examples
    --------
    >>> squares = PerProcess()
    >>> squares.get(lambda: [0, 1, 4])
    [0, 1, 4]
    >>> squares.get(lambda: [])
    [0, 1, 4]
    """

    def __init__(self) -> None:
        self._of: dict[int, T] = {}  # with its parent's in a forked process, which leaves it alone

    @property
    def known(self) -> T | None:
        """This process's value; None if it has not made one."""
        return self._of.get(os.getpid())

    def get(self, make: Callable[[], T], is_good: Callable[[T], bool] = lambda _: True) -> T:
        """This process's value, made if there is none that is good.

        Threads that make one at the same time are given the same one.
        """
        value = self.known
        if value is None:
            return self._of.setdefault(os.getpid(), make())
        if not is_good(value):
            value = self._of[os.getpid()] = make()
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return PerProcess, ()
