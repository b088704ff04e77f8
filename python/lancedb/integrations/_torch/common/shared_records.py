# SPDX-License-Identifier: Apache-2.0
"""Numbers by name in memory that processes may share, in a record of its own for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .pickling import send_to_new_processes
from .shared_memory import shared

Fields = Sequence[tuple[Any, ...]]


class SharedRecords:
    """Records of zeros, as of a structured numpy array.

    Each process writes to one of them, so that no lock crosses processes. In a process that is
    started with them they are over the same memory if it is shared, and in any other a copy.

    Parameters
    ----------
    fields : sequence of tuple
        Name, type, and perhaps shape of each field.
    count : int
        How many records there are.

    Examples
    --------
    >>> records = SharedRecords([("rows", "i8"), ("seconds", "f8")], 2)
    >>> records.of(1)["rows"] += 3
    >>> records["rows"].tolist()
    [0, 3]
    """

    def __init__(self, fields: Fields, count: int = 1):
        self._fields = list(fields)
        self._count = count
        size = count * np.dtype(self._fields, align=True).itemsize
        self._memory = torch.zeros(size, dtype=torch.uint8, device="cpu")

    def __getstate__(self) -> tuple[Fields, int, bytes]:
        return self._fields, self._count, self._memory.numpy().tobytes().rstrip(b"\0")

    def __setstate__(self, state: tuple[Fields, int, bytes]) -> None:
        fields, count, written = state
        self.__init__(fields, count)
        self._memory.numpy()[: len(written)] = np.frombuffer(written, np.uint8)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, name: str) -> np.ndarray:
        """A field of all records."""
        return self._records[name]

    def of(self, process: int) -> Any:
        """The record of a process; that of the last one for those that have none."""
        return self._records[min(process, len(self) - 1)]

    @property
    def is_shared(self) -> bool:
        """Whether processes that these are sent to write to the same memory."""
        return self._memory.is_shared()

    def share(self) -> SharedRecords:
        """These, once their memory is shared."""
        self._memory = shared(self._memory)
        return self

    def copy(self, count: int | None = None) -> SharedRecords:
        """A shared copy, with more records if so many are wanted."""
        copy = SharedRecords(self._fields, max(len(self), count or 0)).share()
        copy._records[: len(self)] = self._records
        return copy

    @property
    def _records(self) -> np.ndarray:
        return self._memory.numpy().view(np.dtype(self._fields, align=True))


def _over(fields: Fields, count: int, memory: torch.Tensor) -> SharedRecords:
    records = SharedRecords(fields, count)
    records._memory = memory
    return records


send_to_new_processes(
    SharedRecords, lambda records: (_over, (records._fields, len(records), records._memory))
)
