# SPDX-License-Identifier: Apache-2.0
"""Identities, which distinguish a table from another of the same name, version, schema and size.

A table that was dropped and created again begins with version 1 once more, so that a version
number alone opens whatever has been put in its place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import lancedb
from lancedb.table import LanceTable, Table

from .sources import asks_anew

# lancedb finds out when a version was made by reading the manifests of all there are, one after
# the other. Where these are requests to a store, so many are worth the certainty.
_MOST_RECORDED = 16
_MOST_CHECKED = 64


class Identity(NamedTuple):
    """The identity of an open table version.

    Parameters
    ----------
    kind : str
        What `value` is of; values of one kind can be compared.
    value : str
        The same in every process, for this version and for a copy of its files.
    """

    kind: str
    value: str


class Opened(NamedTuple):
    """An open table whose identity is looked for.

    Parameters
    ----------
    table : Table
        Checked out at the version that is meant.
    branch : str, optional
        The branch it is on, None for main.
    newest : int
        The newest version of that branch, which says how much there is to look through.
    """

    table: Table
    branch: str | None
    newest: int


def newest_version(table: Table) -> int:
    """The newest version of a table just opened, for `Opened`; a server is not asked."""
    return table.version if isinstance(table, LanceTable) else 0


def identify(opened: Opened) -> Identity | None:
    """The identity of an open version; None if none can be found."""
    if not isinstance(opened.table, LanceTable) or urlsplit(opened.table.uri).scheme == "memory":
        return None
    found = ((kind, find(opened, _MOST_RECORDED)) for kind, find in _KINDS.items())
    return next((Identity(kind, value) for kind, value in found if value is not None), None)


def known_size(table: Table) -> Identity | None:
    """The identity of an open table by its size alone, without the reads of `identify`."""
    if not isinstance(table, LanceTable) or asks_anew(table):
        return None
    return Identity(_SIZE, _size(table))


def is_another(opened: Opened, recorded: Identity | None) -> bool:
    """Whether a table, opened by the name and version of a recorded one, is not that table."""
    find = _KINDS.get(recorded.kind) if recorded is not None else None
    if find is None or recorded is None or not isinstance(opened.table, LanceTable):
        return False
    return find(opened, _MOST_CHECKED) not in (None, recorded.value)


def _manifest(opened: Opened, most: int) -> str | None:
    """A digest of the version's manifest on a disk, which names transaction and files by UUIDs."""
    path = _local_path(opened.table.uri)  # type: ignore[attr-defined]
    if path is None:
        return None
    parts = ["tree", *opened.branch.split("/")] if opened.branch else []
    version = opened.table.version
    for name in (f"{2**64 - 1 - version:020}.manifest", f"{version}.manifest"):
        try:
            with open(os.path.join(path, *parts, "_versions", name), "rb") as file:
                return hashlib.sha256(file.read()).hexdigest()[:16]
        except OSError:
            continue
    return None


def _time_made(opened: Opened, most: int) -> str | None:
    """When the version was made, to a microsecond, if there are at most so many to look through."""
    if opened.newest > most:
        return None
    version, known = opened.table.version, opened.table.list_versions()
    made = (each["timestamp"] for each in known if each["version"] == version)
    return next((str(time.timestamp()) for time in made), None)


def _size(table: LanceTable) -> str:
    """Rows, bytes and fragments. An equal size says little, and another one all."""
    stats: Any = table.stats()  # a dict, whatever it is declared as
    return f"{stats['num_rows']} {stats['total_bytes']} {stats['fragment_stats']['num_fragments']}"


# What is counted as a table's bytes is lancedb's choice.
_SIZE = f"size in lancedb {lancedb.__version__}"
_KINDS: dict[str, Callable[[Opened, int], str | None]] = {
    "manifest": _manifest,
    "time made": _time_made,
    _SIZE: lambda opened, most: _size(opened.table),  # type: ignore[arg-type]
}


def _local_path(uri: str) -> str | None:
    """The folder of a table on a disk of this machine."""
    parts = urlsplit(uri)
    if len(parts.scheme) <= 1:  # a Windows drive letter is no scheme
        return uri
    return unquote(parts.path) if parts.scheme in ("file", "file+uring") else None
