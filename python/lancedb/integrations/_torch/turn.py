# SPDX-License-Identifier: Apache-2.0
"""Knows how Accelerate hears that a loader which it prepared is iterated, and at its last batch."""

from __future__ import annotations

import sys
from typing import Any


class Turn:
    """One iteration of a loader, as Accelerate's own loaders show theirs.

    Accelerate closes an accumulation of gradients at the last batch of the loader that is being
    iterated. It would count on from there into the next epoch where it hears of no end.

    Parameters
    ----------
    loader : DataLoader
        Accelerate hears of it only if `Accelerator.prepare` was given it.
    """

    # Rows that fill up the last batch, which `gather_for_metrics` would cut off: there are none.
    remainder = 0

    def __init__(self, loader: Any):
        self.end_of_dataloader = False
        # The class says the same, so that `prepare` leaves a loader alone; it then says so of the
        # loader itself.
        self._prepared = "_is_accelerate_prepared" in vars(loader)
        self._begun = False

    def begin(self) -> None:
        """Become the iteration that Accelerate asks, once; it holds a weak reference alone."""
        if self._begun:
            return
        self._begun = True
        gradients = gradient_state()
        if self._prepared and gradients is not None:
            gradients._add_dataloader(self)

    def end(self) -> None:
        """Let Accelerate ask the iteration around this one again, if there is one."""
        gradients = gradient_state()
        if self._prepared and gradients is not None:
            gradients._remove_dataloader(self)


def gradient_state() -> Any:
    """What Accelerate knows of loaders under way; None if it is not in use in this process."""
    accelerate = sys.modules.get("accelerate.state")
    if accelerate is None or not accelerate.GradientState._shared_state:
        return None
    return accelerate.GradientState()
