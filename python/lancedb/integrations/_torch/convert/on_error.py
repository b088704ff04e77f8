# SPDX-License-Identifier: Apache-2.0
"""Rows that a transform fails on: found one by one, left out, counted and listed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..arrow import take
from ..common.checks import one_of
from ..common.shared_records import SharedRecords

_log = logging.getLogger("lancedb.integrations.torch")

OnError = str | Callable[[Exception, int], Any]

LISTED = 1000
HOPELESS = 1000
_LIST = [("count", "i8"), ("offsets", "i8", LISTED)]


class Partial(NamedTuple):
    """A batch without the rows that could not be made, and the error of each, by its place."""

    batch: Any
    bad: dict[int, Exception]


def check_policy(on_error: Any) -> OnError:
    """`on_error` if it is one; ValueError otherwise."""
    if callable(on_error):
        return on_error
    or_else = ", or a callable that takes the exception and the row's offset"
    return one_of("on_error", on_error, ("raise", "skip"), or_else=or_else)


def make_what_can_be(
    batch: pa.RecordBatch,
    make: Callable[[pa.RecordBatch], Any],
    make_empty: Callable[[pa.RecordBatch], Any],
    first: Callable[[], Any] | None = None,
) -> Any:
    """What `make` makes of the batch, or a `Partial` of the rows with which it does not fail.

    If that is none, the batch is what `make` makes of no rows, or `make_empty` if it fails. `make`
    may change what it is given: each attempt has a copy of the rows. `first` is what to try first
    in its place, where some of the work on all rows was done before.

    Raises
    ------
    Exception
        What `make` raised, if it fails on rows together and on none alone.
    """
    everything = np.arange(batch.num_rows)
    try:
        return make(take.take(batch, everything)) if first is None else first()
    except Exception:
        bad = _failing_rows(batch, make)
        if not bad:
            raise
    good = np.setdiff1d(everything, list(bad))
    if len(good):
        return Partial(make(take.take(batch, good)), bad)
    try:
        return Partial(make(batch.slice(0, 0)), bad)
    except Exception:  # as torch.stack of nothing
        return Partial(make_empty(batch.slice(0, 0)), bad)


class Trial:
    """Whether a transform has ever worked in this process. One that never does is wrong itself."""

    def __init__(self) -> None:
        self._in_vain = 0
        self._worked = False

    def note(self, made: Any, rows: int) -> None:
        """Raise the error of the first row if a transform has failed on `HOPELESS` and on all."""
        bad = made.bad if isinstance(made, Partial) else {}
        self._worked |= len(bad) < rows
        self._in_vain += len(bad)
        if not self._worked and self._in_vain >= HOPELESS:
            raise next(iter(bad.values()))


def _failing_rows(
    batch: pa.RecordBatch, make: Callable[[pa.RecordBatch], Any]
) -> dict[int, Exception]:
    """The rows that fail alone and why, found by halving."""
    bad: dict[int, Exception] = {}
    parts = [np.arange(batch.num_rows)]
    while parts:
        part = parts.pop()
        try:
            make(take.take(batch, part))
        except Exception as error:
            if len(part) == 1:
                bad[int(part[0])] = error
            elif len(part):
                parts += np.array_split(part, 2)
    return dict(sorted(bad.items()))


class SkippedRows:
    """Offsets of the rows that were left out, each once, in memory that processes may share.

    Each process lists its first `LISTED`.
    """

    def __init__(self) -> None:
        self._lists = SharedRecords(_LIST)

    def __getstate__(self) -> dict[str, Any]:
        # Workers that share the lists add to them; a copy anywhere else begins anew.
        return {"_lists": self._lists if self._lists.is_shared else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        lists = state["_lists"]
        self._lists = SharedRecords(_LIST) if lists is None else lists

    def share(self, processes: int) -> None:
        """From now on list for so many processes, more than before; what is listed stays."""
        self._lists = self._lists.copy(processes)

    def add(self, offset: int, process: int) -> None:
        """List a row, unless this process has listed it already or its list is full."""
        mine = self._lists.of(process)
        count = int(mine["count"])
        if count < LISTED and offset not in mine["offsets"][:count]:
            mine["offsets"][count] = offset
            mine["count"] = count + 1

    def report(
        self, partial: Partial, offsets: np.ndarray, on_error: OnError, process: int
    ) -> None:
        """List the rows that a batch is without, and say why to `on_error` or to the log."""
        for place, error in partial.bad.items():
            offset = int(offsets[place])
            self.add(offset, process)
            if callable(on_error):
                on_error(error, offset)
            else:
                _log.warning("row %d is left out: %s: %s", offset, type(error).__name__, error)

    def offsets(self) -> list[int]:
        """The offsets of all processes, ascending."""
        lists = zip(self._lists["offsets"], self._lists["count"], strict=True)
        return sorted(set().union(*(offsets[:count].tolist() for offsets, count in lists)))
