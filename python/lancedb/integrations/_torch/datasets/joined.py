# SPDX-License-Identifier: Apache-2.0
"""Rows of several datasets as one sequence: first those of the first, then of the second."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrow.origins import Origins
from ..arrow.take import take
from ..cache.columns import Cache
from .origins import RandomSeed, joined
from .pinned_rows import PinnedRows


def by_part(rows: np.ndarray, lengths: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """For each part that has some of the rows: its number, and where in `rows` they stand.

    Examples
    --------
    >>> [(part, at.tolist()) for part, at in by_part(np.array([5, 0, 9]), [4, 2, 10])]
    [(0, [1]), (1, [0]), (2, [2])]
    """
    part = np.searchsorted(np.cumsum(lengths), rows, side="right")
    for number in np.unique(part).tolist():
        yield number, np.flatnonzero(part == number)


def read_joined(
    rows: np.ndarray,
    lengths: Sequence[int],
    begin: Callable[[int, np.ndarray], Callable[[], pa.RecordBatch]],
) -> pa.RecordBatch:
    """Rows of all parts as one batch, in the order asked for; the parts are read side by side.

    Parameters
    ----------
    rows : numpy.ndarray of int64
        In ``[0, sum(lengths))``; none at all are read of the first part.
    lengths : sequence of int
        How many rows each part has.
    begin : callable
        Begins to read rows of a part, and returns what waits for them.
    """
    starts = np.cumsum([0, *lengths])
    places = list(by_part(rows, lengths)) or [(0, np.arange(0))]
    reads = [begin(part, rows[at] - starts[part]) for part, at in places]
    batches = [finish() for finish in reads]
    if len(batches) == 1:
        return batches[0]
    schema = batches[0].schema
    alike = [pa.RecordBatch.from_arrays(each.columns, schema=schema) for each in batches]
    order = np.argsort(np.concatenate([at for _, at in places]))
    return take(_concatenated(alike), order)


def _concatenated(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of all rows; the dictionaries of a column may differ."""
    columns = [pa.concat_arrays(list(parts)) for parts in zip(*batches, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=batches[0].schema)


def check_alike(what: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise a ValueError that shows where two datasets differ that are to be joined."""
    differences = [
        f"{name} is {ours.get(name, '(not there)')} in one and "
        f"{theirs.get(name, '(not there)')} in the other"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]
    if not differences and list(ours) != list(theirs):
        differences = [f"the order is {list(ours)} in one and {list(theirs)} in the other"]
    if differences:
        raise ValueError(
            f"datasets are joined with + only if their {what} are the same: "
            f"{'; '.join(differences)}. Make both with the same arguments (columns= can rename, "
            "cast and order), or use torch.utils.data.ConcatDataset, which reads row by row"
        )


def refuse_files(names: Sequence[str]) -> None:
    """Raise a ValueError if there are columns whose values are files of one table each."""
    if names:
        raise ValueError(
            f"datasets with blobs='file' ({', '.join(map(repr, dict.fromkeys(names)))}) are not "
            "joined with +, since the files of one column are all of one table: use "
            "torch.utils.data.ConcatDataset with unwrap=True, or blobs='bytes'"
        )


class JoinedRows:
    """Rows of several pinned tables, one after the other; as `PinnedRows` of one.

    Parameters
    ----------
    parts : list of PinnedRows
        With the same columns. Each has its own version, cache and reader.
    """

    disk = here = None

    def __init__(self, parts: list[PinnedRows]):
        self.parts = parts
        first = parts[0]
        self.column_names = first.column_names
        self.cache: Cache = first.cache

    @property
    def table_name(self) -> str:
        """The tables' names."""
        return " + ".join(part.table_name for part in self.parts)

    @property
    def version(self) -> tuple[int | None, ...]:
        """That of each table."""
        return tuple(part.version for part in self.parts)

    @property
    def num_rows(self) -> int:
        """How many rows there are in all parts."""
        return sum(self._lengths)

    def read_schema(self) -> pa.Schema:
        """That of the first part, with whose names all are read."""
        return self.parts[0].read_schema()

    def read_categories(self) -> dict[str, list[Any]] | None:
        """The same in all parts."""
        return self.parts[0].read_categories()

    @property
    def reads_by(self) -> str:
        """What finds rows of the first part."""
        return self.parts[0].reads_by

    def describe(self) -> dict[str, Any]:
        """Which rows of which table versions these are, for a state."""
        parts = [part.describe() for part in self.parts]
        names = ("table", "branch", "version", "selection")
        fingerprints = "".join(str(part["fingerprint"]) for part in parts)
        digest = hashlib.sha256(fingerprints.encode()).hexdigest()[:32]
        return {name: [part[name] for part in parts] for name in names} | {"fingerprint": digest}

    def begin(self, rows: np.ndarray) -> Callable[[], pa.RecordBatch]:
        """Begin to read some by their place; what is returned waits for them.

        The parts are read side by side, as the first of them is waited for.
        """
        return functools.partial(
            read_joined, rows, self._lengths, lambda part, own: self.parts[part].begin(own)
        )

    def take_counts(self) -> Counter[str]:
        """As of all parts."""
        return sum((part.take_counts() for part in self.parts), Counter())

    def offsets(self, rows: np.ndarray) -> np.ndarray:
        """Their places: there is no one table in which they stand."""
        return rows

    def origins(self, rows: np.ndarray, random: RandomSeed | None, source: str = "") -> Origins:
        """Where some come from."""
        parts = [
            (number, at, self.parts[number].origins(own, random, str(number)))
            for number, at, own in self._by_part(rows)
        ]
        return joined(parts, len(rows))

    def note(self, error: Exception, doing: str, rows: np.ndarray) -> None:
        """Have an error's traceback say which of them it came from."""
        for number, _, own in self._by_part(rows):
            self.parts[number].note(error, doing, own)

    def described(self) -> list[str]:
        """Which these are, in words."""
        tables = [f"{each.described()[0]}, {each.described()[1]}" for each in self.parts]
        return [" + ".join(f"({each})" for each in tables), f"rows={self.num_rows}"]

    @property
    def _lengths(self) -> list[int]:
        return [part.num_rows for part in self.parts]

    def _by_part(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """As `by_part`, with the places of the rows in their part."""
        starts = np.cumsum([0, *self._lengths])
        for number, at in by_part(rows, self._lengths):
            yield number, at, rows[at] - starts[number]
