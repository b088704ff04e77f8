# SPDX-License-Identifier: Apache-2.0
"""Local tables read through Linux's io_uring, where that is permitted.

Lance reads local files with one system call in one thread for each piece, or, for URIs of the
scheme ``file+uring``, gives many pieces to the kernel at once. Random rows then cost about half
the processor time. Kernels and containers may forbid io_uring, so it is tried before it is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import json
import os
import sys
from urllib.parse import quote

import lancedb
from lancedb.table import LanceTable, Table

from ..common.process import PROCESS
from . import fork_guard as forking
from .recipe import Recipe
from .sources import ConnectionSource, UriSource, on_branch
from .uris import is_local

SWITCH = "LANCEDB_TORCH_IO_URING"

# In lancedb 0.38 a process that is forbidden io_uring hangs, and others may abort as they exit.
_SINCE = (0, 39)

_DEPTH = "LANCE_URING_QUEUE_DEPTH"
_SETUP = 425  # the system call io_uring_setup, on every architecture of today
# Processes that may find this out at the same time: the memory that they may lock is shared.
_AT_ONCE = 4


class Uring:
    """The state of io_uring in this process."""

    is_refused = False


def open_table(recipe: Recipe) -> Table | None:
    """The recipe's table, read through io_uring; None where that cannot be had.

    One row is read, so that what the kernel refuses later is found out here.
    """
    fast = _through_uring(recipe) if _may_be_used() else None
    if fast is None:
        return None
    try:
        table = fast.open()
        table.search().limit(1).to_arrow()
    except Exception as error:  # whatever is wrong, the ordinary way says it better
        PROCESS.part(Uring).is_refused = "uring" in str(error).lower()
        return None
    return table


def _may_be_used() -> bool:
    # A forked process has none of the threads that wait for the kernel's answers.
    return (
        sys.platform == "linux"
        and not PROCESS.part(Uring).is_refused
        and os.environ.get(SWITCH, "1") != "0"
        and not forking.came_with_a_fork()
        and tuple(map(int, lancedb.__version__.split(".")[:2])) >= _SINCE
        and _kernel_permits()
    )


@functools.cache
def _kernel_permits() -> bool:
    """Whether this process may make rings such as Lance makes, which it would log if it fails."""
    threads, depth = _setting("LANCE_URING_THREAD_COUNT", 2), _setting(_DEPTH, 16 * 1024)
    with contextlib.ExitStack() as made:
        for _ in range(threads * _AT_ONCE):
            ring = ctypes.CDLL(None).syscall(_SETUP, depth, ctypes.create_string_buffer(120))
            if ring < 0:
                return False
            made.callback(os.close, ring)
    return True


def _setting(variable: str, default: int) -> int:
    """A number that Lance reads from the environment."""
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else default


def _through_uring(recipe: Recipe) -> Recipe | None:
    """The recipe by the same table's location for io_uring; None if it is not on a disk."""
    source = recipe.source
    if not isinstance(source, (UriSource, ConnectionSource)) or not is_local(source.uri):
        return None
    if isinstance(source, ConnectionSource):
        kind = json.loads(source.serialized).get("connection_type")
        if kind != "local" or source.namespace:
            return None
    return dataclasses.replace(recipe, source=UringSource(source))


@dataclasses.dataclass(frozen=True)
class UringSource:
    """Opens a table of a local connection by its location.

    A connection to the database by such a URI would do as well, but lancedb makes folders for
    it, named like the URI, in the folder it is called from.
    """

    plain: UriSource | ConnectionSource

    def open(self, name: str, branch: str | None) -> Table:
        folder = quote(os.path.abspath(self.plain.uri))
        location = f"file+uring://{folder}/{quote(name)}.lance"
        return on_branch(LanceTable(self.plain.connect(), name, location=location), branch)

    def describe(self) -> str:
        return self.plain.describe()
