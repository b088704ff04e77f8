# SPDX-License-Identifier: Apache-2.0
"""The batches that each rank takes at each step of an epoch of planned batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .batch_sequence import BatchSequence
from .token_budget import split

Span = tuple[int, int]


@dataclass(frozen=True)
class BatchSteps:
    """The global steps of one epoch, as one rank takes them.

    A step is the next `world_size` batches of the sequence, and a position counts batches. Every
    rank makes the same number of steps.

    Parameters
    ----------
    sequence : BatchSequence
        The epoch's batches.
    rank, world_size : int
        Whose share is asked for, and how many ranks there are.
    drop_last : bool
        Whether to leave out the batches that fill no step of all ranks, and one that is not full.
        If not, their units are assigned evenly to one last step: whole ones as far as they go
        around, else parts of them.
    """

    sequence: BatchSequence
    rank: int
    world_size: int
    drop_last: bool

    def has_step(self, position: int) -> bool:
        """Whether there is one more step from this position on."""
        if self.sequence.has(position + self.world_size):
            return True
        return not self.drop_last and position < self._last

    def after(self, position: int) -> int:
        """The position after the step that begins at this one."""
        end = position + self.world_size
        if self.drop_last or self.sequence.has(end + self.world_size):
            return end
        return self._last if not self.sequence.has(end) or self._joins(end) else end

    def share(self, position: int) -> Span:
        """The documents that this rank takes at the step that begins at this position."""
        end = self.after(position)
        if end == position + self.world_size and self.sequence.has(end):
            first = position + self.rank
            return self.sequence.documents(first), self.sequence.documents(first + 1)
        cuts = self._cuts(position)
        return cuts[self.rank], cuts[self.rank + 1]

    def steps_before(self, position: int) -> int:
        """How many steps were made where this position was reached."""
        return -(-position // self.world_size)

    def known_steps(self) -> int | None:
        """How many steps there are, if the epoch was planned to its end."""
        return self._steps() if self.sequence.is_planned else None

    def all_steps(self) -> int:
        """How many steps there are; plans all of the epoch.

        Raises
        ------
        ValueError
            If there is one, and fewer documents for it than ranks.
        """
        steps = self._steps()
        if steps and not self.sequence.has(self.world_size):
            self._cuts(0)
        return steps

    def _steps(self) -> int:
        whole = self.sequence.end().batches // self.world_size
        end = whole * self.world_size
        if self.drop_last or end == self._last:
            return whole
        return whole + (not whole or not self._joins(end))

    @property
    def _last(self) -> int:
        """The position at which all is delivered."""
        end = self.sequence.end()
        return end.batches + (end.units_left > 0)

    def _joins(self, position: int) -> bool:
        """Whether what is left from a position on is too little for a step.

        One row more in a packed batch does no harm. A budget is kept.
        """
        if position == self._last or self.sequence.planner.units_are_batches:
            return False
        return self._documents_from(position) < self.world_size

    def _documents_from(self, position: int) -> int:
        return self.sequence.documents(self._last) - self.sequence.documents(position)

    def _cuts(self, position: int) -> list[int]:
        """Where all documents from a position on are cut, for one step of all ranks."""
        first, last = self.sequence.documents(position), self.sequence.documents(self._last)
        if last - first < self.world_size:
            raise ValueError(
                f"{last - first} documents from batch {position} on cannot be assigned to "
                f"{self.world_size} ranks so that each has one at every step; use at most "
                f"{last - first} ranks, or drop_last=True"
            )
        if self.sequence.planner.units_are_batches:
            batches = range(position, self._last + 1)
            return split(list(map(self.sequence.documents, batches)), self.world_size)
        edges = self.sequence.units_among(first, last)
        units = len(edges) - 1
        if units < self.world_size:
            return split(edges.tolist(), self.world_size)
        ranks = np.arange(self.world_size + 1)
        share, extra = divmod(units, self.world_size)
        return edges[ranks * share + np.minimum(ranks, extra)].tolist()
