# SPDX-License-Identifier: Apache-2.0
"""Very many rows, ranks, workers, fragments and columns."""

import itertools
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from counted import Counted
from lancedb.integrations._torch.order.epoch_order import EpochOrder
from lancedb.integrations._torch.order.layout import auto_layout
from lancedb.integrations._torch.order.steps import Steps
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)

ROWS = 10**12 + 7
RANKS, WORKERS, BATCH = 1024, 8, 64
SHUFFLES = pytest.mark.parametrize("shuffle", ["none", "block", "global"])


def plan_of(shuffle):
    layout = auto_layout(ROWS, 524, RANKS * BATCH, shuffle)
    return EpochOrder(ROWS, seed=1, epoch=2, shuffle=shuffle, **vars(layout))


def some_steps(steps, count=24):
    """Steps from the first to the last, some of them neighbours."""
    spread = np.linspace(0, steps.num_steps - 2, count // 2).astype(np.int64)
    return np.unique([*spread, *(spread + 1)]).tolist()


# -- 10^12 rows on 1,024 ranks with 8 workers each -----------------------------------------------


@SHUFFLES
def test_no_row_comes_twice_over_ranks_workers_and_steps(shuffle):
    plan, steps = plan_of(shuffle), Steps(ROWS, BATCH, RANKS)
    ranks = np.linspace(0, RANKS - 1, 16).astype(int).tolist()
    slices = [steps.slice_of(step, rank) for step in some_steps(steps) for rank in ranks]
    rows = np.concatenate([plan.rows_at(np.arange(*span)) for span in slices])
    assert len(rows) == len(slices) * BATCH
    assert len(np.unique(rows)) == len(rows)
    assert rows.min() >= 0
    assert rows.max() < ROWS
    if shuffle != "none":
        # Rows of neighbouring steps come from all over the table.
        assert np.bincount(rows * 16 // ROWS, minlength=16).min() > len(rows) / 16 * 0.6


@pytest.mark.parametrize("drop_last", [True, False])
def test_every_rank_and_worker_makes_its_share_of_the_steps(drop_last):
    steps = Steps(ROWS, BATCH, RANKS, drop_last)
    shares = [range(worker, steps.num_steps, WORKERS) for worker in range(WORKERS)]
    assert sum(map(len, shares)) == steps.num_steps
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for step in [*some_steps(steps), steps.num_steps - 1]:
        assert sum(step in share for share in shares) == 1
        begin, end = steps.span_of(step)
        edges = [steps.slice_of(step, rank) for rank in range(RANKS)]
        assert (edges[0][0], edges[-1][1]) == (begin, end)
        assert all(one[1] == other[0] for one, other in itertools.pairwise(edges))
        sizes = [stop - start for start, stop in edges]
        assert min(sizes) > 0
        assert max(sizes) - min(sizes) <= 1
    left_out = ROWS - steps.span_of(steps.num_steps - 1)[1]
    assert 0 <= left_out < (RANKS * BATCH if drop_last else 1)


@SHUFFLES
def test_a_worker_reads_no_row_of_another(shuffle):
    plan, steps = plan_of(shuffle), Steps(ROWS, BATCH, RANKS)
    rows = {}
    for rank, worker in [(0, 0), (0, 1), (511, 3), (512, 3), (1023, 7)]:
        mine = range(worker, steps.num_steps, WORKERS)[1000:1040]
        spans = [steps.slice_of(step, rank) for step in mine]
        rows[rank, worker] = np.concatenate([plan.rows_at(np.arange(*span)) for span in spans])
    together = np.concatenate(list(rows.values()))
    assert len(np.unique(together)) == len(together)


@SHUFFLES
def test_planning_a_batch_costs_as_much_as_on_a_small_table(shuffle):
    found = plan_of(shuffle)
    plan = Counted(**{name: getattr(found, name) for name in EpochOrder.__dataclass_fields__})
    steps = Steps(ROWS, BATCH, RANKS)
    Counted.asked = 0
    tracemalloc.start()
    step = range(5, steps.num_steps, WORKERS)[10**6]
    rows = plan.rows_at(np.arange(*steps.slice_of(step, 700)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == BATCH
    # Counted and not timed: the windows that the batch's rows stand in, and nothing besides.
    assert Counted.asked <= BATCH * 1.5 * plan.window_rows
    assert peak < 20 << 20


# -- thousands of fragments, thousands of columns ------------------------------------------------

THOUSANDS = pytest.mark.soak


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    import lancedb

    return lancedb.connect(tmp_path_factory.mktemp("scale") / "db")


def scattered_over(home, fragments):
    """A table of fragments of one row each."""
    batches = [pa.record_batch({"id": [number]}) for number in range(fragments)]
    table = home.create_table("scattered", schema=batches[0].schema, mode="overwrite")
    for start in range(0, fragments, 1000):
        part = pa.Table.from_batches(batches[start : start + 1000])
        table.add(part, write_parallelism=1000)
    assert table.stats()["fragment_stats"]["num_fragments"] == fragments
    return table


@pytest.mark.parametrize("fragments", [500, pytest.param(10_000, marks=THOUSANDS)])
def test_every_row_of_very_many_fragments_is_read_by_either_dataset(home, fragments):
    scattered = scattered_over(home, fragments)
    stored = scattered.to_arrow()["id"].to_numpy()
    mapped = LanceTorchDataset(scattered, format="torch")
    places = [0, fragments - 1, *range(1, fragments, 97)]
    found = mapped.__getitems__(places).columns["id"].tolist()
    assert found == stored[places].tolist()
    options = {"format": "torch", "batch_size": 500}
    for shuffle in (False, True):
        dataset = LanceIterableTorchDataset(scattered, shuffle=shuffle, **options)
        rows = [row for batch in LanceDataLoader(dataset) for row in batch["id"].tolist()]
        assert sorted(rows) == list(range(fragments))
        assert (rows == stored.tolist()) == (not shuffle)


@pytest.mark.parametrize("count", [200, pytest.param(5_000, marks=THOUSANDS)])
def test_very_many_columns_are_read_by_either_dataset(home, count):
    columns = {f"c{number}": pa.array([number, number + 1]) for number in range(count)}
    wide = home.create_table("wide", pa.table(columns), mode="overwrite")
    some = [f"c{number}" for number in range(0, count, 50)]
    mapped = LanceTorchDataset(wide, format="torch")
    batch = mapped.__getitems__([1, 0]).columns
    assert {name: values.tolist() for name, values in batch.items()} == {
        f"c{number}": [number + 1, number] for number in range(count)
    }
    assert list(LanceTorchDataset(wide, columns=some)[1][0]) == some
    dataset = LanceIterableTorchDataset(wide, format="torch", batch_size=2)
    (columns,) = LanceDataLoader(dataset)
    assert len(columns) == count
    assert columns[f"c{count - 1}"].tolist() == [count - 1, count]
