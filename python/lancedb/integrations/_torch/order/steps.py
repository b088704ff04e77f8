# SPDX-License-Identifier: Apache-2.0
"""The positions that each rank takes at each step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """The global steps of an epoch, from a position on.

    A global step is ``world_size * batch_size`` consecutive positions; rank r takes the r-th of
    its equal slices. Every rank makes the same number of steps.

    Parameters
    ----------
    rows : int
        Rows of the epoch.
    batch_size : int
        Rows of one rank's slice of a full step.
    world_size : int
        How many ranks there are.
    drop_last : bool
        Whether to leave out what fills no full step. If not, the last step is short and divided
        evenly; a remainder of fewer rows than ranks joins the step before it.
    start : int
        The position at which the steps begin: 0, or where a run is resumed.

    Raises
    ------
    ValueError
        If every row is to be delivered and fewer are left than there are ranks.

    Examples
    --------
    >>> steps = Steps(rows=10, batch_size=2, world_size=2, drop_last=False)
    >>> steps.num_steps
    3
    >>> [steps.slice_of(2, rank) for rank in (0, 1)]
    [(8, 9), (9, 10)]
    """

    rows: int
    batch_size: int
    world_size: int = 1
    drop_last: bool = True
    start: int = 0

    def __post_init__(self) -> None:
        left = self.rows - self.start
        if not self.drop_last and 0 < left < self.world_size:
            where = f" from position {self.start} on" if self.start else ""
            raise ValueError(
                f"{left} rows{where} cannot be divided among "
                f"{self.world_size} ranks so that each has one at every step; use at most {left} "
                "ranks, or drop_last=True"
            )

    @property
    def global_batch(self) -> int:
        """Rows of a full step over all ranks."""
        return self.batch_size * self.world_size

    @property
    def num_steps(self) -> int:
        """How many steps there are, the same for every rank."""
        full, rest = divmod(max(0, self.rows - self.start), self.global_batch)
        if self.drop_last or rest == 0:
            return full
        return full + 1 if rest >= self.world_size else full

    def has_step(self, position: int) -> bool:
        """Whether there is one more step from a position on."""
        left = self.rows - position
        return left >= (self.global_batch if self.drop_last else self.world_size)

    def after(self, position: int) -> int:
        """The position after the step that begins at this one."""
        end = position + self.global_batch
        rest = self.rows - end
        return self.rows if not self.drop_last and rest < self.world_size else end

    def share(self, position: int, rank: int) -> tuple[int, int]:
        """The positions that a rank takes at the step that begins at this one."""
        return self._slice(position, self.after(position), rank)

    def span_of(self, step: int) -> tuple[int, int]:
        """The positions of a global step, over all ranks."""
        begin = self.start + step * self.global_batch
        last = not self.drop_last and step == self.num_steps - 1
        return begin, self.rows if last else begin + self.global_batch

    def slice_of(self, step: int, rank: int) -> tuple[int, int]:
        """The positions that a rank takes at a step."""
        return self._slice(*self.span_of(step), rank)

    def _slice(self, begin: int, end: int, rank: int) -> tuple[int, int]:
        share, extra = divmod(end - begin, self.world_size)
        start = begin + rank * share + min(rank, extra)
        return start, start + share + (rank < extra)
