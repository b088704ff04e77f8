# SPDX-License-Identifier: Apache-2.0
"""The order that a dataset asked for, and the epoch order that follows from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..common.checks import one_of, whole_number
from .epoch_order import Draws, EpochOrder
from .layout import Layout, auto_layout

_SHUFFLES = {False: "none", True: "block", "block": "block", "global": "global"}
READ_BYTES = 8 << 20
_READ_ROWS = 16_384
_JOB_BYTES = 4 << 20
_JOB_ROWS = 8192


@dataclass(frozen=True)
class ShuffleSpec:
    """An order of rows over all epochs.

    Parameters
    ----------
    rows : int
        Rows of the selection.
    row_bytes : int
        Arrow bytes of an average row.
    shuffle : bool or str
        As the user gave it; normalised to "none", "block" or "global".
    seed : int
        Decides the order together with the epoch.
    asked : mapping
        ``block_rows``, ``window_rows`` and ``lanes`` as the user gave them.
    adopted : Layout, optional
        The layout of a loaded state, which then wins.
    draws : Draws, optional
        Which rows are drawn in proportion to weights. `rows` then is how many in an epoch.
    drawn_by : mapping
        The argument that decides it, for states.
    """

    rows: int
    row_bytes: int
    shuffle: Any
    seed: int
    asked: Mapping[str, Any] = field(default_factory=dict)
    adopted: Layout | None = None
    draws: Draws | None = field(default=None, compare=False, repr=False)
    drawn_by: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shuffle", _shuffle_name(self.shuffle))
        seed = whole_number("seed", self.seed, error=TypeError)  # numpy's is not JSON
        object.__setattr__(self, "seed", seed)
        self.layout(global_batch=1)  # raises for sizes that cannot be
        for name, value in self.asked.items():
            if value != "auto" and self.shuffle != "block":
                raise ValueError(
                    f"{name}={value!r} is for shuffle=True, and shuffle={self.shuffle!r} has no "
                    "blocks, windows or lanes: leave it out"
                )

    @property
    def is_automatic(self) -> bool:
        """Whether rows are shuffled, and nothing was said of how."""
        return self.shuffle != "none" and set(self.asked.values()) <= {"auto"}

    @property
    def read_rows(self) -> int:
        """Rows of one call to the reader: large enough to be fast, at most about 8 MB."""
        return read_rows(self.row_bytes)[0]

    @property
    def job_rows(self) -> int:
        """Rows that are put together at once: at most about 4 MB."""
        return read_rows(self.row_bytes)[1]

    def layout(self, global_batch: int) -> Layout:
        """Blocks, windows and lanes for steps of `global_batch` rows over all ranks."""
        if self.adopted is not None:
            return self.adopted
        return auto_layout(self.rows, self.row_bytes, global_batch, self.shuffle, **self.asked)

    def plan(self, epoch: int, global_batch: int) -> EpochOrder:
        """The order of one epoch."""
        return EpochOrder(
            rows=self.rows,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            draws=self.draws,
            **dataclasses.asdict(self.layout(global_batch)),
        )

    def with_layout(self, layout: Layout | None) -> ShuffleSpec:
        """The same order with the layout of a state, or with its own."""
        return dataclasses.replace(self, adopted=layout)

    def describe(self, global_batch: int) -> dict[str, Any]:
        """Everything that the order depends on but the data, for a state."""
        return {
            "rows": self.rows,
            "seed": self.seed,
            "shuffle": self.shuffle,
            **self.drawn_by,
            **dataclasses.asdict(self.layout(global_batch)),
        }

    def __repr__(self) -> str:
        drawn = "".join(f", {name}={value!r}" for name, value in self.drawn_by.items())
        drawn += f", epoch_rows={self.rows}" if drawn else ""
        return f"shuffle={self.shuffle!r}, seed={self.seed}{drawn}"


def read_rows(row_bytes: int) -> tuple[int, int]:
    """Rows of one call to the reader, and rows that are put together at once."""
    read = max(1, min(_READ_ROWS, READ_BYTES // row_bytes))
    return read, max(1, min(_JOB_ROWS, _JOB_BYTES // row_bytes))


def _shuffle_name(shuffle: Any) -> str:
    if shuffle is None or (isinstance(shuffle, str) and shuffle == "none"):
        return "none"
    return _SHUFFLES[one_of("shuffle", shuffle, tuple(_SHUFFLES))]
