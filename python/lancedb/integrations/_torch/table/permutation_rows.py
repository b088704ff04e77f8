# SPDX-License-Identifier: Apache-2.0
"""The rows of a permutation, described, to be looked up where its table can be read."""

from __future__ import annotations

from dataclasses import dataclass

from lancedb.table import Table

from . import selection as selections
from .recipe import Recipe
from .selection import Selection


@dataclass(frozen=True)
class PermutationRows:
    """The rows of a permutation, of which no store has been asked yet.

    Parameters
    ----------
    splits : Recipe, optional
        How to open the permutation table; None for all rows of the base table.
    split : int
        Which of its splits.
    skip, take : int, optional
        What ``with_skip`` and ``with_take`` were given.
    """

    splits: Recipe | None
    split: int
    skip: int | None
    take: int | None

    def of(self, base: Table) -> Selection:
        """The rows, by their offset in the pinned base table."""
        chosen: Selection = selections.all_rows(base)
        if self.splits is not None:
            chosen = selections.permuted(base, self.splits.open(), self.split)
        return selections.narrowed(chosen, self.skip, self.take)
