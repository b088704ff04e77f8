# SPDX-License-Identifier: Apache-2.0
"""Ways to open a table by name, each good in any process; and branches, versions and tags of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import lancedb
import pyarrow as pa
from lancedb.table import AsyncTable, LanceTable, Table

from ..common.checks import did_you_mean
from ..common.pickling import name_of
from ..frameworks.private import part_of
from .uris import is_local, redact_uri

_MAIN = "main"  # what lancedb calls the branch that handles call None


class Source(Protocol):
    """A way to open a table by name, good in any process."""

    def open(self, name: str, branch: str | None) -> Table: ...

    def describe(self) -> str: ...


@dataclass(frozen=True)
class UriSource:
    """Connects with ``lancedb.connect(uri, **connect_kwargs)``."""

    uri: str = field(repr=False)
    connect_kwargs: dict[str, Any] = field(default_factory=dict, repr=False)

    def open(self, name: str, branch: str | None) -> Table:
        if is_local(self.uri) and not os.path.isdir(self.uri):
            raise FileNotFoundError(
                f"there is no LanceDB database at uri={self.uri!r}; "
                "check the path (a table lives in the folder <uri>/<table_name>.lance)"
            )
        return open_table(self.connect(), name, (), branch)

    def connect(self) -> Any:
        return lancedb.connect(self.uri, **self.connect_kwargs)

    def describe(self) -> str:
        return redact_uri(self.uri)


@dataclass(frozen=True)
class ConnectionSource:
    """Rebuilds the connection a table came from out of lancedb's own serialized form."""

    serialized: str = field(repr=False)
    uri: str = field(repr=False)
    namespace: tuple[str, ...] = ()

    def open(self, name: str, branch: str | None) -> Table:
        return open_table(self.connect(), name, self.namespace, branch)

    def connect(self) -> Any:
        return lancedb.deserialize_conn(self.serialized, for_worker=True)

    def describe(self) -> str:
        return "/".join([redact_uri(self.uri), *self.namespace])


@dataclass(frozen=True)
class HandleSource:
    """Opens a ``memory://`` table beside a handle of it, in this process only; see `portable`.

    A handle's branches are asked for main, since a permutation table's connection opens nothing.
    """

    table: LanceTable = field(repr=False)

    def open(self, name: str, branch: str | None) -> Table:
        return self.table.branches.checkout(branch or _MAIN)

    def describe(self) -> str:
        return "memory://"


@dataclass(frozen=True)
class MemorySource:
    """Carries the rows of a ``memory://`` table by value: no other process can see it."""

    data: pa.Table = field(repr=False)
    schema: pa.Schema = field(repr=False)

    def open(self, name: str, branch: str | None) -> Table:
        return lancedb.connect("memory://").create_table(name, self.data, schema=self.schema)

    def describe(self) -> str:
        return "memory://"


@dataclass(frozen=True)
class FactorySource:
    """Asks a picklable callable for the table, so that no credential is pickled."""

    factory: Callable[[str], Table] = field(repr=False)
    is_main: bool = False  # whatever branch the callable's table is on

    def open(self, name: str, branch: str | None) -> Table:
        table = self.factory(name)
        if not isinstance(table, Table):
            raise TypeError(
                "connection_factory must return a LanceDB table when it is called with the "
                f"table name {name!r}, and returned {type(table).__name__}"
            )
        return on_branch(table, _MAIN if self.is_main else branch)

    def describe(self) -> str:
        return f"connection_factory {name_of(self.factory)}"


def source_of(table: Table) -> Source:
    """The source that opens `table` again; one of a ``memory://`` table has to be made portable."""
    if hasattr(table, "_serialized_connection_state"):  # a remote one, open or not
        state = table._serialized_connection_state()  # type: ignore[attr-defined]
        return ConnectionSource(state, f"db://{table.db_name}", _namespace(table))  # type: ignore[attr-defined]
    if not isinstance(table, LanceTable):
        raise TypeError(
            "table must be a LanceTable, a RemoteTable or a Permutation, "
            f"not {type(table).__name__}; an AsyncTable has to be opened with lancedb.connect"
        )
    if is_in_memory(table):
        return HandleSource(table)
    return ConnectionSource(table._conn.serialize(), _uri_of(table), _namespace(table))


def check_open(table: Table) -> None:
    """Raise if the handle has been closed: it can no longer say what to reopen."""
    handle = getattr(table, "_table", None)
    if isinstance(handle, AsyncTable) and not handle.is_open():
        raise ValueError(
            f"table {table.name!r} is closed; open it again: db.open_table({table.name!r})"
        )


def open_at(table: Table) -> tuple[int | None, str | None]:
    """The version and branch that a handle reads; no server is asked.

    That version is None, the newest, of a table on a server that was not checked out.
    """
    if isinstance(table, LanceTable):
        return table.version, table.current_branch()
    return part_of(table, "_checkout_version"), part_of(table, "_branch")


def asks_anew(table: Table | None) -> bool:
    """Whether a handle looks for newer versions whatever it is asked, also for its version.

    Those do whose connection has a ``read_consistency_interval``.
    """
    return part_of(table, "_conn.read_consistency_interval") is not None


def is_in_memory(table: Table) -> bool:
    """Whether a table is in lancedb's own memory, where no other process sees it."""
    return _uri_of(table).startswith("memory://")


def is_near(table: Table) -> bool:
    """Whether a table is in memory or on a disk; that of a namespace may be on a server."""
    uri = _uri_of(table)
    return is_in_memory(table) or (uri != "" and is_local(uri))


def _uri_of(table: Table) -> str:
    """That of a table's connection; empty where it has none."""
    return str(part_of(table, "_conn.uri", ""))


def on_branch(table: Table, branch: str | None) -> Table:
    """The handle, or one of its branch."""
    if branch is None or (table.current_branch() or _MAIN) == branch:
        return table
    return table.branches.checkout(branch)  # type: ignore[attr-defined]


def open_table(db: Any, name: str, namespace: tuple[str, ...], branch: str | None) -> Table:
    """Open a table of a connection, leaving out the arguments that are not needed."""
    options: dict[str, Any] = {}
    if namespace:
        options["namespace_path"] = list(namespace)
    if branch is not None:
        options["branch"] = branch
    try:
        return db.open_table(name, **options)
    except Exception as error:  # which kind depends on the kind of connection
        if "not found" not in str(error).lower() or branch is not None:
            raise
        raise ValueError(_no_such_table(db, name, namespace)) from error


def _no_such_table(db: Any, name: str, namespace: tuple[str, ...]) -> str:
    uri = getattr(db, "uri", None) or f"db://{getattr(db, 'db_name', '')}"
    message = f"there is no table {name!r} at {redact_uri(str(uri))}"
    try:
        options = {"namespace_path": list(namespace)} if namespace else {}
        known = db.list_tables(**options, limit=1000).tables
    except Exception:  # the names are a courtesy: listing them may not be allowed
        return message
    if str(uri).rstrip("/").endswith(".lance"):
        return f"{message}: that is a table's own folder, and uri names the one around it"
    return f"{message}: {did_you_mean(name.removesuffix('.lance'), known)}"


def checkout(table: Table, name: str, version: int | str) -> None:
    """Put `table` at a version or tag, saying what to do when that version is gone."""
    try:
        table.checkout(version)
    except (ValueError, RuntimeError) as error:
        message = str(error).lower()
        # The last one is of names that no tag can have.
        absent = ("no longer exists", "not found", "ref is invalid")
        if not any(words in message for words in absent):
            raise
        if isinstance(version, str):
            number = f" (the version of that number is version={version})"
            raise ValueError(
                f"version {version!r} of table {name!r} does not exist: there is no such tag"
                f"{number if version.isdecimal() else ''}. "
                "table.tags.list() shows those there are, and "
                f"table.tags.create({version!r}, table.version) makes it"
            ) from error
        raise ValueError(
            f"version {version!r} of table {name!r} does not exist: it was cleaned up, or never "
            "made. A dataset reads the version it was made from; to keep that version through "
            "optimize() or cleanup_old_versions(), tag it first with "
            f"table.tags.create('training', {version!r}), and pass version='training'."
        ) from error


def is_in_object_store(source: Source) -> bool:
    """Whether reading takes requests that are answered late, and many of which may be under way."""
    uri = getattr(source, "uri", "")
    return not is_local(uri) and urlsplit(uri).scheme not in ("db", "memory", "file")


def _namespace(table: Any) -> tuple[str, ...]:
    return tuple(getattr(table, "_namespace_path", None) or ())
