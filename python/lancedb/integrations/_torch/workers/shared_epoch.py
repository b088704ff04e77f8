# SPDX-License-Identifier: Apache-2.0
"""The epoch that each process is to run next, in memory that the processes share.

Every ``iter()`` is the next epoch. DataLoader workers, persistent or made anew, count their own
``iter()`` calls here, so that they agree on the epoch without speaking to each other.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import time
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..common.shared_records import SharedRecords
from ..frameworks.torch_loader import in_worker, process_number, this_worker
from ..order.layout import Layout
from ..order.state import Position

MAX_WORKERS = 64
_FIELDS = [
    ("epoch", "i8"),
    ("position", "i8"),
    ("layout", "i8", 4),
    ("workers", "i8"),
    ("latest", "i8"),
    ("begun", "i8", 1 + MAX_WORKERS),
]
_LOOKED_EVERY = 0.001
_REFUSED = 1 << 40
# Longer than a worker takes to start, shorter than anybody's patience with one that has hung.
_LATE_FOR = 20.0


class LayoutCodec(NamedTuple):
    """How the layout of an order is put into shared memory: as JSON, by its `as_json`."""

    decode: Callable[[Any], Any]
    most_bytes: int


class SharedEpoch:
    """Where each ``iter()`` begins, in every process.

    Processes share the ``epoch`` and ``position`` to begin at; the ``layout`` of the order if a
    state brought one, as workers that stay were made before, or the size of its ``text``; the
    worker that began last, as the number of ``workers`` that it is one of and as the process,
    ``latest``; how many times each process has ``begun`` since that was set.

    Parameters
    ----------
    codec : LayoutCodec, optional
        How a layout that is more than four numbers is written.
    """

    def __init__(self, codec: LayoutCodec | None = None) -> None:
        self._codec = codec
        text = [] if codec is None else [("text", "u1", codec.most_bytes)]
        self._records = SharedRecords([*_FIELDS, *text]).share()
        self._process = os.getpid()

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._records.share()  # before anybody starts a process that is to have it, too

    def _shared(self) -> Any:
        """The numbers, shared with the workers of this process, and with no other process.

        A rank that was started with a pickled dataset, or forked, copies them first, and counts
        for itself.
        """
        if self._process != os.getpid() and not in_worker():
            self._records = self._records.copy()
            self._process = os.getpid()
        return self._records.of(0)

    def set(self, at: Position, layout: Any) -> None:
        """Let the next ``iter()`` of every worker begin here, with this layout or its own.

        A worker says so for itself alone: the others are set to the same place.
        """
        shared = self._shared()
        if in_worker():
            shared["workers"] = this_worker()[1]
            shared["begun"][process_number()] = 0
        else:
            for name in ("workers", "latest", "begun"):
                shared[name] = 0
        self._put(at, layout)

    def begin(self, process: int, workers: int) -> Position:
        """Where the ``iter()`` of worker w begins now, which is process w + 1.

        Raises
        ------
        ValueError
            If there are more than `MAX_WORKERS` workers.
        RuntimeError
            If these are not as many workers as there were before, and some of them have begun
            other epochs than the others.
        """
        at = self.peek(process)
        self._sign_in(process, workers)
        self._shared()["begun"][process] += 1
        return at

    def wait_for_late(self, seconds: float = _LATE_FOR) -> None:
        """Wait until no worker is about to begin an epoch that others have begun already.

        One that reads where to begin after that was set anew would begin the wrong epoch.
        """
        shared, until = self._shared(), time.monotonic() + seconds
        while not self._agree(int(shared["workers"])) and time.monotonic() < until:
            latest = int(shared["latest"])
            if latest not in {child.pid for child in multiprocessing.active_children()}:
                break  # the workers have ended, also those that never began
            time.sleep(_LOOKED_EVERY)

    def peek(self, process: int) -> Position:
        """Where the next ``iter()`` of a process will begin."""
        if process > MAX_WORKERS:
            raise ValueError(f"at most {MAX_WORKERS} workers a DataLoader are supported")
        shared = self._shared()
        begun = int(shared["begun"][process])
        epoch, position = int(shared["epoch"]), int(shared["position"])
        return Position(epoch + begun, 0 if begun else position)

    @property
    def layout(self) -> Any:
        """That of a state which was loaded; None if there was none."""
        shared = self._shared()
        numbers = shared["layout"].tolist()
        if self._codec is not None:
            text = shared["text"][: numbers[0]].tobytes()
            return self._codec.decode(json.loads(zlib.decompress(text))) if text else None
        return Layout(*numbers) if all(numbers) else None

    @property
    def ran_in_workers(self) -> bool:
        """Whether a worker has begun an epoch since it was last said where to begin."""
        return bool(self._shared()["begun"][1:].any())

    def _put(self, at: Position, layout: Any) -> None:
        if self._codec is not None:
            numbers = (self._put_text(layout, self._codec.most_bytes), 0, 0, 0)
        else:
            numbers = (0,) * 4 if layout is None else dataclasses.astuple(layout)
        shared = self._shared()
        shared["epoch"], shared["position"], shared["layout"] = at.epoch, at.position, numbers

    def _put_text(self, layout: Any, most_bytes: int) -> int:
        """Write a layout down; how many bytes that takes."""
        if layout is None:
            return 0
        text = zlib.compress(json.dumps(layout.as_json()).encode(), 9)
        if len(text) > most_bytes:
            raise ValueError(
                f"the state's weights were changed so often that they take {len(text)} bytes, and "
                f"at most {most_bytes} can be shared with workers: begin a new run"
            )
        self._shared()["text"][: len(text)] = np.frombuffer(text, np.uint8)
        return len(text)

    def _sign_in(self, process: int, workers: int) -> None:
        shared = self._shared()
        others = int(shared["workers"]) not in (0, workers)
        refused = (others and not self._agree(workers)) or (shared["begun"] == _REFUSED).any()
        shared["workers"] = workers
        shared["latest"] = os.getpid()
        if refused:
            shared["begun"][process] = _REFUSED  # and so the others of these workers are
            raise RuntimeError(
                f"{workers} workers cannot go on where more or fewer have iterated this dataset: "
                "they would begin different epochs. Call dataset.set_epoch(...) before another "
                "number of workers iterates, or use LanceDataLoader, which does so"
            )

    def _agree(self, workers: int) -> bool:
        """Whether so many workers have all begun equally often."""
        counts = self._shared()["begun"][1 : 1 + workers]
        return workers == 0 or bool((counts == counts[0]).all())
