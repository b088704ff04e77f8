# SPDX-License-Identifier: Apache-2.0
"""A dataset's batches as they are planned by `TokenBudget` or `Packing`, epoch by epoch."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import gcd
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..cache.directory import CacheSettings
from ..cache.numbers import cached_numbers
from ..common.per_process import PerProcess
from ..convert.nulls import NullPolicy
from ..convert.padding import RaggedPolicy
from ..convert.tensors import is_list, is_ragged
from ..order.batch_sequence import BatchSequence
from ..order.batch_steps import BatchSteps
from ..order.batch_units import DocumentShards
from ..order.index_shuffle import derive_key
from ..order.shards import Shards
from ..order.shuffle import ShuffleSpec
from ..table.arguments import View
from ..table.row_lengths import RowLengths
from .batching import Batching, Packing, TokenBudget

SHARDS = 8
# The layout of rows is that for steps of so many, as there is no number of rows in a step.
NOMINAL_BATCH = 256
# All shards' groups that are open at once.
_GROUPS_BYTES = 64 << 20
_MOST_GROUP_ROWS = 4096
# Rows that are not shuffled are read in runs of so many.
_CHUNK = 32
_LEAST_GROUP_ROWS = 8
_SEQUENCES_CACHED = 2
# A document of more is a mistake in lengths=, and would take all memory.
_MOST_PIECES = 1 << 20


class Counted(NamedTuple):
    """A table whose rows are documents.

    Parameters
    ----------
    view : View
        What is read of it.
    row_bytes : int
        Arrow bytes of an average row.
    cache : CacheSettings, optional
        Where its lengths are cached.
    """

    view: View
    row_bytes: int
    cache: CacheSettings | None


Keyed = tuple[DocumentShards, int | None]


def shards_of_table(order: ShuffleSpec, epoch: int, layout: Any) -> Keyed:
    """One table's rows in shards, and what decides the order of units."""
    plan = order.with_layout(layout).plan(epoch, NOMINAL_BATCH)
    if plan.shuffle == "none":  # every epoch is alike
        return Shards(replace(plan, chunk=_CHUNK), SHARDS, rotation=0), None
    return Shards(plan, SHARDS), derive_key(plan.seed, plan.epoch)


def check_lanes(order: ShuffleSpec) -> None:
    """Raise unless lanes can be assigned to shards."""
    layout = order.layout(NOMINAL_BATCH)
    if order.asked.get("lanes", "auto") != "auto" and layout.lanes % SHARDS:
        raise ValueError(
            f"lanes={layout.lanes} must be a multiple of {SHARDS} with batching, as lanes are "
            f"shared out to {SHARDS} shards"
        )


class _Sequences:
    """Those of one process: a fork may come while another thread plans one of them."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, Any], BatchSequence] = {}
        self.lock = threading.Lock()


class PlannedBatches:
    """The batches of a dataset, epoch by epoch.

    Parameters
    ----------
    batching : TokenBudget or Packing
        What the user asked for.
    tables : mapping of str to Counted
        By the name of a mixture's source; of one table by none.
    shards_of : callable
        The shards of an epoch in a layout, and what decides the order of units; None for that of
        documents.
    ragged : RaggedPolicy
        What lists are padded to.
    nulls : NullPolicy
        What stands in for nulls.
    """

    def __init__(
        self,
        batching: Batching,
        tables: Mapping[str, Counted],
        shards_of: Callable[[int, Any], Keyed],
        ragged: RaggedPolicy,
        nulls: NullPolicy,
    ):
        self._batching = batching
        self._shards_of = shards_of
        self._ragged = ragged
        self._row_bytes = max(table.row_bytes for table in tables.values())
        counted = [_counted(batching, table.view) for table in tables.values()]
        name, self._expression = counted[0]  # all tables have the same columns
        self._padded = name if name is not None else _only_padded(ragged)
        fill = _fill(nulls, name or self._expression)
        self._lengths = {
            of: self._lengths_in(table, expression, fill)
            for (of, table), (_, expression) in zip(tables.items(), counted, strict=True)
        }
        self._here: PerProcess[_Sequences] = PerProcess()

    def _lengths_in(self, table: Counted, expression: str, fill: int | None) -> RowLengths:
        cached = None if table.cache is None else partial(cached_numbers, table.cache)
        recipe, selection = table.view.recipe, table.view.selection
        return RowLengths(recipe, selection, expression, fill, self._refuse_too_long, cached)

    @property
    def group_rows(self) -> int:
        """Rows of a group."""
        if self._batching.group_rows != "auto":
            return self._batching.group_rows
        most = _GROUPS_BYTES // (SHARDS * self._row_bytes)
        most = most // 64 * 64 if most > 64 else max(_LEAST_GROUP_ROWS, most)
        return min(_MOST_GROUP_ROWS, most)

    def describe(self) -> dict[str, Any]:
        """All that batches depend on, beside the order of rows."""
        described = {
            **self._batching._described(),
            "lengths": self._expression,
            "group_rows": self.group_rows,
            "pad_to": self._ragged.described_for(self._padded) if self._is_padded else None,
            "shards": SHARDS,
        }
        named = {f"batching.{name}": value for name, value in described.items()}
        return {"batching": type(self._batching).__name__, **named}

    def times_read(self, processes: int) -> int:
        """How often each block is read by so many processes that take batches in turn."""
        return processes // gcd(processes, SHARDS)

    def sequence(self, epoch: int, layout: Any) -> BatchSequence:
        """The batches of an epoch, one object for all callers: they plan it together."""
        here, key = self._here.get(_Sequences), (epoch, layout)
        with here.lock:
            found = here.known.pop(key, None) or self._new_sequence(epoch, layout)
            here.known[key] = found
            for old in list(here.known)[:-_SEQUENCES_CACHED]:
                del here.known[old]
            return found

    def order(
        self,
        rank: int,
        world_size: int,
        drop_last: bool,
        describe: Callable[[Any], dict[str, Any]],
        layout_of: Callable[[Any], Any] = lambda layout: layout,
    ) -> BatchOrder:
        """What cursors ask of it for one rank.

        Parameters
        ----------
        rank, world_size, drop_last
            As of `BatchSteps`.
        describe : callable
            As of `BatchOrder`.
        layout_of : callable
            The layout to take for one that a cursor has.
        """

        def steps_of(epoch: int, layout: Any) -> BatchSteps:
            sequence = self.sequence(epoch, layout_of(layout))
            return BatchSteps(sequence, rank, world_size, drop_last)

        return BatchOrder(steps_of, describe, drop_last)

    def _new_sequence(self, epoch: int, layout: Any) -> BatchSequence:
        shards, key = self._shards_of(epoch, layout)
        lengths_of = partial(self._lengths_of, shards)
        return BatchSequence(shards, lengths_of, self._batching._planner, self.group_rows, key)

    def _lengths_of(self, shards: DocumentShards, rows: np.ndarray) -> np.ndarray:
        lengths = np.empty(len(rows), np.int64)
        for name, here, of_source in shards.by_source(rows):
            lengths[here] = self._lengths[name].of(of_source)
        return self._ragged.lengths_for(self._padded, lengths) if self._is_padded else lengths

    @property
    def _is_padded(self) -> bool:
        return self._ragged.pads and isinstance(self._batching, TokenBudget)

    def _refuse_too_long(self, lengths: np.ndarray, named: Callable[[int], str]) -> None:
        if not len(lengths):
            return
        row = int(lengths.argmax())
        longest = int(lengths[row])
        if isinstance(self._batching, Packing):
            if self._batching.too_long == "error" and longest > self._batching.length:
                raise ValueError(
                    f"{named(row)} has {longest} tokens, more than Packing(length="
                    f"{self._batching.length}): pass too_long='split' or 'truncate'"
                )
            pieces = -(-longest // self._batching.length)
            if self._batching.too_long == "split" and pieces > _MOST_PIECES:
                raise ValueError(
                    f"{named(row)} has {longest} tokens by lengths={self._expression!r}, which are "
                    f"{pieces} pieces of {self._batching.length}: have it say how many there are, "
                    "or pass too_long='truncate'"
                )
            return
        padded = self._ragged.length_for(self._padded, longest) if self._is_padded else longest
        if padded > self._batching.tokens:
            more = f", padded to {padded}," if padded > longest else ","
            raise ValueError(
                f"{named(row)} has {longest} tokens{more} more than TokenBudget(tokens="
                f"{self._batching.tokens}): give it more, or leave such rows out with filter="
            )


@dataclass(frozen=True)
class BatchOrder:
    """The order of planned batches as one rank takes them.

    Parameters
    ----------
    steps_of : callable
        The steps of an epoch in a layout.
    describe : callable
        All that the order depends on, with a layout.
    drop_last : bool
        As of `BatchSteps`.
    epoch : int
        Which epoch this is of.
    layout : Layout, optional
        That of a loaded state.
    """

    steps_of: Callable[[int, Any], BatchSteps]
    describe: Callable[[Any], dict[str, Any]]
    drop_last: bool
    epoch: int = 0
    layout: Any = None

    def of(self, epoch: int, layout: Any) -> BatchOrder:
        """The order of this very epoch."""
        return replace(self, epoch=epoch, layout=layout)

    @cached_property
    def _steps(self) -> BatchSteps:
        return self.steps_of(self.epoch, self.layout)

    def has_step(self, position: int) -> bool:
        """Whether there is one more step from this position on; warns if an epoch has none."""
        found = self._steps.has_step(position)
        if not found and not position and (documents := self._steps.left_out()):
            warnings.warn(
                f"{documents} documents fill fewer batches than one step of "
                f"{self._steps.world_size} has: drop_last=True leaves all of them out",
                stacklevel=2,
            )
        return found

    def after(self, position: int) -> int:
        return self._steps.after(position)

    def share(self, position: int) -> tuple[int, int]:
        return self._steps.share(position)

    def steps_before(self, position: int) -> int:
        return self._steps.steps_before(position)

    def known_steps(self) -> int | None:
        """How many steps the epoch has, once it is planned to its end."""
        return self._steps.known_steps()

    def all_steps(self) -> int:
        """How many steps the epoch has; plans all of it."""
        return self._steps.all_steps()

    @property
    def arguments(self) -> dict[str, Any]:
        """Those that say how batches become steps."""
        return {"drop_last": self.drop_last}


def _counted(batching: Batching, view: View) -> tuple[str | None, str]:
    """The column of lists that is counted, if any, and what is read to know the lengths."""
    lengths, schema = batching.lengths, view.schema
    if isinstance(batching, Packing) and lengths is None:
        return batching.column, view.columns[batching.column]
    if lengths is None:
        lists = [of.name for of in schema if is_ragged(of.type)]
        if len(lists) != 1:
            found = f"there are {lists}" if lists else "there is none"
            raise ValueError(
                f"TokenBudget counts the lists of the only column that has some, and {found}: say "
                "which with lengths="
            )
        lengths = lists[0]
    if lengths not in view.columns:
        return None, lengths
    kind: pa.DataType = schema.field(lengths).type
    return lengths if is_list(kind) else None, view.columns[lengths]


def _only_padded(ragged: RaggedPolicy) -> str:
    """The name by which `pad_to` is asked where `lengths` are an expression."""
    names = ragged.columns_padded_to
    if len(names) > 1:
        raise ValueError(
            f"pad_to says something for {', '.join(map(repr, names))}: have lengths= name the "
            "column that is to keep the budget, or pass one pad_to for all"
        )
    return names[0] if names else ""


def _fill(nulls: NullPolicy, name: str) -> int | None:
    value = nulls.value_for(name)
    return None if value is None else int(value) if isinstance(value, (int, float)) else 0
