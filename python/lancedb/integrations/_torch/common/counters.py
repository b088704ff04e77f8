# SPDX-License-Identifier: Apache-2.0
"""How much was read and where the seconds went, summed over all worker processes."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from .shared_memory import shared

COUNTS = ("rows", "cached_rows", "bytes", "cached_bytes", "skipped")
SECONDS = ("reading", "converting", "transforming")
FIELDS = (*COUNTS, *SECONDS, "waiting")


class Stats:
    """Running totals of one process, one row of a board that processes may share.

    Each worker writes to a row of its own, so that no lock crosses processes.
    """

    def __init__(self, board: torch.Tensor | None = None, row: int = 0):
        self._board = (
            torch.zeros(1, len(FIELDS), dtype=torch.float64, device="cpu")
            if board is None
            else board
        )
        self._totals = self._board[min(row, len(self._board) - 1)].numpy()
        self._lock = threading.Lock()

    def add(self, **amounts: float) -> None:
        """Add to the totals named in `FIELDS`; seconds for all but `COUNTS`."""
        with self._lock:
            for name, amount in amounts.items():
                self._totals[FIELDS.index(name)] += amount

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to one total."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(**{name: time.perf_counter() - started})

    def summary(self) -> dict[str, Any]:
        """Totals over every process that shares the board."""
        totals = dict(zip(FIELDS, self._board.sum(0).tolist(), strict=True))
        return {**totals, **{name: int(totals[name]) for name in COUNTS}}


class Ledger:
    """Whose the totals of a dataset are: what is added to them is of who began to iterate last."""

    def __init__(self) -> None:
        self._shares: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()
        self._since: Mapping[str, Any] = {}
        self._last: weakref.ref[Any] | None = None

    def turn_to(self, owner: Any, totals: Mapping[str, Any]) -> None:
        """Count for `owner` from these totals on."""
        last = self._last() if self._last is not None else None
        if last is not None:
            self._shares[last] = self.share_of(last, totals)
        self._since, self._last = totals, weakref.ref(owner)

    def share_of(self, owner: Any, totals: Mapping[str, Any]) -> dict[str, Any]:
        """What was counted for `owner`, up to these totals."""
        share = self._shares.get(owner) or dict.fromkeys(totals, 0)
        if self._last is None or self._last() is not owner:
            return dict(share)
        return {name: share[name] + totals[name] - self._since[name] for name in totals}


def summed(counted: list[Stats]) -> dict[str, Any]:
    """The totals of several boards."""
    summaries = [each.summary() for each in counted]
    return {name: sum(summary[name] for summary in summaries) for name in FIELDS}


def shared_board(processes: int) -> torch.Tensor:
    """A board of zeros in shared memory with a row for each process."""
    return shared(torch.zeros(processes, len(FIELDS), dtype=torch.float64, device="cpu"))
