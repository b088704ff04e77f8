# SPDX-License-Identifier: Apache-2.0
"""Guards of lancedb's runtime, which cannot be used in a process that it came into with a fork.

lancedb calls its support for fork experimental, and it is: in a forked process the runtime may
crash or hang at any read (lancedb 0.38 to 0.40, seen with lancedb alone). Forked processes read
through `fork_reader`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..common.process import PROCESS


class Runtime:
    """The state of lancedb's runtime, also that of a process that this one was forked from."""

    used_in: int | None = None
    is_importing_main = False


def note_use() -> None:
    """Remember that lancedb's runtime is running in this process, or came along with a fork."""
    runtime = PROCESS.part(Runtime)
    runtime.used_in = runtime.used_in or os.getpid()


def came_with_a_fork() -> bool:
    """Whether lancedb's runtime was in use in the process that this one was forked from."""
    return PROCESS.part(Runtime).used_in not in (None, os.getpid())


@contextlib.contextmanager
def importing_main() -> Iterator[None]:
    """Refuse datasets meanwhile: the script that is imported must not begin to train once more."""
    runtime = PROCESS.part(Runtime)
    runtime.is_importing_main = True
    try:
        yield
    finally:
        runtime.is_importing_main = False


def refuse_after_a_fork(begun_in: int) -> None:
    """Raise where an iteration goes on in a fork of the process in which it began.

    Its threads and workers stayed behind, and would be waited for without end.

    Parameters
    ----------
    begun_in : int
        The number of that process.

    Raises
    ------
    RuntimeError
        If this is another one.
    """
    if begun_in != os.getpid():
        raise RuntimeError(
            "this iterator was begun before this process was forked, and what reads for it is in "
            f"process {begun_in}: make a new iterator here, with iter(dataset) or iter(loader)"
        )


def refuse_while_importing_main() -> None:
    """Raise where a process that reads for a forked one imports the script that is running.

    Raises
    ------
    RuntimeError
        If the script makes a dataset whenever it is imported.
    """
    if PROCESS.part(Runtime).is_importing_main:
        raise RuntimeError(
            "connection_factory is defined in the script itself, which has to be imported once "
            "more to read in a forked worker: put what the script does under "
            "if __name__ == '__main__', or the factory into a module of its own"
        )
