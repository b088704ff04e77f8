# SPDX-License-Identifier: Apache-2.0
"""Layouts of a mixture's sources: together they hold what one table of all their rows holds."""

import pytest
from lancedb.integrations._torch.order.epoch_order import EpochOrder
from lancedb.integrations._torch.order.layout import auto_layout
from lancedb.integrations._torch.order.mixed_layout import SourceSize, mixed_layout
from lancedb.integrations._torch.order.mixed_order import MixedEpochOrder, SourceOrder
from lancedb.integrations._torch.order.mixture import Mixture
from lancedb.integrations._torch.order.read_schedule import schedule
from lancedb.integrations._torch.order.steps import Steps

BATCH, ROW_BYTES, READ_ROWS = 256, 524, 16_384


def mixture_of(tables, rows):
    names = [f"s{number}" for number in range(tables)]
    sizes = [SourceSize(rows, ROW_BYTES, "block")] * tables
    layout = mixed_layout(names, sizes, [(0, dict.fromkeys(names, 1.0))], BATCH)
    mixture = Mixture((rows,) * tables, layout.changes, layout.shards, tables * rows)
    sources = tuple(
        SourceOrder(name, rows, "block", of) for name, of in zip(names, layout.layouts, strict=True)
    )
    steps = Steps(tables * rows, BATCH)
    return MixedEpochOrder(mixture, sources, 0, 0, steps).windows(), steps


def rows_held(plan, steps, reads=1):
    """The rows that the first step waits for, and the most that are read and not delivered."""
    spans = [steps.slice_of(step, 0) for step in range(steps.num_steps)]
    first, held, most = None, 0, 0
    for group in schedule(plan, spans, READ_ROWS, reads):
        opened = sum(window.size for read in group.reads for window in read)
        first = opened if first is None else first
        held += opened
        most = max(most, held)
        held -= sum(step.rows for step in group.steps)
    return first, most


@pytest.mark.few(1)
@pytest.mark.parametrize(("tables", "rows"), [(4, 50_000), (20, 10_000), (20, 20_000), (50, 8000)])
def test_many_tables_hold_as_many_rows_as_one_of_all_their_rows(tables, rows):
    all_rows = tables * rows
    one = EpochOrder(all_rows, **vars(auto_layout(all_rows, ROW_BYTES, BATCH, "block")))
    _, most_of_one = rows_held(one, Steps(all_rows, BATCH))
    first, most = rows_held(*mixture_of(tables, rows), reads=2)
    assert most <= 1.25 * most_of_one
    assert first <= all_rows / 4
