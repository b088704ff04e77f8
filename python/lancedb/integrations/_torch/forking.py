# SPDX-License-Identifier: Apache-2.0
"""Knows how to keep lancedb's runtime alive in forked processes.

lancedb calls its support for fork experimental, and it is: a forked process in which the runtime
has its first concurrent reads crashes or hangs about every other time (lancedb 0.38 to 0.40, seen
with lancedb alone). It does neither if the parent has had concurrent reads before the fork and the
child has one read under way at a time; what is left is rare, and rarer where the runtime's threads
were asleep at the moment of the fork.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .reader import Reader

_READS, _ROUNDS = 8, 4
_SETTLED_WITHIN, _LOOKS = 0.2, 3
_used_in: int | None = None
_prepared_in: int | None = None


def note_use() -> None:
    """Remember that lancedb's runtime is running in this process, or came along with a fork."""
    global _used_in
    if _used_in is None:
        _used_in = os.getpid()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=settle)


def came_with_a_fork() -> bool:
    """Whether lancedb's runtime was in use in the process that this one was forked from."""
    return _used_in not in (None, os.getpid())


def reads_at_once(wanted: int) -> int:
    """How many reads this process may have under way."""
    return 1 if came_with_a_fork() else wanted


def prepare(reader: Reader) -> None:
    """Have some concurrent reads now, so that processes forked later need not; once a process."""
    global _prepared_in
    rows = min(reader.selection.num_rows, _READS)
    if rows == 0 or came_with_a_fork() or _prepared_in == os.getpid() or not hasattr(os, "fork"):
        return
    _prepared_in = os.getpid()
    for _ in range(_ROUNDS):
        for reading in [reader.begin(np.array([row % rows])) for row in range(_READS)]:
            reading.rows()


def settle() -> None:
    """Wait, for 0.2 s at most, until every thread of lancedb's runtime sleeps."""
    if came_with_a_fork():
        return
    until = time.monotonic() + _SETTLED_WITHIN
    quiet = 0
    while quiet < _LOOKS and time.monotonic() < until:
        quiet = quiet + 1 if _runtime_sleeps() else 0
        time.sleep(0.0005)


def _runtime_sleeps() -> bool:
    """Whether no thread named as lancedb's is running; true where that cannot be seen."""
    for task in Path("/proc/self/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has ended
            name, _, rest = task.read_text().partition("(")[2].rpartition(")")
            if name.startswith("lance") and rest.split()[0] != "S":
                return False
    return True
