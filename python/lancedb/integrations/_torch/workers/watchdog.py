# SPDX-License-Identifier: Apache-2.0
"""The death of a worker process, noticed by the process that it works for.

torch does not notice if the workers come from a fork server: they are not the children of the
process that trains, so that no signal tells it of their death, and it waits for ever if one dies in
the middle of a message.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import weakref
from collections.abc import Collection
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import torch.utils.data

from ..common.process import PROCESS
from ..frameworks.private import part_of

_NOTICED_WITHIN = 2.0
_CRASHED = "A library crashed in it: the last lines that it printed may say which."
_ADVICE = {
    "SIGKILL": "If memory ran out, the system's log says so.",
    "SIGBUS": "If shared memory ran out, df /dev/shm says so.",
    **dict.fromkeys(("SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL"), _CRASHED),
}
_SENT = (
    "Somebody sent it. Workers outlive the signals to a whole job that the program handled, by "
    "signal.signal, before the first of them started."
)


class Watched:
    """torch's iterators whose workers are watched in this process."""

    def __init__(self) -> None:
        self.iterators: weakref.WeakSet[Any] = weakref.WeakSet()

    def in_child(self) -> None:
        """Have a forked process end no workers of the one that it was forked from.

        torch ends them by an event and by queues that both processes have, wherever its iterator is
        dropped.
        """
        for batches in list(self.iterators):
            batches._shutdown = True
            batches._worker_pids_set = False


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
        torch's own iterator over the workers of a `DataLoader`; only a weak reference is taken.
    """

    def __init__(self, batches: Any):
        self._batches = weakref.ref(batches)
        self._process = os.getpid()
        PROCESS.part(Watched).iterators.add(batches)
        # torch's processes close their sentinels when they go: we wait at copies.
        self._sentinels = {
            os.dup(worker.sentinel): number
            for number, worker in enumerate(part_of(batches, "_workers", ()))
        }
        self._dead: int | None = None
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, name="lance-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer; called again, or in a fork of this process, it does nothing."""
        if self._process != os.getpid():
            return  # the pipe is the other process's, too
        stop, self._stop = self._stop, -1
        if stop < 0:
            return
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            os.write(stop, b".")
        os.close(stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def dead_worker(self, error: BaseException) -> Death | None:
        """Which worker has died, and how, once `error` came in place of a message of a worker.

        Called by the thread that asks for batches. The end of a process is seen a little later
        than the end of what it sends.
        """
        batches = self._batches()
        if batches is None:
            return None
        number = self._first_dead(batches, error)
        if number is None:
            self._thread.join(_NOTICED_WITHIN)
            number = self._first_dead(batches, error)
        return None if number is None else describe_worker(batches, number)

    def _first_dead(self, batches: Any, error: BaseException) -> int | None:
        """The worker that this watch saw die, else one that torch saw die before it did."""
        exited = next(iter(dead_workers(batches, _pids_in(error))), None)
        # Asked for last: whoever this watch killed itself was found only if this is set.
        return exited if self._dead is None else self._dead

    def _run(self) -> None:
        while self._sentinels and self._dead is None:
            ready = wait([self._stopped, *self._sentinels])
            if self._stopped in ready:
                break
            for sentinel in ready:
                os.close(sentinel)  # type: ignore[arg-type]
                self._note_end(self._sentinels.pop(sentinel))  # type: ignore[call-overload]
        for open_end in (self._stopped, *self._sentinels):
            os.close(open_end)

    def _note_end(self, number: int) -> None:
        batches = self._batches()
        over = part_of(batches, "_shutdown", False)
        if batches is None or over or not _is_wanted(batches, number):
            return  # it had nothing left to do
        self._dead = number if self._dead is None else self._dead
        kill_workers(batches)
        part_of(batches, "_worker_result_queue._writer.close", tuple)()


def watch(batches: Any) -> WorkerWatch | None:
    """A watch over the workers of torch's iterator; None if there are none to watch.

    Windows has no sentinels to copy; there torch finds out by itself, after five seconds.
    """
    batches = getattr(batches, "by_torch", batches)
    if not part_of(batches, "_workers") or sys.platform == "win32":
        return None
    return WorkerWatch(batches)


def dead_workers(batches: Any, pids: Collection[int] = ()) -> list[int]:
    """The workers of torch's iterator that have died, and those of `pids` that have ended.

    One that has no more to do ends with exit code 0, and torch's status of it is False. So it is
    of one that torch found dead.
    """
    return [
        number
        for number, worker in enumerate(part_of(batches, "_workers", ()))
        if worker.exitcode
        or (worker.exitcode == 0 and (_is_wanted(batches, number) or worker.pid in pids))
    ]


def _is_wanted(batches: Any, number: int) -> bool:
    """Whether torch still waits for a worker; taken to be so where it does not say."""
    status = part_of(batches, "_workers_status")
    return True if status is None else status[number]


def first_ended(batches: Any) -> int | None:
    """The first worker of torch's iterator that has ended, for whatever reason."""
    codes = (worker.exitcode for worker in part_of(batches, "_workers", ()))
    return next((number for number, code in enumerate(codes) if code is not None), None)


def kill_workers(batches: Any) -> None:
    """End the workers of torch's iterator at once, whatever they are doing."""
    forget = part_of(torch.utils.data, "_utils.signal_handling._remove_worker_pids")
    if forget is not None and part_of(batches, "_worker_pids_set"):
        # torch's handler of SIGCHLD would raise wherever the main thread happens to be.
        forget(id(batches))
        batches._worker_pids_set = False
    for worker in part_of(batches, "_workers", ()):
        # The number of one that has ended may be another process's. How it ended is not asked here:
        # of two threads that ask, one would be given 255.
        if not wait([worker.sentinel], timeout=0):
            worker.kill()


def describe_worker(batches: Any, number: int) -> Death:
    """How a worker of torch's iterator has ended."""
    worker = batches._workers[number]
    worker.join(_NOTICED_WITHIN)
    ended, advice = _ended(worker.exitcode)
    return Death(f"DataLoader worker {number} (pid {worker.pid}) {ended}", advice)


def _pids_in(error: BaseException) -> list[int]:
    """The processes that torch says have ended."""
    listed = re.search(r"worker \(pid\(s\) ([\d, ]+)\) exited", str(error))
    return [int(pid) for pid in listed[1].split(", ")] if listed else []


def _ended(code: int | None) -> tuple[str, str]:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"was killed by {name}", _ADVICE.get(name, _SENT)
    return f"ended with exit code {code}", (
        "What it printed stands above. If it ended as it started, put what starts workers under "
        "if __name__ == '__main__'. A signal to all processes of the job, which the fork server "
        "does not survive, looks the same: handle it before the first worker starts."
    )
