# SPDX-License-Identifier: Apache-2.0
"""Recipes to reopen exactly one table: where it is, which branch, which version.

A recipe is plain data. It travels in pickles, without the table that its process has opened, and
never shows a credential in its ``repr``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lancedb.table import Table

from ..common.checks import is_whole, whole_number
from ..common.error_notes import add_note
from ..common.per_process import PerProcess
from ..common.timeout import within
from .blobs import rows_with_blobs
from .dictionaries import Categories
from .identity import Identity, Opened, identify, is_another, known_size, newest_version
from .sources import (
    FactorySource,
    HandleSource,
    MemorySource,
    Source,
    checkout,
    open_at,
)
from .uris import redact

T = TypeVar("T")

_HTTP = re.compile(r"http://[^/@\s)]+(?=[/\s)])")
_MADE_ANEW = (
    "is not the table that the dataset was made from: that one was dropped, and another of the "
    "same name was created in its place. Make the dataset anew to read the new rows. (Created "
    "with mode='overwrite', or changed by add() and delete(), a table keeps its older versions.)"
)


@dataclass(frozen=True)
class Recipe:
    """A recipe to reopen one version of one table, in any process.

    Parameters
    ----------
    source : Source
        Where the table is and how to get there.
    name : str
        The table's name.
    branch : str, optional
        The branch, None for main.
    version : int, optional
        The pinned version; None for the newest where it is opened, of a table that travels by
        value, or that is on a server and was not checked out.
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
            newest = newest_version(table)
            checkout(table, self.name, table.version if self.version is None else self.version)
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
            branched = branch or table.current_branch()
            identity = identify(Opened(table, branched, last))
            pinned = dataclasses.replace(
                newest, branch=branched, version=table.version, identity=identity
            )
            return pinned, table

    return newest.in_time(find)


def as_opened(source: Source, table: Table, at: tuple[int, str | None] | None = None) -> Recipe:
    """As `pin`, of a table that is open, by what its handle knows without a read.

    A table that was dropped and made anew is recognized by another size alone.

    Parameters
    ----------
    source : Source
        How to open it again.
    table : Table
        The open table.
    at : tuple of int and str, optional
        Version and branch, where they are not those of the handle.
    """
    version, branch = at or open_at(table)
    return Recipe(source, table.name, branch, version, identity=None if at else known_size(table))


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
