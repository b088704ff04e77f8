# SPDX-License-Identifier: Apache-2.0
"""Selections: the rows of a pinned table that are meant, in base order.

Rows are named by their offset in the pinned version. An offset keeps its meaning there for
ever, takes eight bytes, and is what lancedb reads fastest. A filter, a split or a permutation
table is resolved to offsets once, where the dataset is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.table import Table

from ..common.checks import did_you_mean, whole_number
from ..common.shared_memory import SharedArray
from .sql import how_to_quote, reason, whole_condition

# Looking an id up costs about as much as scanning this many rows of the two system columns.
_SCANNED_ROWS_PER_LOOKUP = 6
_LOOKUP_ROWS = 65_536
# The part of a stretch of the table that has to be chosen for all of it to be cached.
_DENSE = 1 / 4


@dataclass(frozen=True)
class AllRows:
    """Every row of a range of the table: nothing to carry but two numbers."""

    num_rows: int
    start: int = 0

    def offsets(self, rows: np.ndarray) -> np.ndarray:
        """The offsets in the table of some rows."""
        return rows + self.start if self.start else rows

    def occurrences(self, rows: np.ndarray) -> None:
        """How often each row's offset stands before it in base order; None if each comes once."""
        return None

    def stretch(self) -> AllRows:
        """The part of the table that these rows are in; None if that has many more."""
        return self

    def describe(self) -> str:
        """Which rows these are, in words."""
        return "all rows" if not self.start else f"rows from {self.start}"

    def digest(self) -> bytes:
        """Differs between selections of other rows, or of the same rows in another order."""
        return f"{self.start}+{self.num_rows}".encode()


class ChosenRows:
    """Rows by offset, in one array: processes that are started map it, and do not copy it."""

    def __init__(self, offsets: np.ndarray, description: str):
        self._offsets = SharedArray(np.array(offsets, dtype=np.int64))
        self._description = description
        self._repeats: tuple[np.ndarray | None] | None = None  # until somebody asks

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_repeats": None}

    @property
    def num_rows(self) -> int:
        return len(self._offsets.array)

    def offsets(self, rows: np.ndarray) -> np.ndarray:
        return self._offsets.array[rows]

    def occurrences(self, rows: np.ndarray) -> np.ndarray | None:
        if self._repeats is None:
            self._repeats = (_repeats(self._offsets.array),)
        return None if self._repeats[0] is None else self._repeats[0][rows]

    def stretch(self) -> AllRows | None:
        offsets = self._offsets.array
        if not len(offsets):
            return None
        start, rows = int(offsets.min()), int(np.ptp(offsets)) + 1
        return AllRows(rows, start) if self.num_rows >= rows * _DENSE else None

    def describe(self) -> str:
        return self._description

    def digest(self) -> bytes:
        return hashlib.sha256(self._offsets.array.data).digest()


# An ordered choice of rows: each row's offset in the table.
Selection = AllRows | ChosenRows


def _repeats(offsets: np.ndarray) -> np.ndarray | None:
    """How often the same offset stands before each; None if none stands there twice."""
    if (np.diff(offsets) > 0).all():
        return None
    order = np.argsort(offsets, kind="stable")
    is_first = np.diff(offsets[order], prepend=-1) > 0
    if is_first.all():
        return None
    starts = np.flatnonzero(is_first)
    counts = np.diff(np.append(starts, len(offsets)))
    repeats = np.empty(len(offsets), np.int64)
    repeats[order] = np.arange(len(offsets)) - np.repeat(starts, counts)
    return repeats


def places_in(cached: Selection, selection: Selection, rows: np.ndarray) -> np.ndarray:
    """Where some rows of a selection stand among those that are cached: a stretch, or itself."""
    return selection.offsets(rows) - cached.start if isinstance(cached, AllRows) else rows


def all_rows(table: Table) -> AllRows:
    """Every row of the pinned table, in its stored order."""
    return AllRows(table.count_rows())


def permuted(table: Table, permutation: Table, split: int, name: str | None = None) -> ChosenRows:
    """The rows of one split of a permutation table, in its order."""
    offsets = offsets_of_row_ids(table, split_row_ids(permutation, split))
    return ChosenRows(offsets, f"split {name if name is not None else split!r}")


def filtered(table: Table, selection: Selection, filter: str) -> ChosenRows:
    """The rows of a selection for which an SQL expression is true, in the selection's order.

    Raises
    ------
    ValueError
        If the expression does not parse, names an unknown column or is not a condition.
    """
    matching = _matching_offsets(table, filter)
    if isinstance(selection, AllRows):
        ends = [selection.start, selection.start + selection.num_rows]
        first, last = np.searchsorted(matching, ends)
        return ChosenRows(matching[first:last], f"filter {filter!r}")
    offsets = selection.offsets(np.arange(selection.num_rows))
    words = f"{selection.describe()}, filter {filter!r}"
    return ChosenRows(offsets[np.isin(offsets, matching)], words)


def narrowed(selection: Selection, skip: int | None, take: int | None) -> Selection:
    """The selection after a permutation's ``with_skip`` and ``with_take``."""
    start = min(skip or 0, selection.num_rows)
    stop = selection.num_rows if take is None else min(start + take, selection.num_rows)
    if (start, stop) == (0, selection.num_rows):
        return selection
    if isinstance(selection, AllRows):
        return AllRows(stop - start, selection.start + start)
    words = f"{selection.describe()}, rows {start} to {stop}"
    return ChosenRows(selection.offsets(np.arange(start, stop)), words)


def in_stored_order(selection: Selection) -> Selection:
    """The same rows as the table stores them, so that neighbours can be read together."""
    if isinstance(selection, AllRows):
        return selection
    offsets = selection.offsets(np.arange(selection.num_rows))
    if (np.diff(offsets) >= 0).all():
        return selection
    return ChosenRows(np.sort(offsets), selection.describe())


def split_index(permutation: Table, split: int | str | None) -> int:
    """The number of a split given by number or name; None is the first one.

    Raises
    ------
    ValueError
        If there is no such split; the message lists the splits there are.
    """
    names = split_names(permutation)
    if isinstance(split, str):
        if split in names:
            return names.index(split)
        raise ValueError(f"unknown split {split!r}: {_known_splits(split, names)}")
    if split is None:
        return 0
    split = whole_number("split", split, or_else="a name or ", error=TypeError)
    if split < 0 or not permutation.count_rows(f"split_id = {int(split)}"):
        named = f", and its splits are {', '.join(map(repr, names))}" if names else ""
        raise ValueError(f"the permutation table has no rows in split {int(split)}{named}")
    return int(split)


def split_names(permutation: Table) -> list[str]:
    """The names a permutation table gives its splits; empty if they have none."""
    raw = (permutation.schema.metadata or {}).get(b"split_names")
    return json.loads(raw) if raw else []


def recorded_base(permutation: Table) -> tuple[int, str | None] | None:
    """The version and branch that a permutation table's row ids are of, if it says so.

    lancedb leaves the branch out for main.
    """
    metadata = permutation.schema.metadata or {}
    version, branch = metadata.get(b"base_version"), metadata.get(b"base_branch")
    return (int(version), branch.decode() if branch else None) if version else None


def split_row_ids(permutation: Table, split: int) -> np.ndarray:
    """The row ids of one split, in the permutation's order."""
    if "row_id" not in permutation.schema.names:
        raise ValueError(
            "permutation_table has no column 'row_id'; make it with "
            "lancedb.permutation.permutation_builder(table)....execute()"
        )
    rows = _every_row(permutation)
    if "split_id" in rows.column_names:
        return rows["row_id"].to_numpy()[rows["split_id"].to_numpy() == split]
    return rows["row_id"].to_numpy()


def offsets_of_row_ids(table: Table, row_ids: np.ndarray) -> np.ndarray:
    """Where in the pinned version each row id stands, in the order given.

    Raises
    ------
    ValueError
        If some of the ids are not in this version of the table.
    """
    known, inverse = np.unique(row_ids.astype(np.uint64), return_inverse=True)
    offsets = np.full(len(known), -1, np.int64)
    pairs = (
        _scan(table)
        if len(known) * _SCANNED_ROWS_PER_LOOKUP > table.count_rows()
        else _look_up(table, known)
    )
    for ids, at in pairs:
        place = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
        hit = known[place] == ids if len(known) else np.zeros(len(ids), bool)
        offsets[place[hit]] = at[hit]
    missing = int((offsets[inverse] < 0).sum())
    if missing:
        raise ValueError(
            f"{missing} of the permutation table's {len(row_ids)} row ids are not in version "
            f"{table.version} of table {table.name!r}: it was made from another table or version"
        )
    return offsets[inverse]


def _every_row(table: Table) -> pa.Table:
    try:
        return table.to_arrow()
    except NotImplementedError:  # a remote table has queries only
        return table.search().limit(max(table.count_rows(), 1)).to_arrow()


def _scan(table: Table) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    query = table.search().select(["_rowid", "_rowoffset"]).limit(table.count_rows())
    for batch in query.to_batches():
        yield batch["_rowid"].to_numpy(), batch["_rowoffset"].to_numpy().astype(np.int64)


def _look_up(table: Table, ids: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(ids), _LOOKUP_ROWS):
        chunk = ids[start : start + _LOOKUP_ROWS].tolist()
        rows = table.take_row_ids(chunk).select(["_rowid", "_rowoffset"]).to_arrow()
        yield rows["_rowid"].to_numpy(), rows["_rowoffset"].to_numpy().astype(np.int64)


def _matching_offsets(table: Table, filter: str) -> np.ndarray:
    if not isinstance(filter, str) or not filter.strip():
        raise ValueError(f"filter must be an SQL condition such as 'label < 5', not {filter!r}")
    names = table.schema.names
    query: Any = table.search().where(whole_condition(filter, names)).select(["_rowoffset"])
    try:
        found = query.limit(max(table.count_rows(), 1)).to_arrow()
    except (ValueError, RuntimeError) as error:
        hint = how_to_quote(filter, names)
        raise ValueError(f"filter {filter!r} cannot be evaluated: {hint}{reason(error)}") from error
    return np.sort(found["_rowoffset"].to_numpy().astype(np.int64))


def _known_splits(split: str, names: list[str]) -> str:
    if not names:
        return "the permutation table's splits have no names, give a number"
    return did_you_mean(split, names)
