# SPDX-License-Identifier: Apache-2.0
"""The choice of rows that are cached on disk, and of their parts: the same in every process."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..arrow.large_rows import vary_in_size
from ..table.reader import Reader
from ..table.recipe import Recipe
from ..table.sample import average_row_bytes, fingerprint
from ..table.selection import AllRows, ChosenRows, Selection
from ..table.sources import HandleSource, MemorySource
from .directory import CacheSettings

# A part of the key: parts that are written in another way belong in another directory.
_LAYOUT = 1
_PART_BYTES = 64 << 20


class CachedRows(NamedTuple):
    """Rows of a table version that are to be on disk.

    Parameters
    ----------
    settings : CacheSettings
        Where, and how many bytes.
    key : str
        Of the table version, its columns, and how they are cut into parts.
    about : dict
        The same for people.
    recipe : Recipe
        How to open the table.
    columns : dict of str to str
        Output name -> column (or SQL expression) of the table.
    selection : Selection
        The rows that have parts: those of the table, or the chosen ones, ascending by offset.
    part_rows : int
        Rows of a part.
    part_bytes : int
        Arrow bytes of an average part.
    wanted : range
        The parts that the dataset needs.
    are_cut : bool
        Whether a part is several batches, as its rows may be far larger than others.
    """

    settings: CacheSettings
    key: str
    about: dict[str, Any]
    recipe: Recipe
    columns: dict[str, str]
    selection: Selection
    part_rows: int
    part_bytes: int
    wanted: range
    are_cut: bool


def cached_rows(settings: CacheSettings, reader: Reader, names_columns: bool) -> CachedRows | str:
    """What a reader reads, as rows on disk; or why they are not put there.

    Rows that are a quarter or more of a stretch of the table share the parts of the whole table.
    Others have parts of their own.

    Parameters
    ----------
    settings : CacheSettings
        Where, and how many bytes.
    reader : Reader
        Open or not.
    names_columns : bool
        Whether its columns were named one by one.
    """
    recipe, handle = reader.recipe, reader.handle()
    reason = why_not_cached(reader)
    if reason is not None:
        return reason
    if handle.blob_names and not names_columns:
        return "blobs are cached by the map-style dataset, where columns= names them"
    stretch = reader.selection.stretch()
    if stretch is not None:
        chosen, wanted = AllRows(handle.stored_rows), (stretch.start, stretch.num_rows)
    else:
        offsets = reader.selection.offsets(np.arange(reader.selection.num_rows))
        chosen = ChosenRows(np.unique(offsets), reader.selection.describe())
        wanted = (0, chosen.num_rows)
    if chosen.num_rows == 0:
        return "there are no rows"
    row_bytes = average_row_bytes(Reader(recipe, chosen, reader.columns))
    part_rows = min(max(1, 1 << ((_PART_BYTES // row_bytes) | 1).bit_length() - 1), chosen.num_rows)
    about = described(reader, chosen, part_rows)
    return CachedRows(
        settings,
        key_of(about),
        about,
        recipe,
        reader.columns,
        chosen,
        part_rows,
        part_rows * row_bytes,
        range(wanted[0] // part_rows, (wanted[0] + wanted[1] - 1) // part_rows + 1),
        # In a file of several batches no dictionary may change.
        vary_in_size(reader.schema) and not any(map(_has_dictionary, reader.schema.types)),
    )


def why_not_cached(reader: Reader) -> str | None:
    """Why nothing of a table is put on disk; None if it may be."""
    recipe = reader.recipe
    if isinstance(recipe.source, (HandleSource, MemorySource)):
        return "the table is in memory"
    if recipe.identity is None or recipe.version is None:
        return "nothing tells the table from another one of its name and version"
    return None


def key_of(about: dict[str, Any]) -> str:
    """The name of the directory of parts that are described so."""
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def described(reader: Reader, chosen: Selection, part_rows: int) -> dict[str, Any]:
    """All that decides what is in the parts; nothing that opens the table."""
    recipe = reader.recipe
    assert recipe.identity is not None
    about = {
        "layout": _LAYOUT,
        "table": recipe.name,
        "branch": recipe.branch,
        "version": recipe.version,
        "identity": list(recipe.identity),
        "columns": list(reader.columns.items()),
        "blobs": recipe.blobs,
        "dictionary": "values" if recipe.categories is None else "codes",
        "selection": None if isinstance(chosen, AllRows) else chosen.describe(),
        "rows": chosen.num_rows,
        "part_rows": part_rows,
    }
    if not isinstance(chosen, AllRows):
        about["digest"] = chosen.digest().hex()
    if recipe.identity.kind != "manifest":  # which names the table's files
        about["at"] = recipe.source.describe()
        about["fingerprint"] = fingerprint(recipe, AllRows(0))
    return about


def _has_dictionary(kind: pa.DataType) -> bool:
    fields = (kind.field(number).type for number in range(kind.num_fields))
    return pa.types.is_dictionary(kind) or any(map(_has_dictionary, fields))
