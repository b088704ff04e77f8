# SPDX-License-Identifier: Apache-2.0
"""The rows of a mixture, by their order or by the batches that are planned of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ..arrow.large_rows import with_column
from ..order.batch_sequence import BatchSequence
from ..order.mixed_layout import MixedLayout, merged
from ..order.mixed_order import MixedEpochOrder, MixedRows
from ..order.mixed_shards import MixedShards
from ..order.read_schedule import Span
from ..order.window_slices import WindowSlices

MixedPlan = MixedEpochOrder | BatchSequence


def rows_order_of(plan: MixedPlan) -> MixedEpochOrder:
    """The order of rows, of which planned batches are made."""
    return shards_of(plan).order if isinstance(plan, BatchSequence) else plan


def shards_of(sequence: BatchSequence) -> MixedShards:
    """What planned batches of a mixture are made of."""
    assert isinstance(sequence.shards, MixedShards)
    return sequence.shards


def rows_of_shares(plan: MixedPlan, shares: list[Span]) -> MixedRows:
    """The rows of some shares of steps, in sequence."""
    if isinstance(plan, BatchSequence):
        return shards_of(plan).at(plan.rows_at(_all_of(shares)))
    return plan.rows_of(shares)


def starts_in(plan: MixedPlan, shares: list[Span]) -> np.ndarray | None:
    """Which token of its row each document of some shares begins with; None where all are whole."""
    return plan.starts_at(_all_of(shares)) if isinstance(plan, BatchSequence) else None


def labelled_documents(
    column: str | None, sequence: BatchSequence, batch: pa.RecordBatch, pieces: WindowSlices
) -> pa.RecordBatch:
    """A batch of documents with a column of the number of each one's source, if it has a name."""
    if column is None:
        return batch
    return with_column(batch, column, shards_of(sequence).at(sequence.rows_of(pieces)).sources)


def merged_between_epochs(
    loaded: MixedLayout, own: MixedLayout, row: int, position: int, allow: set[str]
) -> MixedLayout:
    """As `merged`, in an epoch that begins at a row and of which so many batches were delivered.

    Batches take documents out of their order, and so there is no row from which on those of an
    epoch under way could have other weights.

    Raises
    ------
    ValueError
        As `merged`, and if the weights differ within an epoch.
    """
    made = merged(loaded, own, row, allow)
    if position and made.weights_as_json() != loaded.weights_as_json():
        raise ValueError(
            "weights may change where an epoch begins, as batching plans each epoch as a whole: "
            "load a state that was taken at the end of one, or keep the weights until then"
        )
    return made


def _all_of(shares: list[Span]) -> np.ndarray:
    return np.concatenate([np.arange(*share) for share in shares])
