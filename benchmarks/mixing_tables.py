# SPDX-License-Identifier: Apache-2.0
"""The four tables that are mixed, and what a batch of them has to be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import tables
import torch
from peers import Source
from workloads import WORKLOADS, Workload, labels_of

WEIGHTS = (0.5, 0.25, 0.15, 0.1)
STRIDE = 1 << 24  # between the ids of one table and those of the next
BATCH = 256


@dataclass(frozen=True)
class Part(Source):
    """One of the four tables, or all of them in one; an id says which table its row is of."""

    numbers: tuple[int, ...] = (0,)

    @property
    def workload(self) -> Workload:
        return replace(WORKLOADS[self.kind], make=partial(rows_of_parts, self.numbers))

    @property
    def name(self) -> str:
        return f"mixture_{self.rows}_of_{'_'.join(map(str, self.numbers))}"


def rows_of_parts(numbers: tuple[int, ...], rows: int) -> Iterator[pa.RecordBatch]:
    """id, label, vec float32[128], sorted by label within each table."""
    each = rows // len(numbers)
    for number in numbers:
        for batch in tables.embeddings(each):
            ids = batch["id"].to_numpy() + number * STRIDE
            yield pa.record_batch({"id": ids, "label": batch["label"], "vec": batch["vec"]})


def problem_of(batch: dict[str, torch.Tensor], rows: int) -> str | None:
    """What is not as asked for in a batch of tables of so many rows each."""
    shapes = {name: tuple(column.shape) for name, column in batch.items()}
    if shapes != {"id": (BATCH,), "label": (BATCH,), "vec": (BATCH, 128)}:
        return f"columns {shapes}"
    if batch["vec"].dtype != torch.float32:
        return f"vectors of {batch['vec'].dtype}"
    wanted = labels_of(batch["id"].numpy() % STRIDE, rows)
    return None if (batch["label"].numpy() == wanted).all() else "labels of other rows"
