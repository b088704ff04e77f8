# SPDX-License-Identifier: Apache-2.0
"""Rows by offset through pylance, where it is installed.

For each offset lancedb makes an expression, runs a query and reorders what comes through a hash
map. pylance, which is the same storage engine without a database around it, goes from offsets to
addresses: rows that are read in short runs cost it a third, single ones half.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.table import LanceTable, Table

from .call_threads import in_thread
from .recipe import Recipe
from .sources import HandleSource, MemorySource, is_in_memory

SWITCH = "LANCEDB_TORCH_PYLANCE"

_log = logging.getLogger("lancedb.integrations.torch")

# Opening the table once more costs as much as reading so many rows; a sample has fewer.
_WORTH_OPENING = 512


def is_installed() -> bool:
    """Whether pylance can be imported, and nobody has switched it off."""
    return os.environ.get(SWITCH, "1") != "0" and importlib.util.find_spec("lance") is not None


def expected_reader(recipe: Recipe) -> str:
    """What will find a table's rows, "pylance" or "lancedb", as far as is known unopened."""
    source = recipe.source
    by_lancedb = isinstance(source, (HandleSource, MemorySource)) or (
        str(getattr(source, "uri", "")).startswith("db://")
    )
    return "lancedb" if by_lancedb or not is_installed() else "pylance"


class PylanceRows:
    """Rows of a table by offset, once it is worth opening the table a second time.

    Parameters
    ----------
    table : Table
        Open, at the version that is read.
    columns : mapping of str to str
        Output name -> column (or SQL expression) of the table.
    """

    def __init__(self, table: Table, columns: Mapping[str, str]):
        self._table = table
        self._columns = dict(columns)
        self._asked: Any = self._columns
        self._dataset: Any = None
        self._schema = pa.schema([])
        self._opening = asyncio.Lock()
        self._seen = 0
        self._why_not = _why_not(table)
        self._is_decided = self._why_not is not None
        if self._why_not is not None:
            _log.debug("lancedb reads the rows of table %r: %s", table.name, self._why_not)

    @property
    def is_used(self) -> bool:
        """Whether pylance reads; also as long as it is not known whether it can."""
        return self._why_not is None

    async def take(self, offsets: np.ndarray, by_lancedb: Callable[[], Any]) -> pa.RecordBatch:
        """The rows at ascending offsets.

        Parameters
        ----------
        offsets : numpy.ndarray of int64
            One or more.
        by_lancedb : callable
            Gives an awaitable of the same rows, for whatever pylance cannot read. What the storage
            refuses to either fails with lancedb's error.
        """
        self._seen += len(offsets)
        if not self._is_decided and self._seen >= _WORTH_OPENING:
            # lancedb's rows say of which types they are to be, whatever a table declares.
            read = await by_lancedb()
            async with self._opening:
                if not self._is_decided:
                    await self._decide(read.schema)
            return read
        if self._dataset is None:
            return await by_lancedb()
        try:
            return await in_thread(lambda: self._taken(self._dataset, offsets))
        except Exception as error:  # of whichever kind: lancedb says it better, or reads
            self._give_up(f"pylance failed: {error}")
            return await by_lancedb()

    async def _decide(self, schema: pa.Schema) -> None:
        self._schema = schema
        try:
            self._dataset = await in_thread(self._opened)
        except Exception as error:  # of whichever kind: it is about the table, or about pylance
            self._give_up(f"pylance refuses it: {error}")
        self._is_decided = True

    def _opened(self) -> Any:
        """The dataset; raises if it is not what lancedb reads. Not to be called on its loop."""
        dataset = _open(self._table)
        if (dataset.version, dataset.count_rows()) != (self._table.version, len(self._table)):
            raise ValueError("it finds another version")
        # Names alone spare it planning expressions, for each call a tenth of its time.
        names = list(self._columns)
        if names == list(self._columns.values()) and set(names) <= set(dataset.schema.names):
            self._asked = names
        self._taken(dataset, np.zeros(1, np.int64))
        return dataset

    def _taken(self, dataset: Any, offsets: np.ndarray) -> pa.RecordBatch:
        # Of an array it takes each number by itself, holding the lock of the interpreter for twice
        # the time.
        rows = dataset.take(offsets.tolist(), columns=self._asked).combine_chunks()
        types = dict(zip(self._schema.names, self._schema.types, strict=True))
        if types != dict(zip(rows.schema.names, rows.schema.types, strict=True)):
            raise TypeError(f"it reads {rows.schema}, and lancedb {self._schema}")
        batch = rows.to_batches()[0].select(self._schema.names)
        return pa.RecordBatch.from_arrays(batch.columns, schema=self._schema)

    def _give_up(self, reason: str) -> None:
        self._dataset, self._why_not = None, reason
        _log.debug("lancedb reads the rows of table %r: %s", self._table.name, reason)


def _why_not(table: Table) -> str | None:
    """Why a table is not read through pylance; None if there is no reason."""
    if os.environ.get(SWITCH, "1") == "0":
        return f"{SWITCH}=0"
    if not isinstance(table, LanceTable):
        return "it is on a server"
    if is_in_memory(table):
        return "it is in lancedb's own memory"
    return None if is_installed() else "pylance is not installed"


def _open(table: Any) -> Any:
    if "lance" not in sys.modules:
        # Forked processes read through one that was not forked: they do not use pylance.
        warnings.filterwarnings("ignore", "lance is not fork-safe")
    return table.to_lance()
