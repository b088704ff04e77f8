# SPDX-License-Identifier: Apache-2.0
"""The batches that each rank takes at each step of an epoch of planned batches."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .batch_sequence import BatchSequence
from .token_budget import split

Span = tuple[int, int]

# So many steps before the end it is looked whether the rest has enough documents for all ranks.
_LAST_STEPS = 8


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
        around, else parts of them. Where a budget leaves fewer documents than ranks, the steps
        before have fewer batches, and parts of those; a packed batch has one row more.
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

    def left_out(self) -> int:
        """How many documents there are, if `drop_last` leaves all of them out; else 0."""
        if not self.drop_last or self.has_step(0):
            return 0
        return self._documents(0, self._last)

    def after(self, position: int) -> int:
        """The position after the step that begins at this one."""
        end = position + self.world_size
        if self.drop_last or self.sequence.has(end + _LAST_STEPS * self.world_size):
            return end
        if end >= self._last:
            return self._last
        if not self.sequence.planner.units_are_batches:
            return self._last if self._documents(end, self._last) < self.world_size else end
        enough = (at for at in range(end, position, -1) if at in self._ends_well)
        return next((at for at in enough if self._is_step(position, at)), end)

    def share(self, position: int) -> Span:
        """The documents that this rank takes at the step that begins at this position."""
        end = self.after(position)
        if end == position + self.world_size and self.sequence.has(end):
            first = position + self.rank
            return self.sequence.documents(first), self.sequence.documents(first + 1)
        cuts = self._cuts(position, end)
        return cuts[self.rank], cuts[self.rank + 1]

    def steps_before(self, position: int) -> int:
        """How many steps were made where this position was reached."""
        if not self.sequence.is_planned or position <= self._last_places[0]:
            return -(-position // self.world_size)
        before = self._last_places[0] // self.world_size
        return before + bisect.bisect_left(self._last_places, position)

    def known_steps(self) -> int | None:
        """How many steps there are, if the epoch was planned to its end."""
        return self._steps() if self.sequence.is_planned else None

    def all_steps(self) -> int:
        """How many steps there are; plans all of the epoch.

        Raises
        ------
        ValueError
            If there are fewer documents for the last one than ranks.
        """
        self.sequence.end()
        if len(self._last_places) > 1:
            self.share(self._last_places[-2])
        return self._steps()

    def _steps(self) -> int:
        return self._last_places[0] // self.world_size + len(self._last_places) - 1

    @cached_property
    def _last_places(self) -> list[int]:
        """The positions of the last steps, and the one after them."""
        steps = self.sequence.end().batches // self.world_size
        places = [max(0, steps - _LAST_STEPS - 1) * self.world_size]
        while self.has_step(places[-1]):
            places.append(self.after(places[-1]))
        return places

    @cached_property
    def _ends_well(self) -> frozenset[int]:
        """The positions near the end from which all ranks have a document at each step."""
        found = [self._last]
        first = max(0, self._last - (_LAST_STEPS + 1) * self.world_size)
        for position in range(self._last - 1, first - 1, -1):
            if any(self._is_step(position, end) for end in found[-self.world_size :]):
                found.append(position)
        return frozenset(found)

    def _is_step(self, begin: int, end: int) -> bool:
        """Whether some batches can be divided among all ranks, and each keeps the budget."""
        return end - begin <= self.world_size and self._documents(begin, end) >= self.world_size

    @property
    def _last(self) -> int:
        """The position at which all is delivered."""
        end = self.sequence.end()
        return end.batches + (end.units_left > 0)

    def _documents(self, begin: int, end: int) -> int:
        return self.sequence.documents(end) - self.sequence.documents(begin)

    def _cuts(self, position: int, end: int) -> list[int]:
        """Where the documents between two positions are cut, for one step of all ranks."""
        first, last = self.sequence.documents(position), self.sequence.documents(end)
        if last - first < self.world_size:
            raise ValueError(
                f"{last - first} documents from batch {position} on cannot be assigned to "
                f"{self.world_size} ranks so that each has one at every step; use at most "
                f"{last - first} ranks, or drop_last=True"
            )
        if self.sequence.planner.units_are_batches:
            batches = range(position, end + 1)
            return split(list(map(self.sequence.documents, batches)), self.world_size)
        edges = self.sequence.units_among(first, last)
        units = len(edges) - 1
        if units < self.world_size:
            return split(edges.tolist(), self.world_size)
        ranks = np.arange(self.world_size + 1)
        share, extra = divmod(units, self.world_size)
        return edges[ranks * share + np.minimum(ranks, extra)].tolist()
