# SPDX-License-Identifier: Apache-2.0
"""How to reopen exactly one table: where it is, which branch, which version.

A recipe is plain data. It travels in pickles, without the table that its process has opened, and
never shows a credential in its ``repr``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import lancedb
import pyarrow as pa
from lancedb.table import AsyncTable, LanceTable, Table

from ..common.checks import did_you_mean, is_whole, whole_number
from ..common.error_notes import add_note
from ..common.per_process import PerProcess
from ..common.pickling import name_of
from ..common.timeout import within
from .blobs import rows_with_blobs
from .dictionaries import Categories
from .identity import Identity, Opened, identify, is_another, newest_version

T = TypeVar("T")

_MAIN = "main"  # what lancedb calls the branch that handles call None
_HTTP = re.compile(r"http://[^/@\s)]+(?=[/\s)])")
_MADE_ANEW = (
    "is not the table that the dataset was made from: that one was dropped, and another of the "
    "same name was created in its place. Make the dataset anew to read the new rows. (Created "
    "with mode='overwrite', or changed by add() and delete(), a table keeps its older versions.)"
)


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


@dataclass(frozen=True)
class Recipe:
    """How to reopen one version of one table, in any process.

    Parameters
    ----------
    source : Source
        Where the table is and how to get there.
    name : str
        The table's name.
    branch : str, optional
        The branch, None for main.
    version : int, optional
        The pinned version; None only for a table that travels by value.
    timeout : float, optional
        Seconds to wait until it is open, and for each read; None for no limit.
    identity : Identity, optional
        What the pinned version is known by, if that could be found out.
    blobs : str, default "bytes"
        What is read of blob columns: one of `blobs.BLOBS`, or `blobs.LATE`.
    categories : Categories, optional
        Of dictionary columns that are read as codes; None if they are read as values.
    opened : PerProcess
        The table as this process has opened it, for all that reads it; see `handle.opened`.
    """

    source: Source
    name: str
    branch: str | None = None
    version: int | None = None
    timeout: float | None = None
    identity: Identity | None = None
    blobs: str = "bytes"
    categories: Categories | None = field(default=None, repr=False, compare=False)
    opened: PerProcess[Any] = field(default_factory=PerProcess, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "opened"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, opened=PerProcess())

    def open(self) -> Table:
        """Open a handle of its own, pinned to the version, for this process; see `in_time`.

        Raises
        ------
        RuntimeError
            If another table has taken the place of the one that was pinned.
        """
        with naming(self):
            table = self.source.open(self.name, self.branch)
            if self.version is not None:
                newest = newest_version(table)
                checkout(table, self.name, self.version)
                if is_another(Opened(table, self.branch, newest), self.identity):
                    raise RuntimeError(f"{self.describe()} {_MADE_ANEW}")
        return table

    def in_time(self, open: Callable[[], T]) -> T:
        """What `open` returns, for which lancedb has to ask the storage.

        Raises
        ------
        RuntimeError
            If that takes too long. lancedb goes on trying for as long as it does.
        """
        return within(
            self.timeout,
            open,
            late=lambda: f"opening {self.describe()} failed: not opened within {self.limit()}",
        )

    def limit(self) -> str:
        """The timeout in words for messages, and what to do about it."""
        return (
            f"{self.timeout:g} seconds, the dataset's read_timeout (a larger one waits longer, "
            "None for as long as lancedb tries)"
        )

    def describe(self) -> str:
        """The table and its version in words for messages; never a credential."""
        branch = f", branch {self.branch!r}" if self.branch else ""
        version = f", version {self.version}" if self.version is not None else ""
        return f"table {self.name!r}{branch}{version} at {self.source.describe()}"


@contextlib.contextmanager
def naming(recipe: Recipe) -> Iterator[None]:
    """Have what fails while a table is opened say which table that is.

    Raises
    ------
    RuntimeError
        In place of a storage's or server's error that does not name the table.
    """
    try:
        yield
    except Exception as error:  # a namespace's and a server's errors are of many kinds
        if isinstance(recipe.source, FactorySource):  # what a factory raises is the user's
            add_note(error, f"while opening {recipe.describe()}")
            raise
        if isinstance(error, (TypeError, FileNotFoundError)):
            raise
        message = redact(_plain(str(error)), getattr(recipe.source, "uri", ""))
        open_about_it = message == str(error)
        if repr(recipe.name) in message and open_about_it:
            raise
        cause = error if open_about_it else None
        raise RuntimeError(f"opening {recipe.describe()} failed: {message}") from cause


def _plain(message: str) -> str:
    """Somebody's message, or what to do, where that is known and the message does not say it."""
    if "BadScheme" not in message:
        return message
    address = _HTTP.search(message)
    return (
        f"the store's endpoint{f' {address[0]}' if address else ''} is not https, and plain http "
        'has to be allowed: connect_kwargs={"storage_options": {"allow_http": "true", ...}}, or '
        'lancedb.connect(uri, storage_options={"allow_http": "true", ...}), or AWS_ALLOW_HTTP=true '
        "in the environment"
    )


def pin(
    source: Source,
    name: str,
    branch: str | None,
    version: int | str | None,
    timeout: float | None = None,
) -> tuple[Recipe, Table]:
    """Open the table, resolve `version` (number, tag or None for the newest) and pin it.

    Returns
    -------
    recipe : Recipe
        How to open that version again.
    table : Table
        A handle of it, checked out.

    Raises
    ------
    ValueError
        If there is no such table, version or tag.
    """
    if version is not None and not isinstance(version, str):
        error = ValueError if is_whole(version) else TypeError
        version = whole_number("version", version, 1, or_else="a tag, or ", error=error)
    newest = Recipe(source, name, branch, timeout=timeout)

    def find() -> tuple[Recipe, Table]:
        with naming(newest):
            table = source.open(name, branch)
            last = newest_version(table)
            checkout(table, name, table.version if version is None else version)
            branched = branch or current_branch(table)
            identity = identify(Opened(table, branched, last))
            pinned = dataclasses.replace(
                newest, branch=branched, version=table.version, identity=identity
            )
            return pinned, table

    return newest.in_time(find)


def as_opened(source: Source, table: Table, branch: str | None, version: Any) -> Recipe:
    """As `pin`, of a table that is open at that version: what a store would be asked is left out.

    So a table in a store that is dropped and made anew is not told from this one.
    """
    on_disk = is_local(getattr(source, "uri", "memory://"))
    identity = identify(Opened(table, branch, newest_version(table))) if on_disk else None
    return Recipe(source, table.name, branch, version, identity=identity)


def portable(recipe: Recipe, table: Table) -> Recipe:
    """The recipe for any process: a ``memory://`` table, as `table` has it, travels by value."""
    if isinstance(recipe.source, HandleSource):
        return Recipe(
            MemorySource(rows_with_blobs(table), table.schema),
            recipe.name,
            timeout=recipe.timeout,
            blobs=recipe.blobs,
            categories=recipe.categories,
        )
    return recipe


def source_of(table: Table) -> Source:
    """The source that opens `table` again; one of a ``memory://`` table has to be made portable."""
    ensure_open = getattr(table, "_ensure_open", None)
    if ensure_open is not None:  # a remote table reopens itself after a fork
        ensure_open()
        state = table._serialized_connection_state()  # type: ignore[attr-defined]
        return ConnectionSource(state, f"db://{table.db_name}", _namespace(table))  # type: ignore[attr-defined]
    if not isinstance(table, LanceTable):
        raise TypeError(
            "table must be a LanceTable, a RemoteTable or a Permutation, "
            f"not {type(table).__name__}; an AsyncTable has to be opened with lancedb.connect"
        )
    connection = table._conn
    uri = str(getattr(connection, "uri", ""))
    if uri.startswith("memory://"):
        return HandleSource(table)
    return ConnectionSource(connection.serialize(), uri, _namespace(table))


def check_open(table: Table) -> None:
    """Raise if the handle has been closed: it can no longer say what to reopen."""
    handle = getattr(table, "_table", None)
    if isinstance(handle, AsyncTable) and not handle.is_open():
        raise ValueError(
            f"table {table.name!r} is closed; open it again: db.open_table({table.name!r})"
        )


def current_branch(table: Table) -> str | None:
    """The branch a handle is scoped to, None for main."""
    branch = getattr(table, "current_branch", None)
    return branch() if branch is not None else None


def on_branch(table: Table, branch: str | None) -> Table:
    """The handle, or one of its branch."""
    if branch is None or (current_branch(table) or _MAIN) == branch:
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


def is_local(uri: str) -> bool:
    """Whether a URI is a path on this machine (a Windows drive letter is no scheme)."""
    return len(urlsplit(uri).scheme) <= 1


def is_in_object_store(source: Source) -> bool:
    """Whether reading takes requests that are answered late, and many of which may be under way."""
    uri = getattr(source, "uri", "")
    return not is_local(uri) and urlsplit(uri).scheme not in ("db", "memory", "file")


def normalize_uri(uri: Any) -> str:
    """A URI that means the same in every process: local paths become absolute."""
    text = os.fspath(uri)
    for prefix in ("file://", "file:"):
        if text.startswith(prefix):
            text = text[len(prefix) :]
            break
    return os.path.abspath(os.path.expanduser(text)) if is_local(text) else text


def redact_uri(uri: str) -> str:
    """`uri` without user, password and query, where credentials hide."""
    if is_local(uri):
        return uri
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def redact(message: str, uri: str) -> str:
    """Somebody's message about `uri`, without what `redact_uri` leaves out."""
    parts = urlsplit(uri)
    for hidden in (parts.netloc.rpartition("@")[0], parts.password, parts.query, parts.fragment):
        if hidden and not is_local(uri):
            message = message.replace(hidden, "...")
    return message


def _namespace(table: Any) -> tuple[str, ...]:
    return tuple(getattr(table, "_namespace_path", None) or ())
