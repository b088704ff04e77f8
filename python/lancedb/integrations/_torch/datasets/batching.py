# SPDX-License-Identifier: Apache-2.0
"""`TokenBudget` and `Packing`, and a dataset's batches as they are planned by one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from math import gcd
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ..convert.nulls import NullPolicy
from ..convert.packed import PackedRows
from ..convert.padding import RaggedPolicy
from ..convert.tensors import is_list, is_ragged
from ..order.batch_sequence import BatchSequence
from ..order.batch_steps import BatchSteps
from ..order.index_shuffle import derive_key
from ..order.packing import PackingPlanner
from ..order.shards import Shards
from ..order.shuffle import ShuffleSpec
from ..order.token_budget import BudgetPlanner
from ..table.arguments import View
from ..table.row_lengths import RowLengths

SHARDS = 8
# The layout of rows is that for steps of so many, as there is no number of rows in a step.
NOMINAL_BATCH = 256
# All shards' groups that are open at once.
_GROUPS_BYTES = 64 << 20
_MOST_GROUP_ROWS = 4096
# Rows that are not shuffled are read in runs of so many.
_CHUNK = 32
_LEAST_GROUP_ROWS = 8
_SEQUENCES_HELD = 2
_TOO_LONG = ("split", "truncate", "error")
_UNBOUNDED = 2**62


@dataclass(frozen=True)
class TokenBudget:
    """Batches of as many rows as fit a budget of tokens, padding included.

    For `LanceIterableTorchDataset`, as its ``batching``. Rows of about the same length make a
    batch, so that little is padded, and batches of all ranks at a step are about as long.

    Parameters
    ----------
    tokens : int
        What a batch may have: its rows times the longest of them, after the dataset's ``pad_to``.
    lengths : str, optional
        How many tokens a row has: a column of whole numbers, a column of lists, which are counted,
        or an SQL expression such as ``"n_prompt + n_answer"``. Default: the only column of lists.
        To count lists all of them are read once; a column of numbers is read in no time.
    group_rows : int or "auto", default "auto"
        How many rows of a shard are sorted by length at a time. More pad less. ``"auto"``: 4,096,
        or fewer if eight groups of them would be more than 64 MB.
    max_rows : int, optional
        How many rows a batch may have, however short they are.

    Raises
    ------
    TypeError, ValueError
        If an argument is no such number or name.

    Examples
    --------
    >>> import lancedb
    >>> from lancedb.integrations.torch import LanceIterableTorchDataset, TokenBudget
    >>> rows = [{"tokens": list(range(1 + i % 7))} for i in range(1000)]
    >>> table = lancedb.connect("memory://").create_table("documents", rows)
    >>> dataset = LanceIterableTorchDataset(
    ...     table, format="torch", ragged="pad", shuffle=True, batching=TokenBudget(64)
    ... )
    >>> all(batch["tokens"].numel() <= 64 for batch in dataset)
    True
    """

    tokens: int
    _: KW_ONLY
    lengths: str | None = None
    group_rows: int | Literal["auto"] = "auto"
    max_rows: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _positive(self, "tokens"))
        _check_lengths(self)
        if self.group_rows != "auto":
            object.__setattr__(self, "group_rows", _positive(self, "group_rows"))
        if self.max_rows is not None:
            object.__setattr__(self, "max_rows", _positive(self, "max_rows"))

    @property
    def _packed(self) -> PackedRows | None:
        return None

    @property
    def _planner(self) -> BudgetPlanner:
        return BudgetPlanner(self.tokens, self.max_rows or _UNBOUNDED)

    def _described(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "max_rows": self.max_rows}


@dataclass(frozen=True)
class Packing:
    """Batches of rows of one length, into which documents are packed.

    For `LanceIterableTorchDataset`, as its ``batching``, in ``format="torch"`` or ``"numpy"``. A
    batch has the documents' tokens under the column's own name, of shape ``(rows, length)``, and

    - ``position_ids``, int64 ``(rows, length)``: they begin with 0 in each document;
    - ``document_ids``, int64 ``(rows, length)``: from 1 in each row, and 0 where nothing is;
    - ``cu_seqlens``, int32: where each document begins in all rows one after the other, and where
      the last one ends; what is left of a row counts as one;
    - ``max_seqlen``, int: the longest of these.

    Other columns of lists, as long as those of `column`, are packed in the same places; all other
    columns have one value for each document, in sequence.

    Parameters
    ----------
    length : int
        Tokens of a row.
    column : str, default "tokens"
        The lists of numbers to pack.
    rows : int, default 8
        Rows of a batch. At the end of an epoch it may have fewer.
    too_long : {"split", "truncate", "error"}, default "split"
        What happens to a document of more than `length` tokens: it becomes several documents, or
        loses its end, or is an error that names its row.
    lengths : str, optional
        A column or SQL expression that says how many tokens a row has; it must be right. Default:
        the lists are counted, for which all of them are read once.
    group_rows : int or "auto", default "auto"
        How many documents of a shard are packed at a time. ``"auto"``: 4,096, or fewer if eight
        groups of them would be more than 64 MB.

    Raises
    ------
    TypeError, ValueError
        If an argument is no such number or name.

    Examples
    --------
    >>> import lancedb
    >>> from lancedb.integrations.torch import LanceIterableTorchDataset, Packing
    >>> rows = [{"tokens": [i] * (1 + i % 3)} for i in range(100)]
    >>> table = lancedb.connect("memory://").create_table("documents", rows)
    >>> dataset = LanceIterableTorchDataset(
    ...     table, format="torch", batching=Packing(6, rows=2), drop_last=False
    ... )
    >>> batch = next(iter(dataset))
    >>> batch["tokens"].shape, batch["position_ids"].shape, batch["cu_seqlens"].dtype
    (torch.Size([2, 6]), torch.Size([2, 6]), torch.int32)
    """

    length: int
    _: KW_ONLY
    column: str = "tokens"
    rows: int = 8
    too_long: Literal["split", "truncate", "error"] = "split"
    lengths: str | None = None
    group_rows: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", _positive(self, "length"))
        object.__setattr__(self, "rows", _positive(self, "rows"))
        if not isinstance(self.column, str):
            raise TypeError(f"Packing(column=...) must be a column's name, not {self.column!r}")
        if self.too_long not in _TOO_LONG:
            raise ValueError(
                f"Packing(too_long=...) must be one of {', '.join(_TOO_LONG)}, not "
                f"{self.too_long!r}"
            )
        _check_lengths(self)
        if self.group_rows != "auto":
            object.__setattr__(self, "group_rows", _positive(self, "group_rows"))

    @property
    def _packed(self) -> PackedRows | None:
        return PackedRows(self.column, self.length)

    @property
    def _planner(self) -> PackingPlanner:
        return PackingPlanner(self.length, self.rows, self.too_long == "split")

    def _described(self) -> dict[str, Any]:
        return {
            "length": self.length,
            "column": self.column,
            "rows": self.rows,
            "too_long": self.too_long,
        }


Batching = TokenBudget | Packing


def check_batching(
    batching: Any, batch_size: int | None, unwrap: bool, on_error: Any
) -> Batching | None:
    """`batching` if it goes with the other arguments."""
    if batching is None:
        return None
    if not isinstance(batching, Batching):
        raise TypeError(f"batching must be TokenBudget(...) or Packing(...), not {batching!r}")
    name = type(batching).__name__
    if batch_size is not None:
        raise ValueError(
            f"batch_size={batch_size!r} and batching={name}(...) both say how large a batch is: "
            "leave batch_size out"
        )
    if unwrap:
        raise ValueError(f"unwrap=True is for batch_size=1, and {name} makes batches of many rows")
    if isinstance(batching, Packing) and on_error != "raise":
        raise ValueError(
            f"on_error={on_error!r} leaves rows out of a batch, and a packed batch has its places "
            "planned: leave on_error out"
        )
    return batching


def refuse_context(batching: Batching, are_drawn: bool) -> None:
    """Raise where the rows of a batch have no random numbers of their own for a transform."""
    if isinstance(batching, Packing) or are_drawn:
        with_draws = " with sample_weights or balance_by" if are_drawn else ""
        raise ValueError(
            f"transform takes (batch, context), and batches of {type(batching).__name__}"
            f"{with_draws} have no context: give one that takes the batch alone"
        )


class PlannedBatches:
    """The batches of a dataset, epoch by epoch.

    Parameters
    ----------
    batching : TokenBudget or Packing
        What the user asked for.
    view : View
        What the dataset reads.
    order : ShuffleSpec
        Of its rows.
    ragged : RaggedPolicy
        What lists are padded to.
    nulls : NullPolicy
        What stands in for nulls.
    """

    def __init__(
        self,
        batching: Batching,
        view: View,
        order: ShuffleSpec,
        ragged: RaggedPolicy,
        nulls: NullPolicy,
    ):
        self._batching = batching
        self._order = order
        self._ragged = ragged
        name, expression = _counted(batching, view)
        self._padded = name if name is not None else _only_padded(ragged)
        fill = _fill(nulls, name or expression)
        self._lengths = RowLengths(
            view.recipe, view.selection, expression, fill, self._refuse_too_long
        )
        self._begin_use()
        self._refuse_lanes()

    def _begin_use(self) -> None:
        self._sequences: dict[tuple[int, Any], BatchSequence] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sequences": None, "_lock": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin_use()

    @property
    def group_rows(self) -> int:
        """Rows of a group."""
        if self._batching.group_rows != "auto":
            return self._batching.group_rows
        most = _GROUPS_BYTES // (SHARDS * self._order.row_bytes)
        most = most // 64 * 64 if most > 64 else max(_LEAST_GROUP_ROWS, most)
        return min(_MOST_GROUP_ROWS, most)

    def describe(self) -> dict[str, Any]:
        """All that batches depend on, beside the order of rows."""
        described = {
            **self._batching._described(),
            "lengths": self._lengths.expression,
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
        """The batches of an epoch, which all who ask for them plan together."""
        with self._lock:
            key = (epoch, layout)
            found = self._sequences.pop(key, None) or self._new_sequence(epoch, layout)
            self._sequences[key] = found
            for old in list(self._sequences)[:-_SEQUENCES_HELD]:
                del self._sequences[old]
            return found

    def _new_sequence(self, epoch: int, layout: Any) -> BatchSequence:
        plan = self._order.with_layout(layout).plan(epoch, NOMINAL_BATCH)
        if plan.shuffle == "none":  # every epoch is alike
            shards, key = Shards(replace(plan, chunk=_CHUNK), SHARDS, rotation=0), None
        else:
            shards, key = Shards(plan, SHARDS), derive_key(plan.seed, plan.epoch)
        planner = self._batching._planner
        return BatchSequence(shards, self._lengths_of, planner, self.group_rows, key)

    def _lengths_of(self, rows: np.ndarray) -> np.ndarray:
        lengths = self._lengths.of(rows)
        return self._ragged.lengths_for(self._padded, lengths) if self._is_padded else lengths

    @property
    def _is_padded(self) -> bool:
        return self._ragged.pads and isinstance(self._batching, TokenBudget)

    def _refuse_lanes(self) -> None:
        layout = self._order.layout(NOMINAL_BATCH)
        if self._order.asked.get("lanes", "auto") != "auto" and layout.lanes % SHARDS:
            raise ValueError(
                f"lanes={layout.lanes} must be a multiple of {SHARDS} with batching, as lanes are "
                f"shared out to {SHARDS} shards"
            )

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
    described : callable
        The description of the order with a layout.
    drop_last : bool
        As of `BatchSteps`.
    epoch : int
        Which epoch this is of.
    layout : Layout, optional
        That of a loaded state.
    """

    steps_of: Callable[[int, Any], BatchSteps]
    described: Callable[[Any], dict[str, Any]]
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
        """Whether there is one more step from this position on."""
        return self._steps.has_step(position)

    def after(self, position: int) -> int:
        """The position after the step that begins at this one."""
        return self._steps.after(position)

    def share(self, position: int) -> tuple[int, int]:
        """The documents that the rank takes at the step that begins at this position."""
        return self._steps.share(position)

    def steps_before(self, position: int) -> int:
        """How many steps were made where this position was reached."""
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

    def describe(self, layout: Any) -> dict[str, Any]:
        """All that the order depends on, with this layout or its own."""
        return self.described(layout)


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


def _positive(batching: Any, name: str) -> int:
    value = getattr(batching, name)
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(
            f"{type(batching).__name__}({name}=...) must be a whole number above 0, not {value!r}"
        )
    return int(value)


def _check_lengths(batching: Any) -> None:
    lengths = batching.lengths
    if lengths is not None and (not isinstance(lengths, str) or not lengths.strip()):
        raise TypeError(
            f"{type(batching).__name__}(lengths=...) must be a column's name or an SQL expression, "
            f"not {lengths!r}"
        )
