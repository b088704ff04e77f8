# SPDX-License-Identifier: Apache-2.0
"""One source of a mixture: its view, its size, and this process's reader of it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ..arrow.large_rows import LargeRows, Limits, vary_in_size
from ..cache.directory import CacheSettings
from ..cache.tables import EpochCache
from ..convert.transform import Output
from ..order.epoch_order import Draws
from ..order.mixed_layout import SourceSize
from ..pipeline.mixed_sources import SourceRows
from ..table.arguments import View
from ..table.reader import Reader
from ..table.selection import Selection
from .pinned_rows import PinnedRows, sent_view
from .planned_batches import Counted


class MixtureSource:
    """What a mixture takes of a dataset: everything but what the mixture decides.

    Parameters
    ----------
    view : View
        Which rows and columns of which table.
    size : SourceSize
        Rows, bytes of a row, shuffle.
    data : dict
        What a state says of it.
    are_skewed : bool
        Whether some rows are far larger than the average.
    draws : Draws, optional
        Which rows are drawn in proportion to weights; `size` then says how many.
    drawn_by : mapping
        The argument that decides it.
    cache : CacheSettings, optional
        Where its rows, or lengths of them, are cached on disk.
    output : Output, optional
        What becomes of its batches, where they are of it alone.
    """

    def __init__(
        self,
        view: View,
        size: SourceSize,
        data: dict[str, Any],
        are_skewed: bool,
        draws: Draws | None,
        drawn_by: Mapping[str, Any],
        cache: CacheSettings | None,
        output: Output | None = None,
    ):
        self.view = view
        self.size = size
        self.draws = draws
        self.output = output
        self.described = {**data, "rows": size.rows, "shuffle": size.shuffle, **drawn_by}
        self._drawn_by = drawn_by
        self._cache = cache
        self._are_skewed = are_skewed
        self._rows: PinnedRows | None = None
        self._epoch_cache = EpochCache()

    @property
    def counted(self) -> Counted:
        """It as a table whose rows are documents."""
        return Counted(self.view, self.size.row_bytes, self._cache)

    @property
    def rows_and_columns(self) -> tuple[Any, ...]:
        """What no other source has: the same table may be reached in several ways."""
        recipe = self.view.recipe
        return self.described, recipe.identity or recipe.source, self.view.columns

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "view": sent_view(self.view), "_rows": None}

    def reader(self, names: list[str]) -> Reader:
        """This process's reader of columns in a certain sequence, opened."""
        if self._rows is None:
            columns = {name: self.view.columns[name] for name in names}
            view = dataclasses.replace(self.view, columns=columns)
            self._rows = PinnedRows(view, self._cache)
        return self._rows.reader()

    def fill_cache(self) -> None:
        """Begin to write what its cache on disk lacks, once there is a reader."""
        if self._rows is not None and self._rows.disk is not None:
            self._rows.disk.fill(again=True)

    @property
    def bytes_to_cache(self) -> int:
        """What caching its rows in memory takes."""
        return self._to_cache.num_rows * self.size.row_bytes

    @property
    def _to_cache(self) -> Selection:
        """The rows to cache: the stretch that they are in, or themselves."""
        return self.view.selection.stretch() or self.view.selection

    @property
    def may_be_cached(self) -> bool:
        """Whether nothing speaks against caching its rows unasked."""
        return not self._are_skewed and not self._epoch_cache.is_too_small

    def rows(
        self, schema: pa.Schema, in_memory: bool, limits: Limits, one_call: asyncio.Lock
    ) -> SourceRows:
        """How its rows are read, with the columns of a schema.

        Parameters
        ----------
        schema : pyarrow.Schema
            That the rows are to have.
        in_memory : bool
            Whether all are read once.
        limits, one_call
            As of `LargeRows`.
        """
        reader, large = self.reader(schema.names), None
        if vary_in_size(schema):
            large = LargeRows(self.size.row_bytes, self._are_skewed, limits, one_call)
        cached = None
        if in_memory:
            row_bytes = self.size.row_bytes
            cached = self._epoch_cache.cached_table(reader, self._to_cache, row_bytes, None)
        return SourceRows(reader, schema, large, cached)

    def describe(self) -> str:
        """The source in a few words."""
        rows, selection = self.view.selection.num_rows, self.view.selection.describe()
        drawn = "".join(f", {name}={value!r}" for name, value in self._drawn_by.items())
        drawn += f", epoch_rows={self.size.rows}" if drawn else ""
        shuffle = f"{self.size.shuffle}{drawn}"
        return f"{self.view.recipe.describe()}, rows={rows} ({selection}), {shuffle}"
