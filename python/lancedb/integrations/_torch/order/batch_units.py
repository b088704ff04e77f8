# SPDX-License-Identifier: Apache-2.0
"""Units of batches: documents of one group, in whole batches or in rows to be packed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np


class Units(NamedTuple):
    """The documents of a group in the order in which they are delivered.

    Parameters
    ----------
    places : numpy.ndarray of int64
        Where in the group each document is; of one that is split, each of its pieces.
    edges : numpy.ndarray of int64
        Where in `places` each unit starts, and the last one ends.
    starts, lengths : numpy.ndarray of int64, optional
        Which token of its document each piece begins with, and how many the document has in all;
        None where nothing is packed.
    """

    places: np.ndarray
    edges: np.ndarray
    starts: np.ndarray | None = None
    lengths: np.ndarray | None = None

    @property
    def number(self) -> int:
        """How many units there are."""
        return len(self.edges) - 1


class DocumentShards(Protocol):
    """One epoch's rows, which are documents, in canonical shards."""

    @property
    def count(self) -> int:
        """How many shards there are."""
        ...

    @property
    def sizes(self) -> np.ndarray:
        """How many rows each shard has."""
        ...

    def rows_at(self, shard: int | np.ndarray, indices: np.ndarray) -> np.ndarray:
        """What rows are known by, at some places of a shard."""
        ...

    def positions(self, shard: int | np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Where they stand in the epoch."""
        ...

    def by_source(self, rows: np.ndarray) -> Iterator[tuple[str, Any, np.ndarray]]:
        """The name of each source, which of some rows are its, and their place in it."""
        ...
