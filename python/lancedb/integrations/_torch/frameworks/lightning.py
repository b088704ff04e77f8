# SPDX-License-Identifier: Apache-2.0
"""Lightning's loops: loaders iterated anew each epoch, again, or with a state too late.

Lightning tells a loader nothing. The frames that call its ``__iter__`` are methods of Lightning's
own, up to the loop.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from .frames import self_of
from .private import part_of

_PACKAGES = ("lightning.pytorch.", "pytorch_lightning.")
_TRAINS = ("_FitLoop", "_TrainingEpochLoop")
_COMBINES = ("_MaxSize", "_MaxSizeCycle", "_MinSize", "_Sequential")
_EVALUATES = ("_EvaluationLoop", "_PredictionLoop")


def loop_of_lightning() -> Any:
    """The loop of Lightning's that begins to iterate a loader; None if that is somebody else."""
    return _caller((*_TRAINS, *_EVALUATES), sys._getframe(2))


def iterated_together() -> list[Any]:
    """The loaders of the ``CombinedLoader`` that begins to iterate one; none if there is none."""
    combined = _caller(_COMBINES, sys._getframe(2))
    return list(part_of(combined, "iterables", ()))


def _caller(kinds: tuple[str, ...], frame: FrameType | None) -> Any:
    """The first object of Lightning's, of one of these classes, on whose behalf a frame runs."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(_PACKAGES):
            return None
        owner = self_of(frame, module)
        if type(owner).__name__ in kinds:
            return owner
        frame = frame.f_back
    return None


def epoch_of(loop: Any) -> int | None:
    """The epoch that a loop trains; None if it does not train."""
    return part_of(loop, "trainer.current_epoch") if type(loop).__name__ in _TRAINS else None


def overfits(loop: Any) -> bool:
    """Whether each epoch is to have the same few batches, by ``overfit_batches``."""
    return part_of(loop, "trainer.overfit_batches", 0) > 0


def refuse_late_state(loop: Any) -> None:
    """Raise if a loop trains while it still keeps the states of loaders, for a later that is past.

    Raises
    ------
    RuntimeError
        If so: the run would begin its first epoch again.
    """
    states = part_of(loop, "trainer.fit_loop._combined_loader_states_to_load")
    if epoch_of(loop) is not None and states:
        raise RuntimeError(
            "Lightning has a state for this LanceDataLoader in its checkpoint, and does not load "
            "it: the checkpoint is of an epoch's end, or something, as a schedule, asked for "
            "trainer.estimated_stepping_batches before. The run would begin with the order of the "
            "first epoch again. Keep the state in a "
            "LightningDataModule, and load it in train_dataloader(), as docs/trainers.md shows"
        )
