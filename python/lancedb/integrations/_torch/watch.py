# SPDX-License-Identifier: Apache-2.0
"""Knows when a worker process has died, and when the process that it works for has.

torch finds out about neither if the workers come from a fork server. They are not the children of
the process that trains, so that no signal tells it of their death, and it waits for ever if one
dies in the middle of a message. They are children of the server, which lives as long as they do,
so that they wait for ever for a training process that was killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from torch.utils.data._utils import signal_handling

_NOTICED_WITHIN = 2.0
_follows_in: int | None = None


class Death(NamedTuple):
    """Which worker has died and how, and where to look for the reason."""

    worker: str
    advice: str


class WorkerWatch:
    """Ends a loader's wait for workers of which one has died.

    torch would give the epoch up too, if it came to know. The other workers are ended, and so is
    the queue that all of them write to: whoever waits at it wakes.

    Parameters
    ----------
    batches : iterator
        torch's own iterator over the workers of a `DataLoader`. It is not kept alive.
    """

    def __init__(self, batches: Any):
        self._batches = weakref.ref(batches)
        # torch's processes close their sentinels when they go: we wait at copies.
        self._sentinels = {
            os.dup(worker.sentinel): number for number, worker in enumerate(batches._workers)
        }
        self._dead: int | None = None
        self._told, self._tell = os.pipe()
        self._thread = threading.Thread(target=self._run, name="lance-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer; called again, it does nothing."""
        tell, self._tell = self._tell, -1
        if tell < 0:
            return
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            os.write(tell, b".")
        os.close(tell)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def dead_worker(self) -> Death | None:
        """Which worker has died, and how, once a message of the workers could not be read.

        Called by the thread that asks for batches. The end of a process is seen a little later
        than the end of what it sends.
        """
        batches = self._batches()
        if batches is None:
            return None
        number = self._first_dead(batches)
        if number is None:
            self._thread.join(_NOTICED_WITHIN)
            number = self._first_dead(batches)
        if number is None:
            return None
        worker = batches._workers[number]
        worker.join(_NOTICED_WITHIN)
        ended, advice = _ended(worker.exitcode)
        return Death(f"DataLoader worker {number} (pid {worker.pid}) {ended}", advice)

    def _first_dead(self, batches: Any) -> int | None:
        """The worker that this watch saw die, else one that torch saw die before it did."""
        if self._dead is not None:
            return self._dead
        numbers = (number for number, worker in enumerate(batches._workers) if worker.exitcode)
        return next(numbers, None)

    def _run(self) -> None:
        while self._sentinels and self._dead is None:
            ready = wait([self._told, *self._sentinels])
            if self._told in ready:
                break
            for sentinel in ready:
                os.close(sentinel)  # type: ignore[arg-type]
                self._note_end(self._sentinels.pop(sentinel))  # type: ignore[call-overload]
        for open_end in (self._told, *self._sentinels):
            os.close(open_end)

    def _note_end(self, number: int) -> None:
        batches = self._batches()
        if batches is None or batches._shutdown or not batches._workers_status[number]:
            return  # it had nothing left to do
        self._dead = number if self._dead is None else self._dead
        if batches._worker_pids_set:
            # torch's handler of SIGCHLD would raise wherever the main thread happens to be.
            signal_handling._remove_worker_pids(id(batches))  # pyright: ignore
            batches._worker_pids_set = False
        for worker in batches._workers:
            worker.kill()
        batches._worker_result_queue._writer.close()


def watch(batches: Any) -> WorkerWatch | None:
    """A watch over the workers of torch's iterator; None if there are none to watch.

    Windows has no sentinels to copy; there torch finds out by itself, after five seconds.
    """
    if not getattr(batches, "_workers", None) or sys.platform == "win32":
        return None
    return WorkerWatch(batches)


def follow_parent() -> None:
    """Have this process end when the one that started it does; only the first call counts."""
    global _follows_in
    parent = multiprocessing.parent_process()
    if parent is None or _follows_in == os.getpid():
        return
    _follows_in = os.getpid()
    threading.Thread(
        target=_end_after, args=(parent.sentinel,), name="lance-parent", daemon=True
    ).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _ended(code: int | None) -> tuple[str, str]:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"was killed by {name}", "If memory ran out, the system's log says so."
    return f"ended with exit code {code}", (
        "What it printed stands above; if it ended as it started, put what starts workers under "
        "if __name__ == '__main__'."
    )
