# SPDX-License-Identifier: Apache-2.0
"""Knows what stands in for a null, column by column."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class NullPolicy:
    """A value for every column, one for some columns by name, or none at all.

    Parameters
    ----------
    fill_null : scalar or dict, optional
        Fields of structs are named by their path, ``"struct.field"``.
    """

    fill_null: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.fill_null, (list, tuple, set)):
            raise TypeError(
                "fill_null must be a value, or a dict of column name to value, not "
                f"{type(self.fill_null).__name__}"
            )

    def check_names(self, names: Iterable[str]) -> None:
        """Raise a ValueError if a value is given for a column that is not there."""
        if not isinstance(self.fill_null, Mapping):
            return
        known = list(names)
        for name in self.fill_null:
            if name not in known and name.partition(".")[0] not in known:
                near = difflib.get_close_matches(str(name), known, n=3)
                hint = (
                    f"did you mean {' or '.join(map(repr, near))}?" if near else f"not in {known}"
                )
                raise ValueError(f"fill_null names an unknown column {name!r}: {hint}")

    def value_for(self, name: str) -> Any:
        """What to put for nulls of a column, None if nothing was said."""
        if isinstance(self.fill_null, Mapping):
            return self.fill_null.get(name)
        return self.fill_null

    def require_value(self, name: str, count: int) -> Any:
        """As `value_for`; a ValueError that names the column and the way out if there is none."""
        value = self.value_for(name)
        if value is None:
            raise ValueError(
                f"column {name!r} has {count} null{'s' if count > 1 else ''}, which a tensor "
                f"cannot hold: pass fill_null=0 (any value), fill_null={{{name!r}: value}}, or "
                f"filter={name + ' IS NOT NULL'!r}"
            )
        return value

    def filled(self, array: pa.Array, name: str) -> pa.Array:
        """The array without nulls."""
        if array.null_count == 0:
            return array
        value = self.require_value(name, array.null_count)
        try:
            return pc.fill_null(array, pa.scalar(value, array.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise ValueError(
                f"fill_null={value!r} does not fit column {name!r} of type {array.type}"
            ) from error
