# SPDX-License-Identifier: Apache-2.0
"""`TokenBudget` and `Packing`: what makes batches in place of a number of rows."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np

from ..convert.packed import PackedRows
from ..order.packing import PackingPlanner
from ..order.token_budget import BudgetPlanner

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
        To count lists all of them are read once; a column of numbers is read in no time, and is
        taken at its word.
    group_rows : int or "auto", default "auto"
        How many rows of a shard are sorted by length at a time. More pad less. ``"auto"``: 4,096,
        or fewer if eight groups of them would be more than 64 MB.
    max_rows : int, optional
        How many rows a batch may have, however short they are.

    Raises
    ------
    TypeError, ValueError
        If an argument is no such number or name. The dataset that it is given to raises a
        ValueError where it is made, if `lengths` cannot be evaluated, are no whole numbers or
        lists, or are not given where there is not just one column of lists; and, where the first
        batch is planned, if a row is longer than the budget, empty or null, which it names.

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

    Other columns of lists of numbers, as long as those of `column`, are packed in the same places.
    All other columns, vectors of a fixed size among them, have one value for each document, in
    sequence: a document in several pieces has one for each piece.

    Parameters
    ----------
    length : int
        Tokens of a row.
    column : str, default "tokens"
        The lists of numbers to pack.
    rows : int, default 8
        Rows of a batch. With ``drop_last=False`` the last of an epoch may have fewer, and on
        several ranks also one more, where too few are left for a step of their own.
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
        If an argument is no such number or name. The dataset that it is given to raises a
        ValueError where it is made, if `column` has no lists of numbers, or a column has a name
        that is added; where the first batch is planned, if a document is empty or null, or is too
        long and ``too_long="error"``, which names its row; and where a batch is made, if lists
        beside a document's are not as long, or `lengths` are wrong.

    Notes
    -----
    The documents of a group are packed by best fit, the longest first, over a histogram of their
    lengths: Krell et al., "Efficient Sequence Packing without Cross-contamination", 2021.

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
