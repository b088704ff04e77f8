# SPDX-License-Identifier: Apache-2.0
"""Blocking calls of an event loop, in threads that do not keep the interpreter from exiting.

A thread that has called is used again: what is freed in a thread stays with the part of memory that
glibc has given to it, so that a thread for each call took a hundred megabytes more.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from ..common.process import PROCESS

T = TypeVar("T")
# It raises nothing, and returns what delivers its result.
Call = Callable[[], Callable[[], None]]

_FINISHES_WITHIN = 5.0
_IDLE_SECONDS = 0.2


class CallThreads:
    """As many threads as calls run at once; one that has had nothing to do for a while ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[tuple[Call, Future[None]]] = queue.SimpleQueue()
        self._idle = 0  # threads that no call was given to
        self._running: set[Future[None]] = set()

    def start(self, call: Call) -> None:
        """Have a thread make a call, and what it returns once it may be given the next one."""
        ends: Future[None] = Future()
        self._running.add(ends)
        with self._lock:
            is_new = self._idle == 0
            self._idle -= not is_new
        self._calls.put((call, ends))
        if is_new:
            threading.Thread(target=self._work, name="lance-take", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                call, ends = self._calls.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._idle:
                        self._idle -= 1
                        return
                continue  # one was given to it just now
            deliver = call()
            with self._lock:
                self._idle += 1
            deliver()
            self._running.discard(ends)
            ends.set_result(None)
            del call, deliver  # and what they have read

    def at_exit(self) -> None:
        """Have calls come to their end before the interpreter does, which they need to return."""
        wait(list(self._running), _FINISHES_WITHIN)

    def in_child(self) -> None:
        """Begin anew: a forked child has neither the threads nor the holder of the lock."""
        PROCESS.replace(CallThreads())


async def in_thread(call: Callable[[], T]) -> T:
    """What `call` returns, called in a thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():  # cancelled: nobody waits any more
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> Callable[[], None]:
        result, raised = None, None
        try:
            result = call()
        except BaseException as error:
            raised = error

        def deliver() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(settle, result, raised)

        return deliver

    PROCESS.part(CallThreads).start(run)
    return await future
