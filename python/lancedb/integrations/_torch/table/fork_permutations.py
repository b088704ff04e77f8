# SPDX-License-Identifier: Apache-2.0
"""Permutations in a forked process, read as datasets are.

Which rows of which table version a permutation has is found out with lancedb's runtime, and so
before the fork; see `fork_guard`. Of a whole table that takes no request to its store.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .arguments import rows_of
from .reader import Reader
from .recipe import Recipe
from .selection import Selection

_log = logging.getLogger("lancedb.integrations.torch")
_NOTE = "_rows_for_forks"
# So long, and once, a process that forks waits for permutations whose stores do not answer.
_NOTED_WITHIN = 30.0

_given_up: weakref.WeakSet[Any] = weakref.WeakSet()


@dataclass(frozen=True)
class Note:
    """The rows of a permutation, and the readers of those of its copies that have the same."""

    recipe: Recipe
    selection: Selection
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
            self.readers[key] = Reader(self.recipe, self.selection, columns)
        return self.readers[key]


def note_rows(permutations: Iterable[Any]) -> None:
    """Note the rows of permutations, whose copies take the note along; before a fork.

    Those of one table are asked for one after the other, and those of several side by side, so
    that one whose store does not answer keeps no other from being recorded.
    """
    fresh = [each for each in permutations if each not in _given_up and _note_of(each) is None]
    by_table: dict[int, list[Any]] = {}
    for permutation in fresh:
        by_table.setdefault(id(permutation.base_table), []).append(permutation)
    threads = [
        threading.Thread(target=_note_each, args=(of_table,), name="lance-fork", daemon=True)
        for of_table in by_table.values()
    ]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + _NOTED_WITHIN
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))
    late = [each for each in fresh if _note_of(each) is None]
    _given_up.update(late)
    if late:
        names = sorted({each.base_table.name for each in late})
        _log.debug("permutations of %s cannot be read after a fork", ", ".join(names))


def _note_each(permutations: list[Any]) -> None:
    """Note the rows of permutations of one table."""
    known: dict[tuple, Note] = {}
    for permutation in permutations:
        key = (
            id(permutation.permutation_table),
            permutation.split,
            permutation.offset,
            permutation.limit,
        )
        try:
            if key not in known:
                known[key] = Note(*rows_of(permutation), permutation.offset, permutation.limit)
        except Exception as error:  # whatever it is, a fork is not to fail for it
            _log.debug("the rows of a permutation were not found: %s", error)
        else:
            setattr(permutation, _NOTE, known[key])


def reader_of(permutation: Any) -> Reader | None:
    """What reads a permutation in this forked process; None if nothing was recorded before."""
    note = _note_of(permutation)
    return note.reader(dict(permutation.selection)).open() if note is not None else None


def _note_of(permutation: Any) -> Note | None:
    note = vars(permutation).get(_NOTE)
    return note if note is not None and note.is_of(permutation) else None
