# SPDX-License-Identifier: Apache-2.0
"""The beginning of epochs that Lightning asks for, or a ``CombinedLoader`` of several loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..datasets.cursor import EpochCursor
from ..frameworks.lightning import epoch_of, overfits, resumed_at, warn_of_cut_off


def follow(cursor: EpochCursor, loop: Any) -> None:
    """Begin at the epoch of a loop, where nobody has named another."""
    epoch, tracker = epoch_of(loop), cursor.under_way
    if overfits(loop) and tracker is not None:
        cursor.seek(tracker.at.epoch)
    elif epoch is not None and tracker is None and not cursor.generation:
        cursor.seek(epoch)


def join(cursor: EpochCursor, mode: str, others: Sequence[EpochCursor]) -> None:
    """Begin where the others are, that a ``CombinedLoader`` of a mode iterates together.

    Where a loaded state says that one has ended, a combined epoch is over if the shortest ends it,
    and goes on without that one if others are in the middle of theirs.
    """
    ended = cursor.ended
    if mode == "_MinSize":
        if any(other.ended is not None for other in others):
            cursor.leave_off()
    elif ended is not None and any(
        other.place.epoch == ended or (mode != "_Sequential" and other.place.position)
        for other in others
    ):
        cursor.seek(ended)


def begins_in(cursor: EpochCursor, loop: Any) -> bool:
    """Heed a loop that asks for its first batch; whether one is to come."""
    at, ended = resumed_at(loop), cursor.ended
    if at in ("next", "end"):
        cursor.leave_off(again=overfits(loop))
    elif at == "cut off" and cursor.is_inside:
        warn_of_cut_off(*cursor.place[:2])
    elif ended is not None and (at == "middle" or (at is None and ended == epoch_of(loop))):
        cursor.seek(ended)  # others, in one loader with this one, go on with it
    return at != "end"
