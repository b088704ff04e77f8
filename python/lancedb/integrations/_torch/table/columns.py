# SPDX-License-Identifier: Apache-2.0
"""The columns that are asked for, as names and SQL expressions of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..common.checks import did_you_mean, shown
from .sql import names_in_backticks


def resolve_columns(
    schema: pa.Schema, columns: Sequence[str] | Mapping[str, str] | None
) -> dict[str, str]:
    """Output name -> column of the table, every name checked.

    Raises
    ------
    ValueError
        If a column is unknown (the message names the near ones), named twice, or none is named.
    """
    known = schema.names
    if columns is None:
        return {name: name for name in known}
    if isinstance(columns, str):
        raise TypeError(f"columns must be a list of names; did you mean columns=[{columns!r}]?")
    if isinstance(columns, (set, frozenset)):
        raise TypeError(
            f"columns must be in an order, and a set has none: pass a list, {sorted(columns)}"
        )
    if not isinstance(columns, Iterable) or getattr(columns, "ndim", 1) != 1:
        raise TypeError(f"columns must be a list of names, or a mapping, not {shown(columns)}")
    if not isinstance(columns, Mapping):
        names = list(columns)
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"columns names {', '.join(map(repr, twice))} more than once")
        columns = {name: name for name in names}
        for name in names:
            check_column(name, schema)
    if not columns:
        raise ValueError(f"columns is empty; leave it out for all of {known}, or name at least one")
    for name, column in columns.items():
        if not isinstance(name, str) or not isinstance(column, str):
            raise TypeError(
                f"columns must map names to SQL expressions, not {name!r} to {column!r}"
            )
    return {
        name: column if column in known else names_in_backticks(column)
        for name, column in columns.items()
    }


def check_column(name: Any, schema: pa.Schema) -> None:
    """Raise unless `name` is a column, a field of a struct column, or ``_rowid``."""
    if not isinstance(name, str):
        raise TypeError(f"columns must hold names, not {name!r}")
    if name in schema.names or name in ("_rowid", "_rowoffset"):
        return
    head, _, rest = name.partition(".")
    if rest and head in schema.names and pa.types.is_struct(schema.field(head).type):
        return check_column(rest, pa.schema(list(schema.field(head).type)))
    raise ValueError(f"unknown column {name!r}: {did_you_mean(name, schema.names)}")
