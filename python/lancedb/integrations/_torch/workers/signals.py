# SPDX-License-Identifier: Apache-2.0
"""Signals to all processes of a job, of which workers do not die where the program handles them.

A forked process has the handlers of its parent, and any other would end. So they are blocked where
a process is started, and with it in all that a fork server forks off, until each worker has a
handler of its own: blocked they would stay in the programs that a transform starts.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

from ..frameworks.private import part_of

# What schedulers and terminals send to whole jobs.
_TO_ALL = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGQUIT")
_SENT_TO_ALL = {getattr(signal, name) for name in _TO_ALL if hasattr(signal, name)}


def handled_signals() -> set[signal.Signals]:
    """Which of them this program handles in a way of its own."""
    none = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, None)
    return {each for each in _SENT_TO_ALL if signal.getsignal(each) not in none}


@contextlib.contextmanager
def spared_from_handled_signals() -> Iterator[None]:
    """Have processes that are started meanwhile not die of signals that this process handles."""
    handled = handled_signals()
    if not handled:
        yield
        return
    resource_tracker.ensure_running()  # whose start would end with these signals unblocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_spared_signals() -> None:
    """Let the signals that were blocked where this process was started do nothing in it.

    Called by its main thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, "pthread_sigmask"):
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ()) & _SENT_TO_ALL
    for each in blocked:
        signal.signal(each, _do_nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)


def end_by_killing(batches: Any) -> None:
    """Have whatever ends workers by SIGTERM, as torch and Python's exit do, end them all the same.

    Parameters
    ----------
    batches : iterator
        torch's own iterator over worker processes, or what is none.
    """
    if signal.SIGTERM not in handled_signals():
        return
    for worker in part_of(getattr(batches, "by_torch", batches), "_workers", ()):
        process = part_of(worker, "_popen")
        if hasattr(process, "kill"):
            process.terminate = process.kill


def _do_nothing(number: int, frame: Any) -> None:
    """In place of the default, which would end the process."""
