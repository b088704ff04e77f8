# SPDX-License-Identifier: Apache-2.0
"""The arguments about lists of different lengths: what they become, padded with what, how long."""

from __future__ import annotations

import bisect
import contextlib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..common.checks import one_of, whole_number
from .nulls import named_fields
from .scalars import plain_value

if TYPE_CHECKING:
    import torch

MODES = ("jagged", "pad", "mask", "list")


@dataclass(frozen=True)
class RaggedPolicy:
    """The form of lists of numbers in tensors.

    Parameters
    ----------
    mode : {"jagged", "pad", "mask", "list"}
        Nested tensors; padded, with lengths; padded, with a mask; lists of tensors.
    pad_value : number, or dict of str to number
        What stands where a list has ended: in every column, or by column name, and 0 in others.
    pad_to : int, sequence of int, or dict of str to either, optional
        What the innermost lists are padded to: a multiple of a number, or the smallest of some
        lengths that holds the longest of the batch. Default: the longest of the batch.

    Raises
    ------
    TypeError, ValueError
        If a value is of no such kind, or an argument about padding is given where none is done.
    """

    mode: str = "jagged"
    pad_value: Any = 0
    pad_to: Any = None
    _values: Mapping[str | None, Any] = field(init=False, repr=False, compare=False)
    _lengths: Mapping[str | None, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        one_of("ragged", self.mode, MODES)
        values = {name: _number(value) for name, value in _by_name(self.pad_value).items()}
        lengths = {name: _lengths(to) for name, to in _by_name(self.pad_to).items()}
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_lengths", lengths)
        said = {"pad_value": values != {None: 0}, "pad_to": lengths != {None: None}}
        for name, is_said in said.items():
            if is_said and not self.pads:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is for ragged='pad' and ragged='mask', and "
                    f"ragged={self.mode!r} pads nothing: leave it out"
                )

    @property
    def pads(self) -> bool:
        """Whether lists become tensors of the length of their longest."""
        return self.mode in ("pad", "mask")

    def check(self, padded: Mapping[str, torch.dtype], schema: pa.Schema) -> None:
        """Raise unless every name is of a column that is padded, and every value fits its tensor.

        Parameters
        ----------
        padded : mapping of str to torch.dtype
            The columns that are padded by their path, ``"struct.field"``, and their tensors' dtype.
        schema : pyarrow.Schema
            Of all columns.
        """
        for argument, by_name in (("pad_value", self._values), ("pad_to", self._lengths)):
            names = [name for name in by_name if name is not None]
            for name, of in named_fields(argument, names, schema).items():
                if name not in padded:
                    raise ValueError(
                        f"{argument} names {name!r}, of type {of.type}, and is for lists of "
                        f"numbers, which are padded: {list(padded) or 'there are none'}"
                    )
        for name, dtype in padded.items():
            value = self.value_for(name)
            if not _fits(value, dtype):
                raise ValueError(
                    f"pad_value={value!r} does not fit column {name!r}, which becomes a tensor of "
                    f"{dtype}: give each column its own, as in pad_value={{{name!r}: 0}}"
                )

    def value_for(self, name: str) -> Any:
        """What stands in a column where a list has ended."""
        return self._values.get(name, self._values.get(None, 0))

    def fill_for(self, path: tuple[str, ...], siblings: Collection[str]) -> Any:
        """What a padded column, or one that was added to it, is padded with; None for others."""
        name = path[-1]
        added = re.fullmatch(r"(.+)(_mask|_length(_\d+)?)", name, re.DOTALL)
        if added and added[1] in siblings:
            return 0
        is_padded = f"{name}_{'mask' if self.mode == 'mask' else 'length'}" in siblings
        return self.value_for(".".join(path)) if is_padded else None

    def length_for(self, name: str, longest: int) -> int:
        """How long the innermost lists of a column are where the longest has that many values.

        Raises
        ------
        ValueError
            If that is longer than any length of `pad_to`.
        """
        to = self._lengths.get(name, self._lengths.get(None))
        if to is None:
            return longest
        if isinstance(to, int):
            return -(-longest // to) * to
        place = bisect.bisect_left(to, longest)
        if place == len(to):
            raise ValueError(
                f"column {name!r} has a list of {longest} values, and pad_to={list(to)} ends at "
                f"{to[-1]}: add a longer one, or leave such rows out, as with "
                f'filter="array_length({name}) <= {to[-1]}"'
            )
        return to[place]

    def lengths_for(self, name: str, lengths: np.ndarray) -> np.ndarray:
        """As `length_for` of many lengths, none of which is too long."""
        to = self.described_for(name)
        if to is None:
            return lengths
        if isinstance(to, int):
            return -(-lengths // to) * to
        return np.array(to)[np.searchsorted(to, lengths)]

    def described_for(self, name: str) -> int | list[int] | None:
        """What `pad_to` says for a column."""
        to = self._lengths.get(name, self._lengths.get(None))
        return list(to) if isinstance(to, tuple) else to

    @property
    def columns_padded_to(self) -> list[str]:
        """The columns that `pad_to` names."""
        return [name for name in self._lengths if name is not None]


def _by_name(given: Any) -> Mapping[str | None, Any]:
    return given if isinstance(given, Mapping) else {None: given}


def _number(value: Any) -> int | float:
    with contextlib.suppress(TypeError):
        value = plain_value(value)
    if isinstance(value, int | float):
        return value
    raise TypeError(
        f"pad_value must be a number, or a dict of column name to number, not {value!r}"
    )


def _lengths(to: Any) -> int | tuple[int, ...] | None:
    if to is None:
        return None
    if not isinstance(to, Sequence | np.ndarray) or isinstance(to, str) or not len(to):
        or_else = "a sequence of lengths, a dict of column name to either, or "
        return whole_number("pad_to", to, 1, or_else=or_else)
    return tuple(sorted({whole_number("a length of pad_to", each, 1) for each in to}))


def _fits(value: Any, dtype: torch.dtype) -> bool:
    """Whether a tensor can hold a number as it is, or as its nearest fraction."""
    import torch

    if dtype == torch.bool:
        return value in (0, 1)
    if dtype.is_floating_point:
        return not math.isfinite(value) or abs(value) <= torch.finfo(dtype).max
    ends = torch.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and ends.min <= value <= ends.max
