# SPDX-License-Identifier: Apache-2.0
"""Permutations in a forked process, read as datasets are.

Which version of a table a permutation has is known to lancedb's runtime alone, and so is noted
before the fork. What takes a request to a store is found out by the forked process, at its first
fetch.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..common.process import PROCESS
from ..common.timeout import within
from .arguments import rows_of
from .permutation_rows import PermutationRows
from .reader import Reader
from .recipe import Recipe
from .selection import AllRows, Selection
from .sources import asks_anew

_log = logging.getLogger("lancedb.integrations.torch")
_NOTE = "_rows_for_forks"
# How long a process that forks waits, once, for splits to be looked up on a disk, and for tables
# that do not say their version without a look at their store.
_NOTED_WITHIN = 30.0


class GivenUp(weakref.WeakSet[Any]):
    """The permutations of this process that cannot be read after a fork."""


@dataclass(frozen=True)
class Note:
    """The rows of a permutation, and the readers of those of its copies that have the same."""

    recipe: Recipe
    rows: Selection | PermutationRows
    skip: int | None
    take: int | None
    readers: dict[tuple, Reader] = field(default_factory=dict)

    def is_of(self, permutation: Any) -> bool:
        """Whether the permutation that has this note was given no other rows since."""
        return (self.skip, self.take) == (permutation.offset, permutation.limit)

    def reader(self, columns: dict[str, str]) -> Reader:
        """What reads some columns of these rows."""
        key = tuple(columns.items())
        if key not in self.readers:
            self.readers[key] = self._reader(columns)
        return self.readers[key]

    def _reader(self, columns: dict[str, str]) -> Reader:
        if not isinstance(self.rows, PermutationRows):
            return Reader(self.recipe, self.rows, columns)
        reader = Reader(self.recipe, AllRows(0), columns)
        # Of the same process that will read them: another one would take seconds to start.
        reader.selection = reader.handle().chosen(self.rows)
        return reader


def note_rows(permutations: Iterable[Any]) -> None:
    """Note the rows of permutations, whose copies take the note along; before a fork."""
    given_up = PROCESS.part(GivenUp)
    fresh = [each for each in permutations if each not in given_up and _note_of(each) is None]
    known: dict[tuple, Note] = {}
    ends = time.monotonic() + _NOTED_WITHIN
    for permutation in sorted(fresh, key=_may_wait):
        limit = ends - time.monotonic() if _may_wait(permutation) else None
        try:
            if limit is not None and limit <= 0:  # nor is it asked after the fork
                raise RuntimeError(_too_late())
            note = within(limit, lambda of=permutation: _noted(of, known), late=_too_late)
        except Exception as error:  # of any kind: a fork must not fail for it
            given_up.add(permutation)
            name = permutation.base_table.name
            _log.debug("a permutation of %s cannot be read after a fork: %s", name, error)
        else:
            setattr(permutation, _NOTE, note)


def _may_wait(permutation: Any) -> bool:
    return permutation.permutation_table is not None or asks_anew(permutation.base_table)


def _too_late() -> str:
    return "its store did not answer"


def _noted(permutation: Any, known: dict[tuple, Note]) -> Note:
    """A permutation's note, one for all that have the same rows."""
    skip, take = permutation.offset, permutation.limit
    tables = (permutation.base_table, permutation.permutation_table)
    key = (*map(id, tables), id(permutation.connection_factory), permutation.split, skip, take)
    if key not in known:
        known[key] = Note(*rows_of(permutation), skip, take)
    return known[key]


def reader_of(permutation: Any) -> Reader | None:
    """What reads a permutation in this forked process; None if nothing was noted before."""
    note = _note_of(permutation)
    return note.reader(dict(permutation.selection)).open() if note is not None else None


def _note_of(permutation: Any) -> Note | None:
    note = vars(permutation).get(_NOTE)
    return note if note is not None and note.is_of(permutation) else None
