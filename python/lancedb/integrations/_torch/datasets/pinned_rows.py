# SPDX-License-Identifier: Apache-2.0
"""The rows of a pinned table, and what this process has open of them."""

from __future__ import annotations

import dataclasses
import reprlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrow.origins import Origins
from ..cache.columns import Cache, ColumnCache
from ..cache.directory import CacheSettings
from ..cache.disk import DiskCache, disk_cache
from ..common.error_notes import add_note
from ..common.pickling import check_sendable
from ..frameworks.torch_loader import in_worker
from ..table.arguments import View
from ..table.blobs import LATE
from ..table.handle import LocalRows, opened
from ..table.pylance import expected_reader
from ..table.reader import Reader
from ..table.sample import fingerprint
from ..table.sources import FactorySource
from ..workers.start import begin_worker
from .origins import RandomSeed, origins_of


class PinnedRows:
    """Some rows of one table version, with some of its columns.

    What is pickled is how to reopen the table. The open reader is made at the first read in each
    process.

    Parameters
    ----------
    view : View
        Which rows and columns of which table.
    settings : CacheSettings, optional
        Where they are cached on disk.
    cache : bool or "auto", default False
        Which columns are cached in memory where rows are read by index.
    blobs_are_late : bool, default False
        Whether row ids are read of blobs, whose bytes are fetched for the batches that come next.
    names_blobs : bool, default False
        Whether columns of blobs were asked for by name, so that they are cached on disk, too.

    Attributes
    ----------
    here : Reader or None
        This process's, once it has made one.
    """

    def __init__(
        self,
        view: View,
        settings: CacheSettings | None = None,
        *,
        cache: Cache = False,
        blobs_are_late: bool = False,
        names_blobs: bool = False,
    ):
        self.view = view
        self.settings = settings
        self.disk: DiskCache | None = None
        self._columns = ColumnCache(cache)
        self._blobs_are_late = blobs_are_late
        self.here: Reader | None = None
        self._data: dict[str, Any] | None = None
        self._categories: dict[str, list[Any]] | None = None
        if settings is not None:
            whole = Reader(view.recipe, view.selection, view.columns)
            self.disk = disk_cache(settings, whole, names_blobs)

    def __getstate__(self) -> dict[str, Any]:
        of_this_process = dict.fromkeys(("here", "_categories"))
        return {**self.__dict__, "view": sent_view(self.view), **of_this_process}

    @property
    def parts(self) -> list[PinnedRows]:
        """These, as one of those that are joined."""
        return [self]

    @property
    def table_name(self) -> str:
        """The table's name."""
        return self.view.recipe.name

    @property
    def version(self) -> int | None:
        """The version that is read; None for a ``memory://`` table."""
        return self.view.recipe.version

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return self.view.selection.num_rows

    def read_schema(self) -> pa.Schema:
        """The schema of what a reader reads; opens one where that is not known."""
        return self.view.schema if self.view.schema is not None else self.reader().schema

    @property
    def column_names(self) -> list[str]:
        """The names of the columns."""
        return list(self.view.columns)

    @property
    def cache(self) -> Cache:
        """Whether columns are cached in memory."""
        return self._columns.cache

    def read_categories(self) -> dict[str, list[Any]] | None:
        """The values of each dictionary column in the order of their codes; None without codes.

        They are read once in each process.
        """
        recipe = self.view.recipe
        known = recipe.categories
        if known is None:
            return None
        if self._categories is None:
            values = recipe.in_time(lambda: known.of(opened(recipe).table))
            self._categories = {
                name: values[column].to_pylist()
                for name, column in self.view.columns.items()
                if column in values
            }
        return self._categories

    def describe(self) -> dict[str, Any]:
        """Which rows of which table version these are, for a state; found out once."""
        if self._data is None:
            recipe, selection = self.view.recipe, self.view.selection
            self._data = {
                "table": recipe.name,
                "branch": recipe.branch,
                "version": recipe.version,
                "selection": selection.describe(),
                "fingerprint": fingerprint(recipe, selection),
            }
        return self._data

    @property
    def reads_by(self) -> str:
        """What finds rows, or is expected to until a reader is open."""
        if self.here is not None and self.here.is_open:
            return self.here.handle().reads_by
        return expected_reader(self.view.recipe)

    def reader(self) -> Reader:
        """This process's reader, opened."""
        if in_worker():  # a forked one has its parent's reader
            begin_worker()
        if self.here is None:
            self.here = self.new_reader(self.disk)
        return self.here.open()

    def new_reader(self, local: LocalRows | None = None) -> Reader:
        """A reader, not opened yet, that finds some rows without the table."""
        view = self.view
        recipe = view.recipe
        if self._blobs_are_late and recipe.blobs == "bytes":
            recipe = dataclasses.replace(recipe, blobs=LATE)
        return Reader(recipe, view.selection, view.columns, local)

    def begin(self, rows: np.ndarray) -> Callable[[], pa.RecordBatch]:
        """Begin to read some by their place; what is returned waits for them."""
        if self.disk is not None:
            self.disk.fill()
        return self._columns.begin(self.reader(), rows)

    def take_counts(self) -> Counter[str]:
        """Bytes that were read, or came out of a cache, since the last call."""
        return self._columns.take_counts()

    def offsets(self, rows: np.ndarray) -> np.ndarray:
        """Where some stand in the table version that is read."""
        return self.view.selection.offsets(rows)

    def origins(self, rows: np.ndarray, random: RandomSeed | None, source: str = "") -> Origins:
        """Where some come from."""
        return origins_of(self.view.selection, rows, random, source)

    def note(self, error: Exception, doing: str, rows: np.ndarray) -> None:
        """Have an error's traceback say which of them it came from."""
        offsets = self.offsets(rows[:8]).tolist()
        more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
        add_note(error, f"{doing}: rows {offsets}{more} of {self.view.recipe.describe()}")

    def described(self) -> list[str]:
        """Which these are, in words."""
        return [
            self.view.recipe.describe(),
            f"rows={self.num_rows} ({self.view.selection.describe()})",
            f"columns={reprlib.repr(self.column_names)}",
        ]


def sent_view(view: View) -> View:
    """A view as it travels to another process: without the schema, which is read there.

    Raises
    ------
    TypeError
        If its table cannot be opened there.
    """
    if isinstance(view.recipe.source, FactorySource):
        check_sendable("connection_factory", view.recipe.source.factory)
    # A reader of blobs may read row ids, and says nothing of what they become.
    return view if view.blobs else dataclasses.replace(view, schema=None)
