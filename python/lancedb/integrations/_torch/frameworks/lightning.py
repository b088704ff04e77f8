# SPDX-License-Identifier: Apache-2.0
"""Lightning's loops: loaders iterated anew each epoch, again, or with a state too late.

Lightning tells a loader nothing. The frames that call its ``__iter__`` are methods of Lightning's
own, up to the loop.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Any, Literal

from .frames import self_of
from .private import part_of

_PACKAGES = ("lightning.pytorch.", "pytorch_lightning.")
_TRAINS = ("_FitLoop", "_TrainingEpochLoop")
_COMBINES = ("_MaxSize", "_MaxSizeCycle", "_MinSize", "_Sequential")
_EVALUATES = ("_EvaluationLoop", "_PredictionLoop")


def loop_of_lightning() -> Any:
    """The loop of Lightning's that begins to iterate a loader; None if that is somebody else."""
    return _caller((*_TRAINS, *_EVALUATES), sys._getframe(2))


def iterated_together() -> tuple[str, list[Any]]:
    """The ``CombinedLoader`` that begins to iterate a loader: its mode, and all of its loaders.

    The mode is the name of Lightning's class for it.
    """
    combined = _caller(_COMBINES, sys._getframe(2))
    return type(combined).__name__, list(part_of(combined, "iterables", ()))


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


def resumed_at(loop: Any) -> Literal["middle", "end", "next", "cut off"] | None:
    """Where in its epoch a loop stands that asks a loader for its first batch.

    Returns
    -------
    str or None
        None unless Lightning trains, and has resumed from a checkpoint. "middle": batches of the
        epoch are to come. "end": there is none, and one is asked for all the same, as after
        ``max_steps``. "next": an epoch begins, and the one of the checkpoint has come to its end.
        "cut off": an epoch begins, and the one of the checkpoint was stopped before its end.
    """
    fit = part_of(loop, "trainer.fit_loop")
    done = part_of(fit, "epoch_loop.batch_progress.current.completed")
    total = part_of(fit, "epoch_loop.batch_progress.total.completed", 0)
    steps = part_of(loop, "trainer.num_training_batches", float("inf"))
    if epoch_of(loop) is None or part_of(loop, "trainer.ckpt_path") is None or done is None:
        return None
    if done:
        is_last = part_of(fit, "epoch_loop.batch_progress.is_last_batch", False)
        return "end" if is_last or done >= steps else "middle"
    if part_of(fit, "restarting", False):
        # Lightning counts the epoch of the checkpoint as over where its last batch was the last.
        epochs = part_of(fit, "epoch_progress.current")
        is_over = part_of(epochs, "processed", 0) >= part_of(epochs, "ready", 1)
        return "next" if is_over else "middle"
    return "next" if total % steps == 0 else "cut off"


def warn_of_cut_off(epoch: int, position: int) -> None:
    """Warn that an epoch goes on which Lightning counts as over."""
    warnings.warn(
        f"Lightning's checkpoint says that its epoch is over, and it was stopped before its end: "
        f"the loader goes on at position {position} of its epoch {epoch}, and Lightning's next "
        "epoch is as long as the rest. To leave the rest out, call set_epoch("
        f"{epoch + 1}) after load_state_dict(), in train_dataloader()",
        RuntimeWarning,
        stacklevel=2,
    )


def overfits(loop: Any) -> bool:
    """Whether each epoch is to have the same few batches, by ``overfit_batches``."""
    return part_of(loop, "trainer.overfit_batches", 0) > 0


def refuse_late_state(loop: Any) -> None:
    """Raise if a loop trains with states of loaders that it has not loaded, and never will.

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
