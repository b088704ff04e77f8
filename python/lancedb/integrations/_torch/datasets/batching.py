# SPDX-License-Identifier: Apache-2.0
"""`TokenBudget` and `Packing`: what makes batches in place of a number of rows."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from ..common.checks import one_of, whole_number
from ..convert.packed import PackedRows
from ..order.packing import PackingPlanner
from ..order.token_budget import BudgetPlanner

_TOO_LONG = ("split", "truncate", "error")
_UNBOUNDED = 2**62


@dataclass(frozen=True)
class TokenBudget:
    """Batches of as many rows as fit a budget of tokens, padding included.

    Give it to `LanceIterableTorchDataset` as ``batching``. A batch has rows of about the same
    length, so that little is padded, and at each step the batches of all ranks are about as long.

    Parameters
    ----------
    tokens : int
        How large a batch may be: the number of its rows times the length of the longest, after the
        dataset's ``pad_to``.
    lengths : str, optional
        How many tokens a row has: a column of whole numbers, a column of lists, which are counted,
        or an SQL expression such as ``"n_prompt + n_answer"``. Default: the only column of lists.
        To count lists, all of them are read once; a column of numbers is read in no time, and is
        taken at its word.
    group_rows : int or "auto", default "auto"
        How many rows of a shard are sorted by length at a time. Larger groups pad less. ``"auto"``:
        4,096, or fewer if eight groups of them would be more than 64 MB.
    max_rows : int, optional
        How many rows a batch may have, however short they are.

    Raises
    ------
    TypeError, ValueError
        If an argument is not such a number or name. The dataset that it is given to raises a
        ValueError when it is made, if `lengths` cannot be evaluated, are not whole numbers or
        lists, or are not given although there is not exactly one column of lists; and when the
        first batch is planned, if a row, which it names, is longer than the budget, empty or null.

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
        _set_positive(self, "tokens")
        _check_lengths(self)
        if self.max_rows is not None:
            _set_positive(self, "max_rows")

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

    Give it to `LanceIterableTorchDataset` as ``batching``, in ``format="torch"`` or ``"numpy"``. A
    batch has the documents' tokens under the column's own name, of shape ``(rows, length)``, and

    - ``position_ids``, int64 ``(rows, length)``: from 0 in each document;
    - ``document_ids``, int64 ``(rows, length)``: from 1 in each row, and 0 where there is nothing;
    - ``cu_seqlens``, int32: where each document begins if all rows are laid end to end, and where
      the last one ends; what is left of a row counts as a document;
    - ``max_seqlen``, int: the longest of these.

    Other columns of lists of numbers, as long as those of `column`, are packed in the same places.
    All other columns, including vectors of a fixed size, have one value for each document, in
    order: a document in several pieces has one for each piece.

    Parameters
    ----------
    length : int
        Tokens of a row.
    column : str, default "tokens"
        The lists of numbers to pack.
    rows : int, default 8
        Rows of a batch. With ``drop_last=False`` the last batch of an epoch may have fewer, and on
        several ranks also one more, if too few are left for a separate step.
    too_long : {"split", "truncate", "error"}, default "split"
        What happens to a document of more than `length` tokens: it becomes several documents, or
        loses its end, or is an error that names its row.
    lengths : str, optional
        A column or SQL expression that says how many tokens a row has; it must be right. Default:
        the lists are counted, and all of them are read once for this.
    group_rows : int or "auto", default "auto"
        How many documents of a shard are packed at a time. ``"auto"``: 4,096, or fewer if eight
        groups of them would be more than 64 MB.

    Raises
    ------
    TypeError, ValueError
        If an argument is not such a number or name. The dataset that it is given to raises a
        ValueError when it is made, if `column` has no lists of numbers, or a column has a name that
        is added; when the first batch is planned, if a document, whose row it names, is empty or
        null, or is too long with ``too_long="error"``; and when a batch is made, if lists beside a
        document's are not as long, or `lengths` are wrong.

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
        _set_positive(self, "length", "rows")
        if not isinstance(self.column, str):
            raise TypeError(f"Packing(column=...) must be a column's name, not {self.column!r}")
        one_of("Packing(too_long=...)", self.too_long, _TOO_LONG)
        _check_lengths(self)

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


def _set_positive(batching: Any, *names: str) -> None:
    """Check fields that are whole numbers; a numpy integer becomes an int."""
    for name in names:
        label = f"{type(batching).__name__}({name}=...)"
        object.__setattr__(batching, name, whole_number(label, getattr(batching, name), 1))


def _check_lengths(batching: Any) -> None:
    lengths = batching.lengths
    if lengths is not None and (not isinstance(lengths, str) or not lengths.strip()):
        raise TypeError(
            f"{type(batching).__name__}(lengths=...) must be a column's name or an SQL expression, "
            f"not {lengths!r}"
        )
    if batching.group_rows != "auto":
        _set_positive(batching, "group_rows")
