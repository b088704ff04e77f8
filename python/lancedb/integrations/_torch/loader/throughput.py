# SPDX-License-Identifier: Apache-2.0
"""Meters of a loader: how fast batches are used, who waits, and which argument would help."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

# A hint is given on at least so many seconds of an epoch, and beyond these shares of waiting.
_SECONDS = 5.0
_WAITS_FOR_READER = 0.25
_WAITS_FOR_CONSUMER = 0.02


class Pace:
    """The consumer's side of some batches: rows, seconds waiting for them, seconds using them."""

    def __init__(self) -> None:
        self.rows = 0
        self.waiting = 0.0
        self.working = 0.0

    @property
    def seconds(self) -> float:
        """From the first batch asked for to the last one delivered."""
        return self.waiting + self.working

    @property
    def wait_share(self) -> float:
        """The share of the time in which the consumer waited."""
        return self.waiting / self.seconds if self.seconds else 0.0

    @property
    def rows_per_second(self) -> float:
        """Rows delivered in a second, waiting and working."""
        return self.rows / self.seconds if self.seconds else 0.0

    def add(self, rows: int, working: float, waiting: float) -> None:
        """Count a batch, the seconds before it was asked for, and those until it came."""
        self.rows += rows
        self.working += working
        self.waiting += waiting


class Stopwatch:
    """Times one iterator: what passes between two batches, and what passes until one comes.

    Parameters
    ----------
    *paces : Pace
        What every batch is added to.
    after_first : Pace, optional
        What every batch but the first is added to.
    """

    def __init__(self, *paces: Pace, after_first: Pace | None = None):
        self._paces = list(paces)
        self._after_first = after_first
        self._delivered_at: float | None = None
        self._asked = 0.0

    def ask(self) -> None:
        """The consumer asks for a batch."""
        self._asked = time.perf_counter()

    def deliver(self, rows: int) -> None:
        """The batch is there."""
        now = time.perf_counter()
        working = 0.0 if self._delivered_at is None else self._asked - self._delivered_at
        for pace in self._paces:
            pace.add(rows, working, now - self._asked)
        if self._delivered_at is None and self._after_first is not None:
            self._paces.append(self._after_first)
        self._delivered_at = now


class Meters:
    """What is measured of one iterator over an epoch.

    Parameters
    ----------
    spent : mapping
        What the dataset had counted when the iterator began.
    """

    def __init__(self, spent: Mapping[str, Any]):
        self.spent = spent
        self.pace = Pace()
        self.steady = Pace()  # without the first batch, for which all has to be started
        self._next_look = _SECONDS  # into the epoch

    def advice_is_due(self) -> bool:
        """Whether to look at who waits for whom: after a while, and ever more rarely."""
        if self.steady.seconds < self._next_look:
            return False
        self._next_look = 2 * self.steady.seconds
        return True


def hint(
    pace: Pace,
    seconds: Mapping[str, float],
    order: str,
    num_workers: int,
    transform_threads: int | None = None,
    cache_bytes: int | None = None,
) -> str | None:
    """One line on who waits for whom in an epoch, and the argument to change; None if all is well.

    Parameters
    ----------
    pace : Pace
        Of the epoch, or of what has passed of it.
    seconds : mapping
        Seconds spent ``reading``, ``converting`` and ``transforming``.
    order : str
        "none", "block" or "global" for an iterable dataset, "sampler" for a map-style one.
    num_workers : int
        The loader's.
    transform_threads : int, optional
        The dataset's, if it is iterable.
    cache_bytes : int, optional
        What ``cache=True`` would cache in memory, if that fits.

    Examples
    --------
    >>> pace = Pace()
    >>> pace.add(rows=1000, working=2.0, waiting=6.0)
    >>> seconds = {"reading": 1.0, "converting": 0.5, "transforming": 4.8}
    >>> hint(pace, seconds, "block", num_workers=4)
    'waited 75% of the time for batches, mostly for transforming: try num_workers=8'
    >>> hint(pace, seconds, "block", num_workers=0, transform_threads=0)
    'transforming takes 60% of the time: if it may run in threads, transform_threads=4, else \
num_workers=2'
    """
    if pace.seconds < _SECONDS:
        return None
    if pace.wait_share > _WAITS_FOR_READER:
        # In the thread that iterates it is part of what was waited for, and the rest is the reader.
        in_caller = transform_threads == 0 and num_workers == 0
        if in_caller and 2 * seconds["transforming"] > pace.waiting:
            share = min(1.0, seconds["transforming"] / pace.seconds)
            return f"transforming takes {share:.0%} of the time: {_FOR_TRANSFORMING}"
        slowest = max(seconds, key=lambda name: seconds[name])
        remedy = _for_reading(order, cache_bytes) if slowest == "reading" else "try {more}"
        more = f"num_workers={max(2, 2 * num_workers)}"
        share = f"waited {pace.wait_share:.0%} of the time for batches, mostly for {slowest}"
        return f"{share}: {remedy.format(more=more)}"
    if pace.wait_share < _WAITS_FOR_CONSUMER and num_workers > 1:
        busy = f"batches waited for the training step {1 - pace.wait_share:.0%} of the time"
        return f"{busy}: num_workers={num_workers // 2} would do"
    return None


_FOR_TRANSFORMING = "if it may run in threads, transform_threads=4, else num_workers=2"


def _for_reading(order: str, cache_bytes: int | None) -> str:
    """What helps most where most of the waiting is for reads."""
    if cache_bytes is None:
        return _FOR_READING[order]
    size = f"{cache_bytes / 1e6:,.0f} MB" if cache_bytes < 1e9 else f"{cache_bytes / 1e9:,.1f} GB"
    return f"try cache=True, which reads the {size} of these rows once and keeps them in memory"


_FOR_READING = {
    "none": "try a larger readahead, or fewer columns",
    "block": "try a larger readahead, or fewer columns",
    "global": "try shuffle=True, which reads rows in runs, or fewer columns",
    "sampler": "try LanceIterableTorchDataset, which reads ahead in large pieces, or {more}",
}
