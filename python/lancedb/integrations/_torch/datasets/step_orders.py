# SPDX-License-Identifier: Apache-2.0
"""The steps of an epoch, as a cursor asks for them: one rank's share of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..order.steps import Steps


class StepOrder(Protocol):
    """What a cursor asks of the order of an epoch, whatever its rows come from."""

    def of(self, epoch: int, layout: Any) -> StepOrder:
        """The order of this very epoch, in the layout of a loaded state or its own."""
        ...

    def has_step(self, position: int) -> bool:
        """Whether there is one more step from this position on."""
        ...

    def after(self, position: int) -> int:
        """The position after the step that begins at this one."""
        ...

    def share(self, position: int) -> tuple[int, int]:
        """What this rank takes at the step that begins at this position, of what the plan orders:
        positions, or documents of planned batches."""
        ...

    def steps_before(self, position: int) -> int:
        """How many steps were made where this position was reached."""
        ...

    def known_steps(self) -> int | None:
        """How many steps the epoch has, if that is known without planning all of it."""
        ...

    def all_steps(self) -> int:
        """How many steps the epoch has."""
        ...

    @property
    def arguments(self) -> dict[str, Any]:
        """What else every rank has to be given alike."""
        ...

    @property
    def describe(self) -> Callable[[Any], dict[str, Any]]:
        """All that the order depends on, with the layout of a loaded state or its own."""
        ...


@dataclass(frozen=True)
class RankOrder:
    """The order of one table's rows as one rank takes it.

    Parameters
    ----------
    steps : Steps
        The global steps of an epoch.
    rank : int
        Whose share is asked for.
    describe : callable
        All that the order depends on, with a layout.
    steps_of : callable, optional
        The steps of an epoch by its number, where epochs differ.
    """

    steps: Steps
    rank: int
    describe: Callable[[Any], dict[str, Any]]
    steps_of: Callable[[int], Steps] | None = None

    def of(self, epoch: int, layout: Any) -> RankOrder:
        """The order of an epoch: itself, unless epochs differ in their steps."""
        if self.steps_of is None:
            return self
        return dataclasses.replace(self, steps=self.steps_of(epoch))

    def has_step(self, position: int) -> bool:
        return self.steps.has_step(position)

    def after(self, position: int) -> int:
        return self.steps.after(position)

    def share(self, position: int) -> tuple[int, int]:
        return self.steps.share(position, self.rank)

    def steps_before(self, position: int) -> int:
        left = dataclasses.replace(self.steps, start=position).num_steps
        return self.steps.num_steps - left

    def known_steps(self) -> int:
        """How many steps an epoch has."""
        return self.steps.num_steps

    all_steps = known_steps

    @property
    def arguments(self) -> dict[str, Any]:
        """Those that say how rows become steps."""
        return {"batch_size": self.steps.batch_size, "drop_last": self.steps.drop_last}
