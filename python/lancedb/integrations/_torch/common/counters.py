# SPDX-License-Identifier: Apache-2.0
"""Counters of rows, bytes and seconds, summed over all worker processes."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .per_process import PerProcess
from .shared_records import SharedRecords

COUNTS = ("rows", "cached_rows", "bytes", "cached_bytes", "skipped")
SECONDS = ("reading", "converting", "transforming")
FIELDS = (*COUNTS, *SECONDS, "waiting")
_RECORD = [*((name, "i8") for name in COUNTS), *((name, "f8") for name in (*SECONDS, "waiting"))]


class Stats:
    """Running totals of one process, in one of the records that processes may share."""

    def __init__(self, records: SharedRecords | None = None, process: int = 0):
        self._records = SharedRecords(_RECORD) if records is None else records
        self._totals = self._records.of(process)
        self._lock = threading.Lock()

    def add(self, **amounts: float) -> None:
        """Add to the totals named in `FIELDS`; seconds for all but `COUNTS`."""
        with self._lock:
            for name, amount in amounts.items():
                self._totals[name] += amount

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to one total."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(**{name: time.perf_counter() - started})

    def summary(self) -> dict[str, Any]:
        """Totals over every process that shares the records."""
        return {name: self._records[name].sum().item() for name in FIELDS}


class Counts:
    """What was counted of a dataset by this process, and by the workers of its loaders.

    A copy in another process counts for itself, unless it is one of those workers.
    """

    def __init__(self) -> None:
        self.records: SharedRecords | None = None
        self._begin()

    def _begin(self) -> None:
        self._here: PerProcess[Stats] = PerProcess()
        self._earlier: list[Stats] = []
        self._ledger = Ledger()

    def __getstate__(self) -> dict[str, Any]:
        return {"records": self.records}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def here(self, process: int) -> Stats:
        """The totals that this process adds to, as one of several."""
        return self._here.get(lambda: Stats(self.records, process))

    def share(self, processes: int) -> bool:
        """Count in shared memory from now on, if there is none yet for so many processes."""
        if self.records is not None and len(self.records) >= processes:
            return False
        # Workers of another loader may still add to the records there were.
        self._earlier.append(self._known())
        self.records = SharedRecords(_RECORD, processes).share()
        self._here = PerProcess()
        return True

    def totals(self) -> dict[str, Any]:
        """What was counted in all."""
        summaries = [each.summary() for each in (*self._earlier, self._known())]
        return {name: sum(summary[name] for summary in summaries) for name in FIELDS}

    def _known(self) -> Stats:
        return self._here.known or Stats(self.records)

    def begin_for(self, owner: Any) -> None:
        """Count for `owner` from now on."""
        self._ledger.begin_for(owner, self.totals())

    def of(self, owner: Any) -> dict[str, Any]:
        """What was counted for `owner`."""
        return self._ledger.share_of(owner, self.totals())


class Ledger:
    """Shares of a dataset's totals: what is added is of the owner that began last."""

    def __init__(self) -> None:
        self._shares: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()
        self._since: Mapping[str, Any] = {}
        self._last: weakref.ref[Any] | None = None

    def begin_for(self, owner: Any, totals: Mapping[str, Any]) -> None:
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
