# SPDX-License-Identifier: Apache-2.0
"""Whether what a user gives can be pickled for worker processes, and how to fix it if not."""

from __future__ import annotations

import functools
import pickle
import sys
from multiprocessing.context import get_spawning_popen
from typing import Any

_WAYS_OUT = "use num_workers=0, or pass multiprocessing_context='fork'."


def check_sendable(name: str, given: Any) -> None:
    """Raise unless a process that is about to be started can be sent this argument.

    Raises
    ------
    TypeError
        If it cannot be pickled, or is defined in a session that no other process can import.
    """
    try:
        pickle.dumps(given)
    except Exception as error:
        raise TypeError(
            f"{name} {name_of(given)} cannot be sent to worker processes: {error}. Define it with "
            "def at the top level of a module (functools.partial of such a function works too), "
            f"{_WAYS_OUT}"
        ) from error
    if get_spawning_popen() is not None and _only_here(given):
        raise TypeError(
            f"{name} {name_of(given)} cannot be sent to worker processes: it is defined in an "
            "interactive session, which they cannot import. Put it into a module (a file beside "
            f"the notebook, imported from there), {_WAYS_OUT}"
        )


def name_of(function: Any) -> str:
    """What a callable is called; not what a partial or an object has bound, which may be a key."""
    function = _innermost(function)
    return getattr(function, "__qualname__", type(function).__qualname__)


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _only_here(given: Any) -> bool:
    given = _innermost(given)
    main = sys.modules.get("__main__")
    return getattr(given, "__module__", None) == "__main__" and not hasattr(main, "__file__")
