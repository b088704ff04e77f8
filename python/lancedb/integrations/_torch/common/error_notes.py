# SPDX-License-Identifier: Apache-2.0
"""Notes on errors of other people's code, on every Python."""

from __future__ import annotations


def add_note(error: Exception, text: str) -> None:
    """Have an error's traceback say `text`, also after it was sent from a worker process.

    Before Python 3.11 errors have no notes; the text then stands as their cause.
    """
    if hasattr(error, "add_note"):
        error.add_note(text)  # type: ignore[attr-defined]
    else:
        chain(error, text)


def chain(error: Exception, text: str) -> None:
    """Have a traceback say `text` between what caused an error and the error itself."""
    said = RuntimeError(text)
    said.__cause__, said.__context__ = error.__cause__, error.__context__
    said.__suppress_context__ = error.__suppress_context__
    error.__cause__ = said
