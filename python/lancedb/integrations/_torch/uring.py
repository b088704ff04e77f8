# SPDX-License-Identifier: Apache-2.0
"""Knows whether and how a local table can be read through Linux's io_uring.

Lance reads local files with one system call in one thread for each piece, or, for URIs of the
scheme ``file+uring``, hands many pieces to the kernel at once. Random rows then cost about half
the processor time. Kernels and containers may forbid io_uring, so it is tried before it is used.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from urllib.parse import quote

import lancedb
from lancedb.table import Table

from . import forking
from .recipe import ConnectionSource, Recipe, UriSource, is_local

SWITCH = "LANCEDB_TORCH_IO_URING"

# In lancedb 0.38 a process that is forbidden io_uring hangs, and others may abort as they exit.
_SINCE = (0, 39)

_refused = False


def open_table(recipe: Recipe) -> Table | None:
    """The recipe's table, read through io_uring; None where that cannot be had.

    One row is read, so that a kernel that forbids io_uring is found out here.
    """
    global _refused
    fast = _through_uring(recipe) if _may_be_used() else None
    if fast is None:
        return None
    try:
        table = fast.open()
        table.search().limit(1).to_arrow()
    except Exception as error:  # whatever is wrong, the ordinary way says it better
        _refused = "uring" in str(error).lower()
        return None
    return table


def _may_be_used() -> bool:
    # A forked process has none of the threads that wait for the kernel's answers.
    return (
        sys.platform == "linux"
        and not _refused
        and os.environ.get(SWITCH, "1") != "0"
        and not forking.came_with_a_fork()
        and tuple(map(int, lancedb.__version__.split(".")[:2])) >= _SINCE
    )


def _through_uring(recipe: Recipe) -> Recipe | None:
    """The recipe with the same table's URI for io_uring; None if the table is not on a disk."""
    source = recipe.source
    if not isinstance(source, (UriSource, ConnectionSource)) or not is_local(source.uri):
        return None
    uri = "file+uring://" + quote(os.path.abspath(source.uri))
    if isinstance(source, UriSource):
        return dataclasses.replace(recipe, source=dataclasses.replace(source, uri=uri))
    connection = json.loads(source.serialized)
    if connection.get("connection_type") != "local":
        return None
    serialized = json.dumps({**connection, "uri": uri})
    return dataclasses.replace(
        recipe, source=dataclasses.replace(source, serialized=serialized, uri=uri)
    )
