# SPDX-License-Identifier: Apache-2.0
"""The arguments of a dataset, resolved to what it reads: table, rows, columns, output."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from lancedb import permutation as lancedb_permutation
from lancedb.permutation import Permutation, Transforms
from lancedb.table import AsyncTable, Table

from ..common.checks import one_of
from . import recipe as recipes
from . import selection as selections
from .blobs import BLOBS, BlobColumns
from .columns import check_column, resolve_columns
from .dictionaries import DICTIONARY, categories_of, coded
from .handle import keep_open, open_rows, read_schema
from .permutation_rows import PermutationRows
from .recipe import Recipe
from .selection import Selection
from .sources import (
    FactorySource,
    Source,
    UriSource,
    check_open,
    is_in_memory,
    is_near,
    open_at,
    source_of,
)
from .sql import reason
from .uris import normalize_uri

Columns = Sequence[str] | Mapping[str, str] | None


@dataclass(frozen=True)
class View:
    """What a dataset reads, resolved and checked: every name it was given exists."""

    recipe: Recipe
    selection: Selection
    columns: dict[str, str]
    schema: pa.Schema
    format: str | None
    transform: Callable[..., Any] | None = field(repr=False)
    batch_size: int | None
    blobs: dict[str, str] = field(default_factory=dict)
    """Output name -> column of the table, of blobs that are read as more than descriptors."""


@dataclass(frozen=True)
class Given:
    """The arguments that say what to read, as the user gave them."""

    table: Any = None
    uri: Any = None
    table_name: str | None = None
    connect_kwargs: Mapping[str, Any] | None = None
    connection_factory: Callable[[str], Table] | None = None
    permutation_table: Table | None = None
    split: str | int | None = None
    filter: str | None = None
    version: int | str | None = None
    columns: Columns = None
    blobs: str = "bytes"
    dictionary: str = "values"


def resolve(given: Given, timeout: float | None) -> View:
    """Open the table, pin its version, and check every name against it.

    Each time that it is opened that may take `timeout` seconds. Finding the rows that are meant
    may mean to read the whole table, and takes as long as it takes.

    Raises
    ------
    ValueError
        If no table is named, arguments contradict each other, or a name is unknown.
    """
    check_arguments(given)
    one_of("blobs", given.blobs, BLOBS)
    one_of("dictionary", given.dictionary, DICTIONARY)
    permutation = given.table if isinstance(given.table, Permutation) else None
    recipe, table, chosen = _rows(given, permutation, timeout)
    keep_open(recipe, table)
    with recipes.naming(recipe):
        known = table.schema  # which Arrow refuses if it is nested too deeply
    columns = _columns(known, permutation, given.columns)
    format, transform = (
        output_of(permutation.transform_fn) if permutation is not None else (None, None)
    )
    schema, blob_columns = recipe.in_time(lambda: _schema(table, columns, given.blobs))
    categories = None
    if given.dictionary == "codes":
        categories, schema = categories_of(table, schema, columns), coded(schema)
    sent = recipes.portable(recipe, table)
    return View(
        recipe=dataclasses.replace(sent, blobs=given.blobs, categories=categories),
        selection=chosen,
        columns=columns,
        schema=schema,
        format=format,
        transform=transform,
        batch_size=permutation.batch_size if permutation is not None else None,
        blobs=blob_columns,
    )


def rows_of(permutation: Permutation) -> tuple[Recipe, Selection | PermutationRows]:
    """Which rows of which table version a permutation has, or how to find them.

    A split of a table in memory or on a disk is looked up here, once for all forked processes.
    Other rows are described: no store or server is asked, and no disk is read.
    """
    given = Given(table=permutation)
    base, splits = permutation.base_table, permutation.permutation_table
    at = described = None
    if splits is not None:
        # In another process the rows of a table in memory have other ids.
        if is_in_memory(base) or (is_near(base) and is_near(splits)):
            recipe, table, chosen = _rows(given, permutation, None)
            return recipes.portable(recipe, table), chosen
        at = selections.recorded_base(splits)
        described = recipes.portable(recipes.as_opened(source_of(splits), splits), splits)
    _, branch = at or open_at(base)
    recipe = recipes.as_opened(_source(given, permutation, base, branch is None), base, at)
    rows = PermutationRows(described, permutation.split, permutation.offset, permutation.limit)
    return recipes.portable(recipe, base), rows


def check_arguments(given: Given) -> None:
    """Raise unless exactly one table is named, in one way."""
    by_uri = {"uri": given.uri, "table_name": given.table_name}
    named = [name for name, value in by_uri.items() if value is not None]
    if given.table is not None and named:
        raise ValueError(f"give either table or uri and table_name, not table and {named[0]}")
    if given.table is not None and given.connect_kwargs:
        raise ValueError("connect_kwargs belongs to uri; a table has its connection already")
    factory_opens = given.connection_factory is not None and given.table_name is not None
    if given.table is None and len(named) < 2 and not factory_opens:
        missing = [name for name, value in by_uri.items() if value is None]
        raise ValueError(
            "no table given: pass table (a LanceTable, RemoteTable or Permutation), or both uri "
            f"and table_name (missing: {', '.join(missing)})"
        )
    if given.table is not None and not isinstance(given.table, (Table, Permutation)):
        raise TypeError(
            "table must be a LanceTable, a RemoteTable or a Permutation, not "
            f"{type(given.table).__name__}{_way_to_a_table(given.table)}"
        )
    if given.connect_kwargs is not None and not isinstance(given.connect_kwargs, Mapping):
        raise TypeError(
            "connect_kwargs must be a dict of arguments for lancedb.connect, not "
            f"{type(given.connect_kwargs).__name__}"
        )
    if not isinstance(given.permutation_table, (Table, type(None))):
        raise TypeError(
            f"permutation_table must be a table, not {type(given.permutation_table).__name__}; "
            "a builder makes one with permutation_builder(table).split_random(...).execute()"
        )
    if isinstance(given.table, Permutation) and given.permutation_table is not None:
        raise ValueError("a Permutation has its own permutation_table; pass its base table instead")
    if given.split is not None and isinstance(given.table, Permutation):
        raise ValueError(
            f"split={given.split!r} is for a permutation_table, and a Permutation is one split "
            "already: choose it with Permutation.from_tables(table, permutation_table, "
            f"{given.split!r})"
        )
    if given.split is not None and given.permutation_table is None:
        raise ValueError(
            f"split={given.split!r} needs a permutation_table, made with "
            "lancedb.permutation.permutation_builder(table).split_random(...).execute()"
        )
    if given.connection_factory is not None and not callable(given.connection_factory):
        raise TypeError(
            "connection_factory must be a callable from table name to table, not "
            f"{type(given.connection_factory).__name__}"
        )


def _way_to_a_table(given: Any) -> str:
    if isinstance(given, (str, os.PathLike)):
        return "; a path goes into uri, with table_name"
    if hasattr(given, "open_table"):
        return "; a connection opens one with open_table(name)"
    if isinstance(given, AsyncTable):
        return "; lancedb.connect(uri).open_table(name) opens one of these"
    if isinstance(given, (list, pa.Table, pa.RecordBatch)) or hasattr(given, "columns"):
        return "; lancedb.connect(uri).create_table(name, data) makes one of it"
    return ""


def output_of(transform: Callable[..., Any]) -> tuple[str | None, Callable[..., Any] | None]:
    """The format that a permutation's transform stands for, or the transform itself."""
    formats = {
        Transforms.arrow2python: "python",
        Transforms.arrow2pythoncol: "python_col",
        Transforms.arrow2arrow: "arrow",
        Transforms.arrow2numpy: "numpy",
        Transforms.arrow2pandas: "pandas",
        lancedb_permutation.batch_to_tensor_dict: "torch",
        lancedb_permutation.batch_to_tensor_rows: "torch_row",
        lancedb_permutation.batch_to_tensor: "torch_col",
    }
    if getattr(transform, "__qualname__", "").startswith("Transforms.arrow2polars"):
        return "polars", None
    known = formats.get(transform)
    return (known, None) if known else (None, transform)


def _rows(
    given: Given, permutation: Permutation | None, timeout: float | None
) -> tuple[Recipe, Table, Selection]:
    """The pinned table, open, and which of its rows are meant."""
    permutation_table = (
        permutation.permutation_table if permutation is not None else given.permutation_table
    )
    base: Any = permutation.base_table if permutation is not None else given.table
    recipe, table = _pinned(given, permutation, permutation_table, base, timeout)
    return recipe, table, _selection(table, permutation_table, permutation, given)


def _pinned(
    given: Given,
    permutation: Permutation | None,
    permutation_table: Table | None,
    base: Any,
    timeout: float | None,
) -> tuple[Recipe, Table]:
    """The version and branch that the permutation's row ids are of, else those of the handle."""
    if base is not None:
        check_open(base)
    recorded = None if permutation_table is None else selections.recorded_base(permutation_table)
    version, branch = recorded or _version_and_branch(given, base)
    is_main = branch is None and (recorded is not None or base is not None)
    source = _source(given, permutation, base, is_main)
    name = str(given.table_name if base is None else base.name)
    recipe, table = recipes.pin(source, name, branch, version, timeout)
    if recorded is not None and given.version is not None:
        _check_version(given.version, recipe)
    return recipe, table


def _version_and_branch(given: Given, base: Table | None) -> tuple[int | str | None, str | None]:
    if base is None:
        return given.version, None
    version = base.version if given.version is None else given.version
    return version, base.current_branch()


def _check_version(version: Any, recorded: Recipe) -> None:
    """Raise unless `version`, a number or a tag, is the one that row ids are of."""
    meant, _ = recipes.pin(
        recorded.source, recorded.name, recorded.branch, version, recorded.timeout
    )
    if meant.version != recorded.version:
        raise ValueError(
            f"version={version!r} contradicts the permutation_table, whose row ids are of version "
            f"{recorded.version}; leave version out"
        )


def _source(
    given: Given, permutation: Permutation | None, base: Table | None, is_main: bool
) -> Source:
    factory = given.connection_factory or (
        permutation.connection_factory if permutation is not None else None
    )
    if factory is not None:
        return FactorySource(factory, is_main)
    if base is not None:
        return source_of(base)
    uri = normalize_uri(given.uri)
    return UriSource(uri, dict(given.connect_kwargs or {}))


def _selection(
    table: Table, permutation_table: Table | None, permutation: Permutation | None, given: Given
) -> Selection:
    chosen: Selection = selections.all_rows(table)
    if permutation_table is not None:
        split = permutation.split if permutation is not None else given.split
        index = selections.split_index(permutation_table, split)
        name = split if isinstance(split, str) else None
        chosen = selections.permuted(table, permutation_table, index, name)
    if permutation is not None:
        chosen = selections.narrowed(chosen, permutation.offset, permutation.limit)
    if given.filter is not None:
        chosen = selections.filtered(table, chosen, given.filter)
    return chosen


def _columns(known: pa.Schema, permutation: Permutation | None, columns: Columns) -> dict[str, str]:
    if permutation is None:
        return resolve_columns(known, columns)
    renamed = pa.schema([(name, pa.null()) for name in permutation.selection])
    chosen = resolve_columns(renamed, columns)
    return {name: permutation.selection.get(source, source) for name, source in chosen.items()}


def _schema(
    table: Table, columns: Mapping[str, str], blobs: str
) -> tuple[pa.Schema, dict[str, str]]:
    """The schema of what is read, and which columns are blobs."""
    try:
        schema = read_schema(table, open_rows(table), columns)
    except (ValueError, RuntimeError) as error:
        for column in columns.values():
            if all(map(str.isidentifier, column.split("."))):  # a name, whose near ones help
                check_column(column, table.schema)
        raise ValueError(f"columns {dict(columns)} cannot be read: {reason(error)}") from error
    _refuse_empty_structs(schema)
    found = BlobColumns(table, schema, columns, blobs)
    return found.schema, found.names


def _refuse_empty_structs(schema: pa.Schema) -> None:
    """Raise for what Lance does not store well: it gives nulls for the columns beside it."""
    empty = [field.name for field in schema if _has_empty_struct(field.type)]
    if empty:
        others = [name for name in schema.names if name not in empty]
        raise ValueError(
            f"column {empty[0]!r} is or holds a struct without fields, beside which Lance loses "
            f"other values: leave it out, with columns={others}"
        )


def _has_empty_struct(kind: pa.DataType) -> bool:
    children = [kind.field(number).type for number in range(kind.num_fields)]
    return any(map(_has_empty_struct, children)) or (pa.types.is_struct(kind) and not children)
