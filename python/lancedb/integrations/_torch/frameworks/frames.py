# SPDX-License-Identifier: Apache-2.0
"""The object whose method a frame runs, for guards against loops that tell a loader nothing."""

from __future__ import annotations

from types import FrameType
from typing import Any


def self_of(frame: FrameType, module: str) -> Any:
    """The object whose method a frame runs, None if the method is of another module.

    The locals of a user's function are not looked at: a frame that was asked for them keeps them
    alive for as long as it runs.
    """
    return frame.f_locals.get("self") if frame.f_globals.get("__name__") == module else None
