# SPDX-License-Identifier: Apache-2.0
"""A time limit for calls that cannot be interrupted."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float | None, call: Callable[[], T], late: Callable[[], str]) -> T:
    """What `call` returns, or whatever it raises.

    Parameters
    ----------
    seconds : float, optional
        How long to wait; None for as long as it takes, and then in this very thread.
    call : callable
        Is called in a thread of its own, which does not keep the interpreter from exiting.
    late : callable
        What to say if it takes longer. It then goes on, and nobody waits for it any more.

    Raises
    ------
    RuntimeError
        If it takes longer.

    Examples
    --------
    >>> within(60, lambda: 1 + 1, late=lambda: "two was not found in a minute")
    2
    """
    if seconds is None:
        return call()
    returned: list[T] = []
    raised: list[BaseException] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            returned.append(context.run(call))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="lance-open", daemon=True)
    thread.start()
    thread.join(seconds)
    try:
        if raised:
            raise raised[0]
        if not returned:
            raise RuntimeError(late())
        return returned[0]
    finally:
        raised.clear()  # an error's traceback holds this frame, which would hold the error
