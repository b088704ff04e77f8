# SPDX-License-Identifier: Apache-2.0
"""Values that stand in for nulls, column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..common.checks import did_you_mean
from .scalars import fitting_scalar

_ABOUT = "lancedb_nulls"


@dataclass(frozen=True)
class NullPolicy:
    """A value for every column, one for some columns by name, or none at all.

    Parameters
    ----------
    fill_null : scalar or dict, optional
        Fields of structs are named by their path, ``"struct.field"``.
    depth : int, default 0
        How many lists the values are in, which decides what an error says.
    """

    fill_null: Any = None
    depth: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.fill_null, (list, tuple, set)):
            raise TypeError(
                "fill_null must be a value, or a dict of column name to value, not "
                f"{type(self.fill_null).__name__}"
            )

    @property
    def by_name(self) -> Mapping[str, Any]:
        """The values that are for one column each."""
        return self.fill_null if isinstance(self.fill_null, Mapping) else {}

    def named(self, schema: pa.Schema) -> dict[str, pa.Field]:
        """The columns and fields of structs that there are values for, by their path.

        Raises
        ------
        ValueError
            If one is not there, or is a struct, whose nulls are its fields'.
        """
        fields = named_fields("fill_null", list(self.by_name), schema)
        for name, field in fields.items():
            if pa.types.is_struct(field.type):
                inside = [path for path, _ in field_paths(field.with_name(name)) if path != name]
                raise ValueError(
                    f"fill_null names {name!r}, a struct, and values are for its fields: {inside}"
                )
        return fields

    def in_lists(self, depth: int = 1) -> NullPolicy:
        """The same for what is in the lists of a column."""
        return replace(self, depth=self.depth + depth)

    def value_for(self, name: str) -> Any:
        """What to put for nulls of a column, None if nothing was said."""
        return self.by_name.get(name) if isinstance(self.fill_null, Mapping) else self.fill_null

    def require_value(self, name: str, count: int, kind: pa.DataType) -> Any:
        """As `value_for`; a ValueError that names the column and what to do, if there is none."""
        value = self.value_for(name)
        if value is None:
            raise _unfilled(name, count, kind, self.depth)
        return value

    def require_scalar(self, name: str, count: int, kind: pa.DataType) -> pa.Scalar:
        """As `require_value`, in the column's type; a ValueError if that would change it."""
        value = self.require_value(name, count, kind)
        scalar = fitting_scalar(value, kind)
        if scalar is None:
            raise ValueError(f"fill_null={value!r} does not fit column {name!r} of type {kind}")
        return scalar

    def filled(self, array: pa.Array, name: str) -> pa.Array:
        """The array without nulls."""
        if array.null_count == 0:
            return array
        kind, scalar = array.type, self.require_scalar(name, array.null_count, array.type)
        if pa.types.is_float16(kind):  # pyarrow before 21 fills no nulls of these
            wide = pc.fill_null(array.cast(pa.float32()), scalar.cast(pa.float32()))
            return wide.cast(kind)
        return pc.fill_null(array, scalar)

    def values(self, array: pa.Array, name: str) -> list[Any]:
        """The Python values of an array: a null stays None, unless its column is named."""
        values = array.to_pylist()
        if array.null_count == 0 or self.by_name.get(name) is None:
            return values
        if pa.types.is_null(array.type):
            return [self.by_name[name]] * len(array)
        scalar = self.require_scalar(name, array.null_count, array.type)
        return [scalar.as_py() if value is None else value for value in values]


def field_paths(field: pa.Field, above: str = "") -> Iterator[tuple[str, pa.Field]]:
    """A column by its name, and what is in it by ``"struct.field"``."""
    kind = field.type
    while isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind):
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind.storage_type
    yield above + field.name, field.with_type(kind) if pa.types.is_struct(kind) else field
    if pa.types.is_struct(kind):
        for child in kind:
            yield from field_paths(child, f"{above}{field.name}.")


def named_fields(argument: str, names: Sequence[str], schema: pa.Schema) -> dict[str, pa.Field]:
    """The columns and fields of structs that an argument names, by their path.

    Raises
    ------
    ValueError
        If one is not there; the message says what is.
    """
    known = dict(path for field in schema for path in field_paths(field)) if names else {}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"{argument} names an unknown column {name!r}: {hint}")
    return {name: known[name] for name in names}


def with_those_of(
    error: Exception, rest: Iterable[pa.RecordBatch], convert: Callable[[pa.RecordBatch], Any]
) -> Exception:
    """An error about nulls in the first part of a batch, with those in the other parts counted."""
    if _ABOUT not in vars(error):
        return error
    name, count, *of = vars(error)[_ABOUT]
    for part in rest:
        within = [each for each in part.schema.names if f"{name}.".startswith(f"{each}.")]
        try:
            convert(part.select(within))
        except ValueError as more:
            count += vars(more)[_ABOUT][1] if _ABOUT in vars(more) else 0
    return _unfilled(name, count, *of)


def _unfilled(name: str, count: int, kind: pa.DataType, depth: int) -> ValueError:
    where = " in its lists" if depth else ""
    ways = [f"fill_null={_example_of(kind)} (any value)", f"fill_null={{{name!r}: value}}"]
    known = _condition(name, kind, depth)
    ways += [] if known is None else [f"filter={known!r}"]
    error = ValueError(
        f"column {name!r} has {count} null{'s' if count > 1 else ''}{where}, which a tensor "
        f"cannot hold: pass {', '.join(ways[:-1])}{',' * (len(ways) > 2)} or {ways[-1]}"
    )
    # No class of its own: torch makes a worker's error anew, of its type and its text.
    vars(error)[_ABOUT] = (name, count, kind, depth)
    return error


def _condition(name: str, kind: pa.DataType, depth: int) -> str | None:
    """What rows without such nulls fulfil; None if SQL cannot say it."""
    if not depth:
        return f"{name} IS NOT NULL"
    is_plain = not (pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind))
    return f"array_position({name}, NULL) IS NULL" if depth == 1 and is_plain else None


def _example_of(kind: pa.DataType) -> str:
    """A value that a column of a type takes for its nulls, as it is written in Python."""
    if pa.types.is_fixed_size_binary(kind):
        return f"bytes({kind.byte_width})"
    return "False" if pa.types.is_boolean(kind) else "0"
