# SPDX-License-Identifier: Apache-2.0
"""The state of this process: threads that it shares, locks that it holds, what it has said."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Process:
    """The parts that modules have for this process, one of each kind.

    A kind may have a method ``at_exit``, which is called before the interpreter exits, and one
    ``in_child``, which is called in a process that was forked off this one; the last part that was
    made comes first.

    Examples
    --------
    >>> class Said(set):
    ...     '''What was warned of.'''
    >>> process = Process()
    >>> process.part(Said).add("the disk is full")
    >>> process.part(Said)
    Said({'the disk is full'})
    """

    def __init__(self) -> None:
        self._parts: dict[Callable[[], Any], Any] = {}

    def part(self, kind: Callable[[], T]) -> T:
        """The one of a kind, made where it is first asked for."""
        found = self._parts.get(kind)
        # Threads that make one at the same time are given the same one.
        return self._parts.setdefault(kind, kind()) if found is None else found

    def replace(self, part: Any) -> None:
        """Have another one of its kind from now on."""
        self._parts[type(part)] = part

    def call(self, name: str) -> None:
        """Call a method of all parts that have it."""
        for part in reversed(list(self._parts.values())):
            getattr(part, name, _nothing)()


def _nothing() -> None:
    """In place of a method that a part does not have."""


PROCESS = Process()
atexit.register(PROCESS.call, "at_exit")
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: PROCESS.call("in_child"))
