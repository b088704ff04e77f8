# SPDX-License-Identifier: Apache-2.0
"""Pickles for processes that are started: whether a value can be sent, and how."""

from __future__ import annotations

import functools
import pickle
import sys
from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

T = TypeVar("T")

_WHAT_TO_DO = "use num_workers=0, or pass multiprocessing_context='fork'."


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
            f"{_WHAT_TO_DO}"
        ) from error
    if get_spawning_popen() is not None and _only_here(given):
        raise TypeError(
            f"{name} {name_of(given)} cannot be sent to worker processes: it is defined in an "
            "interactive session, which they cannot import. Put it into a module (a file beside "
            f"the notebook, imported from there), {_WHAT_TO_DO}"
        )


def send_to_new_processes(kind: type[T], reduce: Callable[[T], Any]) -> None:
    """Have a process that is started given objects of a kind in another way than by a pickle.

    Parameters
    ----------
    kind : type
        The objects' very class.
    reduce : callable
        Called with an object that is sent, for what `object.__reduce__` would return.
    """

    def reduced(given: T) -> Any:
        started = get_spawning_popen() is not None
        return reduce(given) if started else given.__reduce_ex__(pickle.DEFAULT_PROTOCOL)

    ForkingPickler.register(kind, reduced)


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
